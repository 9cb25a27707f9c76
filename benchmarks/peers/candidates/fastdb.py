"""fastdb as its documentation has it: ReadSessionDep under GET, SessionDep to write."""

from typing import Any

from fastapi import FastAPI

from fastdb import (
    Database,
    PoolOptions,
    ReadSessionDep,
    SessionDep,
    Timeouts,
    install_error_handlers,
)
from peers.places import Place
from peers.routes import add_routes


def make_app(place: Place, read_dep: Any = ReadSessionDep) -> FastAPI:
    db = _database(place)
    app = FastAPI(lifespan=db.lifespan)
    install_error_handlers(app)
    app.state.engines = lambda: [db.engine, db.read_engine]
    # On SQLite no update is lost without a lock; on servers it is what the documentation tells.
    add_routes(app, SessionDep, read_dep, locks=place.database != "sqlite")
    return app


def _database(place: Place) -> Database:
    if not place.tuned:
        return Database(place.url)
    return Database(
        place.url,
        pool=PoolOptions(size=place.pool_size, max_overflow=place.max_overflow),
        timeouts=Timeouts(pool=place.pool_timeout),
    )
