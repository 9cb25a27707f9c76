"""Running a unit of work again, after an error that the next attempt may not meet."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy.ext.asyncio import AsyncSession

from fastdb.errors import CommitOutcomeUnknown, ConfigurationError, ErrorKind, classify
from fastdb.errors.classification import causes
from fastdb.failover import takes_no_writes
from fastdb.options import check_seconds, is_count
from fastdb.session import AsyncUnitSession

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
SessionT = TypeVar("SessionT", bound=AsyncSession)

_TRANSIENT = frozenset(
    {
        ErrorKind.DEADLOCK,
        ErrorKind.SERIALIZATION,
        ErrorKind.STALE_PLAN,
        ErrorKind.DISCONNECTED,
    }
)

# Who was in the way has gone on by then: long enough for a transaction, short enough for a request.
_FIRST_WAIT_SECONDS = 0.02
_LONGEST_WAIT_SECONDS = 1.0
_JITTER_SECONDS = 0.1


async def run_again(
    open_session: Callable[[], AbstractAsyncContextManager[SessionT]],
    unit: Callable[[SessionT, *Ts], Awaitable[T]],
    *args: *Ts,
    attempts: int,
    seconds: float,
) -> T:
    """Run `unit` in a new session, and again in another one where that may help.

    Args:
        open_session: Opens a unit of work.
        unit: Called with its session and `args`.
        args: Passed on.
        attempts: How often at most.
        seconds: For how long at most new attempts begin.

    Raises:
        ConfigurationError: stamina is not installed, or a figure is out of range.
        Exception: What the last attempt raised.
    """
    if not is_count(attempts) or attempts < 1:
        raise ConfigurationError(f"run(attempts={attempts!r}): must be a whole number, 1 or more.")
    check_seconds("run", "seconds", seconds)
    session: SessionT | None = None

    def may_help(error: BaseException) -> bool:
        return _is_transient(error) and not _has_committed(session)

    async for attempt in _attempts(may_help, attempts, seconds):
        with attempt:
            async with open_session() as session:
                return await unit(session, *args)
    raise AssertionError  # pragma: no cover - the last attempt has returned or raised


def _is_transient(error: BaseException) -> bool:
    """Return whether the same unit of work may well succeed when it is run again.

    Not where COMMIT may have come through, and not where the caller has been cancelled.
    """
    task = asyncio.current_task()
    if not isinstance(error, Exception) or (task is not None and task.cancelling()):
        return False
    if _is_caused_by(error, CommitOutcomeUnknown):
        return False  # though it counts as DISCONNECTED, and so does what was raised from it
    kind = classify(error)
    if kind is ErrorKind.LOCK_TIMEOUT:
        # On servers, who gets no lock has waited for as long as was asked for. SQLite says it at
        # once where waiting would not help, but beginning anew does.
        return _is_caused_by(error, sqlite3.Error)
    if kind is ErrorKind.READ_ONLY:
        return takes_no_writes(error)  # the next session's connection leads to the new primary
    return kind in _TRANSIENT


def _is_caused_by(error: BaseException, cause: type[BaseException]) -> bool:
    return any(isinstance(each, cause) for each in causes(error))


def _has_committed(session: AsyncSession | None) -> bool:
    """Return whether a part of the unit of work is in the database already."""
    return isinstance(session, AsyncUnitSession) and session.has_committed


def _attempts(may_help: Callable[[BaseException], bool], attempts: int, seconds: float) -> Any:
    try:
        import stamina
    except ImportError as error:
        raise ConfigurationError(
            "db.run() needs stamina, which is not installed; run:"
            " pip install 'fastapi-fastdb[retry]'"
        ) from error
    return stamina.retry_context(
        on=may_help,
        attempts=attempts,
        timeout=seconds,
        wait_initial=_FIRST_WAIT_SECONDS,
        wait_max=_LONGEST_WAIT_SECONDS,
        wait_jitter=_JITTER_SECONDS,
    )
