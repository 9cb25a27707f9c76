"""FastSQLA: its lifespan makes the engine, its Session commits before the response is sent."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from fastsqla import Session, new_lifespan

from peers.engines import engine_options
from peers.places import Place
from peers.routes import add_routes

# It writes two lines of its log for each request, which structlog prints where nobody configures
# it. In production somebody does.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def make_app(place: Place) -> FastAPI:
    """Return the app: one at a time in a process, since FastSQLA keeps its engine in a module."""
    fastsqla_lifespan = new_lifespan(place.url, **engine_options(place))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with fastsqla_lifespan(app) as state:
            app.state.engines = lambda: [state["fastsqla_engine"]]
            yield state

    app = FastAPI(lifespan=lifespan)
    add_routes(app, Session)
    return app
