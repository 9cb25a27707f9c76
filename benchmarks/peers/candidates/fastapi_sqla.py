"""fastapi-sqla: configured by the environment, with a middleware that commits."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import fastapi_sqla
from fastapi import FastAPI
from fastapi_sqla import async_sqla
from sqlalchemy import event

from peers.engines import engine_options
from peers.places import Place
from peers.routes import add_routes


def make_app(place: Place) -> FastAPI:
    """Return the app: one at a time in a process, since the environment is its configuration."""
    for name in [name for name in os.environ if name.startswith("sqlalchemy_")]:
        del os.environ[name]  # of the app before
    os.environ["sqlalchemy_url"] = place.url  # noqa: SIM112 - its documentation writes it so
    options = engine_options(place)
    listeners = options.pop("pool_events", [])
    for name, value in options.items():
        os.environ[f"sqlalchemy_{name}"] = f"{value:.0f}"

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await fastapi_sqla.startup()
        engine = async_sqla._async_session_factories["default"].kw["bind"]  # noqa: SLF001
        app.state.engines = lambda: [engine]
        for listener, name in listeners:
            event.listen(engine.sync_engine, name, listener)
        await engine.dispose()  # so that no connection is without its pragmas
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)
    fastapi_sqla.setup_middlewares(app)
    add_routes(app, fastapi_sqla.AsyncSession)
    return app
