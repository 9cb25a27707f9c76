"""One request, its sessions: one of each kind and database, ended before the response starts.

FastAPI runs the code after a generator dependency's `yield` before the response is sent only
where the dependency is declared with `scope="function"`, and gives a dependency that is declared
in two ways two results. Both are decided here, once, beneath whatever the user writes: the public
dependencies are plain coroutines, and all of them ask the one generator below.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Any, Literal, Protocol

from anyio import CapacityLimiter, to_thread
from fastapi import Depends
from starlette.requests import HTTPConnection

from fastdb.callers import serve
from fastdb.completion import run_to_completion, run_within
from fastdb.session import (
    AsyncUnitSession,
    TwinSession,
    abandon,
    abandon_sync,
    complete,
    complete_sync,
    finish_reading,
)

Kind = Literal["write", "read", "snapshot"]

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class SessionSource(Protocol):
    """What a request needs of a Database."""

    def request_session(self, kind: Kind, *, safe: bool) -> AsyncUnitSession:
        """Return a session for whoever ends it."""
        ...

    def request_sync_session(self, *, safe: bool) -> TwinSession:
        """Return a session of the synchronous twin for whoever ends it."""
        ...


class RequestSessions:
    """The sessions of one request."""

    __slots__ = ("_made", "_safe", "serving")

    def __init__(self, connection: HTTPConnection) -> None:
        self.serving = serve(connection.scope)
        # A WebSocket has no method; it stays open for long and so begins as a reader.
        self._safe = connection.scope.get("method", "GET") in _SAFE_METHODS
        self._made: dict[tuple[SessionSource, Kind | Literal["sync"]], Any] = {}

    def session(self, database: SessionSource) -> AsyncUnitSession:
        """Return this request's session of `database`, the same at every call."""
        session = self._made.get((database, "write"))
        if session is None:
            session = database.request_session("write", safe=self._safe)
            self._made[database, "write"] = session
        return session

    def read_session(self, database: SessionSource, kind: Kind) -> AsyncUnitSession:
        """Return this request's read session of that kind, the same at every call."""
        session = self._made.get((database, kind))
        if session is None:
            session = self._made[database, kind] = database.request_session(kind, safe=True)
        return session

    def sync_session(self, database: SessionSource) -> TwinSession:
        """Return this request's session of the synchronous twin, the same at every call."""
        session = self._made.get((database, "sync"))
        if session is None:
            session = database.request_sync_session(safe=self._safe)
            self._made[database, "sync"] = session
        return session

    async def complete(self) -> None:
        """End them all well: the readers first, then COMMIT.

        With several databases, all that is pending is written before the first COMMIT, so that
        an error in any of them still undoes all. COMMITs themselves cannot be made one.
        """
        writers = []
        sync_writers = []
        for (_, kind), session in self._made.items():
            if kind == "write":
                writers.append(session)
            elif kind == "sync":
                sync_writers.append(session)
            else:
                await finish_reading(session)
        if len(writers) + len(sync_writers) > 1:
            for writer in writers:
                await writer.flush()
            for sync_writer in sync_writers:
                await _in_thread(run_to_completion, sync_writer, sync_writer.flush)
        for writer in writers:
            await complete(writer)
        for sync_writer in sync_writers:
            await _in_thread(run_to_completion, sync_writer, partial(complete_sync, sync_writer))

    async def abandon(self) -> None:
        """Roll all of them back; those that have ended already are left alone."""
        # A stack goes on with the others when a cancellation arrives in one of them.
        async with AsyncExitStack() as each:
            for (_, kind), session in self._made.items():
                if kind == "sync":
                    each.push_async_callback(
                        _in_thread, run_within, session, partial(abandon_sync, session)
                    )
                else:
                    each.push_async_callback(abandon, session)


async def request_sessions(connection: HTTPConnection) -> AsyncIterator[RequestSessions]:
    """Give a request its sessions and end them; declared with `scope="function"` only."""
    sessions = RequestSessions(connection)
    try:
        yield sessions
        await sessions.complete()
    except BaseException:
        await sessions.abandon()
        raise
    finally:
        sessions.serving.end()


async def stream_sessions(connection: HTTPConnection) -> AsyncIterator[RequestSessions]:
    """Give a request read sessions that live until its response has been sent."""
    sessions = RequestSessions(connection)
    try:
        yield sessions
        await sessions.complete()  # says so where something was changed by mistake
    except BaseException:
        await sessions.abandon()
        raise
    finally:
        sessions.serving.end()


async def _in_thread(
    run: Callable[..., Awaitable[Any]], session: TwinSession, work: Callable[..., None]
) -> None:
    """Run blocking `work` in a thread, to its end; not at all for a session nobody has used."""
    if not session.was_used and not session.in_transaction():
        session.end()
        return
    # A thread beyond the pool's limit: all of the pool may be waiting for locks that only this
    # COMMIT or ROLLBACK will free.
    in_thread = to_thread.run_sync(work, limiter=CapacityLimiter(1))
    await run(in_thread, seconds=session.close_seconds, give_up=session.cut)


Sessions = Annotated[RequestSessions, Depends(request_sessions, scope="function")]
StreamSessions = Annotated[RequestSessions, Depends(stream_sessions)]
