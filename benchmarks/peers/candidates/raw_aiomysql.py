"""aiomysql without SQLAlchemy."""

import aiomysql
from fastapi import FastAPI

from peers.candidates.raw_mysql import app_on
from peers.places import Place


def make_app(place: Place) -> FastAPI:
    return app_on(place, aiomysql)
