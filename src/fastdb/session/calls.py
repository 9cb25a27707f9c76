"""Calls of an `AsyncSession` that are one call of its synchronous session, in quicker greenlets.

Not all of them: `execute` and what is made of it would need SQLAlchemy's own care for results that
are still open, which is private.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from fastdb.greenlets import in_greenlet

_NAMES = ("flush", "get", "get_one", "refresh", "scalar")


def quick_calls(session_class: type[AsyncSession]) -> dict[str, Callable[..., Any]]:
    """Return methods to put before those of `session_class`, but for those that it overrides."""
    calls = {name: _call(name) for name in _NAMES} | {"run_sync": _run_sync}
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
async def _run_sync(self: AsyncSession, fn: Callable[..., Any], *arg: Any, **kw: Any) -> Any:
    return await in_greenlet(fn, self.sync_session, *arg, **kw)
