"""The block that a unit of work is, and those that nobody will leave.

A client that leaves while a chunk is being sent is noticed by the sending, not by the generator
that makes the chunks: that one stays suspended at its `yield`, inside `async with db.session()`,
and nobody closes it before the garbage collector comes by. Until then its transaction would be
open and, on SQLite, all other writers locked out.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from fastdb.callers import serve
from fastdb.session import AsyncUnitSession, abandon

_open_units: ContextVar[dict[AsyncUnitSession, asyncio.Task[Any] | None] | None] = ContextVar(
    "fastdb_open_units", default=None
)


class UnitOfWork(AbstractAsyncContextManager[AsyncSession]):
    """The block of `async with db.session()`.

    A class and not a generator: where a stream is left to the garbage collector, a generator in
    here would be closed by itself, beside the one of the user that waits inside the block.
    """

    __slots__ = ("_finish", "_session")

    def __init__(
        self, session: AsyncUnitSession, finish: Callable[[AsyncUnitSession], Awaitable[None]]
    ) -> None:
        self._session = session
        self._finish = finish

    async def __aenter__(self) -> AsyncSession:
        units = _open_units.get()
        if units is not None:
            units[self._session] = asyncio.current_task()
        return self._session

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        units = _open_units.get()
        if units is not None:
            units.pop(self._session, None)
        await (self._finish if exc_type is None else abandon)(self._session)


async def end_strays(connection: HTTPConnection) -> AsyncIterator[None]:
    """Once the response has been sent, roll back what was opened for it and is still open.

    A dependency in FastAPI's default scope. Tasks that go on after the response keep what they
    have opened.
    """
    units: dict[AsyncUnitSession, asyncio.Task[Any] | None] = {}
    _open_units.set(units)
    serving = serve(connection.scope)
    try:
        yield
    finally:
        serving.end()
        _open_units.set(None)
        async with AsyncExitStack() as each:
            for session, task in units.items():
                if task is None or task.done() or task is asyncio.current_task():
                    each.push_async_callback(abandon, session)
