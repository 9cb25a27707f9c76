"""What fastdb adds to an `AsyncSession`: a COMMIT that is not cut in two, and streaming reads."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from fastdb.completion import run_to_completion
from fastdb.errors import ConfigurationError
from fastdb.greenlets import GreenletCall
from fastdb.options import TIMEOUTS_OPTION, Timeouts
from fastdb.session.calls import quick_calls
from fastdb.session.inner import InnerSession, inner_session_class
from fastdb.session.transactions import refuse_around_anothers


class AsyncUnitSession(AsyncSession):
    """An async session around an `InnerSession`, which is made when it is first used.

    Making it is most of what an unused session would cost: many requests take one and never
    need it, because they answer from a cache, or 401, or 422.
    """

    close_seconds = 5.0
    asked_for: Timeouts | None = None
    limits_commit = False
    is_lazy = True
    reads_only = False
    snapshot_engine: AsyncEngine | None = None
    sync_session: InnerSession  # pyright: ignore[reportIncompatibleVariableOverride]
    sync_session_class: type[InnerSession] = InnerSession  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, bind: AsyncEngine, **options: Any) -> None:
        self._to_make: tuple[AsyncEngine, dict[str, Any]] | None = (bind, options)
        self._ended_unused = False
        if not self.is_lazy:
            self._make()

    def __getattr__(self, name: str) -> Any:
        # Python calls this for what is missing only: for everything that `__init__` would set.
        if self.__dict__.get("_to_make") is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._make()
        return getattr(self, name)

    def _make(self) -> None:
        to_make, self._to_make = self._to_make, None
        bind, options = to_make or (None, {})
        try:
            super().__init__(bind, **options)
        except BaseException:
            self._to_make = to_make
            raise
        self.sync_session.reads_only = self.reads_only
        self.sync_session.runs_callbacks = False
        if self._ended_unused:
            self.sync_session.end()

    def end_unused(self) -> bool:
        """End the session if nobody has used it, and return whether that is so."""
        self._ended_unused = self._to_make is not None
        return self._ended_unused

    @property
    def has_committed(self) -> bool:
        """Whether something was committed, by whichever call."""
        return self._to_make is None and self.sync_session.has_committed

    async def commit(self) -> None:
        """COMMIT, or roll back and raise; then run and await the `on_commit` callbacks.

        A cancellation that arrives while COMMIT is in flight waits for its answer, for
        `Timeouts.close` seconds at most.

        Raises:
            TransactionFailed: A statement failed earlier and the error was caught.
            CommitOutcomeUnknown: The connection was lost while COMMIT was in flight.
        """
        await self._commit(and_end=False)

    async def commit_and_end(self) -> None:
        """As `commit`, and end before the callbacks run: what they need, they open themselves."""
        await self._commit(and_end=True)

    async def commit_block(self, commit: Callable[[], None]) -> None:
        """End the transaction of a block of `begin()` with COMMIT, which is not cut in two either.

        Raises:
            CommitOutcomeUnknown: The connection was lost while COMMIT was in flight.
            TransactionFailed: A call was refused, and its error caught.
        """
        unit = self.sync_session
        if unit.holds_changes():
            await self.flush()
        committing = GreenletCall(unit.commit_block, commit)
        if committing.has_ended:
            await committing.end()
        else:
            await self._run_to_completion(self._answer_to(committing))

    async def _commit(self, *, and_end: bool) -> None:
        refuse_around_anothers(self, "commit")
        unit = self.sync_session
        if unit.holds_changes():
            # In the caller's own task: a cancellation here comes before COMMIT and rolls back,
            # and SQLite's write lock is asked for in the name of the one who wants it.
            await self.flush()
        commit = GreenletCall(unit.commit_only)
        if commit.has_ended and not unit.callbacks.are_due():
            await self._tell(commit, and_end=and_end)
            return
        await self._run_to_completion(self._tell(commit, and_end=and_end))

    async def _run_to_completion(self, committing: Coroutine[Any, Any, None]) -> None:
        await run_to_completion(
            committing, seconds=self.close_seconds, give_up=self.sync_session.cut
        )

    async def _answer_to(self, commit: GreenletCall[None]) -> None:
        """Wait for the answer to COMMIT, and cut the connection if there is none in time."""
        seconds = self._commit_seconds()
        if seconds is None or commit.has_ended:
            await commit.end()
            return
        limit = asyncio.get_running_loop().call_later(seconds, self.sync_session.cut)
        try:
            await commit.end()
        finally:
            limit.cancel()

    def _commit_seconds(self) -> float | None:
        bind = self.sync_session.bind
        if not self.limits_commit or not isinstance(bind, Engine):
            return None
        timeouts = bind.get_execution_options().get(TIMEOUTS_OPTION, self.asked_for)
        return None if timeouts is None else timeouts.answer

    async def _tell(self, commit: GreenletCall[None], *, and_end: bool) -> None:
        await self._answer_to(commit)
        if and_end:
            # Nothing is checked out after a COMMIT: this is a matter of memory.
            self.sync_session.end()
        if self.sync_session.callbacks.are_due():
            await self.sync_session.callbacks.run_async()

    async def stream(self, *args: Any, **kwargs: Any) -> Any:
        """Execute and stream; a read session first takes one consistent view to stream from."""
        await self._take_snapshot()
        return await super().stream(*args, **kwargs)

    async def stream_scalars(self, *args: Any, **kwargs: Any) -> Any:
        """Execute and stream scalars; as `stream`."""
        await self._take_snapshot()
        return await super().stream_scalars(*args, **kwargs)

    async def _take_snapshot(self) -> None:
        """Leave autocommit, in which a server-side cursor has no transaction to live in."""
        if self.snapshot_engine is None:
            return
        if self.in_transaction():
            await super().commit()  # there is nothing to write: this gives the connection back
        self.sync_session.bind = self.snapshot_engine.sync_engine
        self.snapshot_engine = None


def async_unit_session_class(
    session_class: type[AsyncSession],
    sync_class: type[Session],
    *,
    close_seconds: float,
    asked_for: Timeouts | None,
    limits_commit: bool,
) -> type[AsyncUnitSession]:
    """Return an async `session_class` with what a unit of work needs added in front.

    Args:
        session_class: The user's.
        sync_class: The user's, of the session inside.
        close_seconds: For the end of a session whose caller has gone.
        asked_for: The time limits that somebody has asked for.
        limits_commit: Whether the answer to COMMIT is waited for no longer than such limits say;
            a file is never silent.

    Raises:
        ConfigurationError: It overrides what a unit of work does itself.
    """
    for name in ("commit", "rollback", "close"):
        if getattr(session_class, name) is not getattr(AsyncSession, name):
            raise ConfigurationError(
                f"session_class={session_class.__name__} overrides {name}(), which the unit of"
                " work would not call. Listen to SQLAlchemy's session events instead"
                " (before_commit, after_commit, after_rollback)."
            )
    attributes = {
        "close_seconds": close_seconds,
        "asked_for": asked_for,
        "limits_commit": limits_commit,
        # Another __init__ may set what an app reads or has set before the first statement.
        "is_lazy": session_class.__init__ is AsyncSession.__init__,
        "sync_session_class": inner_session_class(sync_class),
        **quick_calls(session_class),
    }
    made = type(session_class.__name__, (AsyncUnitSession, session_class), attributes)
    return cast("type[AsyncUnitSession]", made)
