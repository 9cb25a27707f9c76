"""fastdb without its guards and time limits: only to measure what they cost.

What has no switch, as nobody should turn it off, is taken out of this process.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from fastapi import FastAPI

from fastdb import Database, PoolOptions, ReadSessionDep, SessionDep, Timeouts
from peers.places import Place
from peers.routes import add_routes

_NOTHING = nullcontext()
_ONE_TASK = "fastdb.session.one_task.OneTask.__call__"
_TAKEN_OUT = (
    "fastdb.engines.make.renew_stale_plans",
    "fastdb.engines.sets.refuse_failed_commits",
)


def make_app(place: Place) -> FastAPI:
    db = Database(
        place.url,
        pool=PoolOptions(warn_after=None),
        timeouts=Timeouts(statement=None, idle_in_transaction=None),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        patch(_ONE_TASK, _come_in).start()
        for name in _TAKEN_OUT:
            patch(name, _do_nothing).start()
        async with db.lifespan(app):
            for engine in app.state.engines():
                engine.sync_engine.pool.holders = None
            yield

    app = FastAPI(lifespan=lifespan)
    app.state.engines = lambda: [db.engine, db.read_engine]
    add_routes(app, SessionDep, ReadSessionDep, locks=place.database != "sqlite")
    return app


def _come_in(_one_task: Any, _call: str) -> Any:
    return _NOTHING


def _do_nothing(*_: Any, **__: Any) -> None: ...
