"""Synchronous SQLAlchemy with `def` endpoints, which FastAPI runs in its thread pool."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy.orm import Session, sessionmaker

from peers.places import Place
from peers.sync_routes import add_routes, open_engine


def make_app(place: Place) -> FastAPI:
    engine, lifespan = open_engine(place)
    session_local = sessionmaker(engine, expire_on_commit=False)

    def get_db() -> Iterator[Session]:
        with session_local() as session:
            yield session

    app = FastAPI(lifespan=lifespan)
    app.state.engines = lambda: [engine]
    add_routes(app, Annotated[Session, Depends(get_db)])
    return app
