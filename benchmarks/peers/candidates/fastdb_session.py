"""fastdb with SessionDep for everything, reads as well."""

from fastapi import FastAPI

from fastdb import SessionDep
from peers.candidates import fastdb
from peers.places import Place


def make_app(place: Place) -> FastAPI:
    return fastdb.make_app(place, read_dep=SessionDep)
