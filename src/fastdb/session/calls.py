"""Calls of an `AsyncSession` that are one call of its synchronous session, in quicker greenlets.

Not all of them: `execute` and what is made of it would need SQLAlchemy's own care for results that
are still open, which is private. And the calls that begin a block, which one task at a time leaves.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from fastdb.greenlets import in_greenlet
from fastdb.session.transactions import UnitTransaction

_NAMES = ("flush", "get", "get_one", "refresh", "scalar")


def quick_calls(session_class: type[AsyncSession]) -> dict[str, Callable[..., Any]]:
    """Return methods to put before those of `session_class`, but for those that it overrides."""
    calls = {name: _call(name) for name in _NAMES} | {
        "run_sync": _run_sync,
        "begin": _begin,
        "begin_nested": _begin_nested,
    }
    return {
        name: call
        for name, call in calls.items()
        if getattr(session_class, name) is getattr(AsyncSession, name)
    }


def _call(name: str) -> Callable[..., Any]:
    @wraps(getattr(AsyncSession, name))
    async def call(self: AsyncSession, *args: Any, **kwargs: Any) -> Any:
        return await in_greenlet(getattr(self.sync_session, name), *args, **kwargs)

    return call


@wraps(AsyncSession.run_sync)  # type: ignore[arg-type]
async def _run_sync(self: Any, fn: Callable[..., Any], *arg: Any, **kw: Any) -> Any:
    unit = self.sync_session
    return await in_greenlet(unit.alone, "run_sync", fn, unit, *arg, **kw)


@wraps(AsyncSession.begin)
def _begin(self: AsyncSession) -> UnitTransaction:
    return UnitTransaction(self)


@wraps(AsyncSession.begin_nested)
def _begin_nested(self: AsyncSession) -> UnitTransaction:
    return UnitTransaction(self, nested=True)
