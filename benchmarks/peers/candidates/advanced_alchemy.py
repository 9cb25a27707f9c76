"""advanced-alchemy's extension for FastAPI, which commits after the response, by its status."""

from typing import Annotated

from advanced_alchemy.extensions.fastapi import (
    AdvancedAlchemy,
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
)
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from peers.engines import make_engine
from peers.places import Place
from peers.routes import add_routes


def make_app(place: Place) -> FastAPI:
    session_config = AsyncSessionConfig(expire_on_commit=False)
    if place.tuned:
        config = SQLAlchemyAsyncConfig(
            engine_instance=make_engine(place),
            session_config=session_config,
            commit_mode="autocommit",
        )
    else:
        config = SQLAlchemyAsyncConfig(
            connection_string=place.url, session_config=session_config, commit_mode="autocommit"
        )
    app = FastAPI()
    alchemy = AdvancedAlchemy(config=config, app=app)
    app.state.engines = lambda: [alchemy.get_async_engine()]
    add_routes(app, Annotated[AsyncSession, Depends(alchemy.provide_session())])
    return app
