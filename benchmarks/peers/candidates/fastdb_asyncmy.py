"""fastdb on asyncmy instead of aiomysql."""

from dataclasses import replace

from fastapi import FastAPI
from sqlalchemy.engine import make_url

from peers.candidates import fastdb
from peers.places import Place


def make_app(place: Place) -> FastAPI:
    url = make_url(place.url).set(drivername="mysql+asyncmy")
    return fastdb.make_app(replace(place, url=url.render_as_string(hide_password=False)))
