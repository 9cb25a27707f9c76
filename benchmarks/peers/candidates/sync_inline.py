"""Synchronous SQLAlchemy on the event loop, which waits meanwhile.

Nobody should serve like this: one slow statement stops every request. On a file it is less than
what SQLAlchemy can cost otherwise, and so bounds the ratios.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy.orm import Session, sessionmaker

from peers.places import Place
from peers.sync_routes import add_routes, open_engine


def make_app(place: Place) -> FastAPI:
    engine, lifespan = open_engine(place)
    session_local = sessionmaker(engine, expire_on_commit=False)

    async def get_db() -> AsyncIterator[Session]:
        with session_local() as session:
            yield session

    app = FastAPI(lifespan=lifespan)
    app.state.engines = lambda: [engine]
    add_routes(app, Annotated[Session, Depends(get_db)], inline=True)
    return app
