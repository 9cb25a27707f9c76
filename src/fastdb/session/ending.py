"""The three ends of a session: it has succeeded, it has only read, it has failed."""

import asyncio
import logging

from fastdb.completion import run_within
from fastdb.greenlets import GreenletCall
from fastdb.session.async_unit import AsyncUnitSession
from fastdb.session.inner import InnerSession
from fastdb.session.unit import UnitSession

logger = logging.getLogger("fastdb.session")

# Who waits on a connection that was cut is woken by an error: this is the time for that.
_AFTER_CUT_SECONDS = 1.0


async def complete(session: AsyncUnitSession) -> None:
    """End a unit of work that has succeeded: COMMIT where something was begun, and close."""
    if session.end_unused():
        return
    unit = session.sync_session
    try:
        if unit.has_nothing_to_commit:
            unit.end()
            await unit.callbacks.run_async()  # of a COMMIT that was not made through the session
        else:
            await session.commit_and_end()
    except BaseException:
        await abandon(session)
        raise


async def finish_reading(session: AsyncUnitSession) -> None:
    """End a read session: what was changed by mistake is sent to be refused, not dropped."""
    if session.end_unused():
        return
    try:
        if session.sync_session.holds_changes():
            await session.flush()
    finally:
        await abandon(session)


async def abandon(session: AsyncUnitSession) -> None:
    """End a unit of work that has failed: roll back and close, in bounded time, and say nothing.

    It cleans up after an error, and that one is what the caller must see.
    """
    if session.end_unused():
        return
    unit = session.sync_session
    if unit.one_task.is_inside:
        await _end_when_left(unit, session.close_seconds)
        return
    if not unit.in_transaction():
        unit.end()
        await unit.callbacks.run_async()  # an earlier COMMIT stays, whatever came after it
        return
    try:
        end = GreenletCall(unit.end)
        if end.has_ended:
            await end.end()
        else:
            await run_within(end.end(), seconds=session.close_seconds, give_up=unit.cut)
    except Exception:
        logger.warning("A session could not be rolled back cleanly", exc_info=True)
    finally:
        await unit.callbacks.run_async()  # also where the caller is cancelled meanwhile


async def _end_when_left(unit: InnerSession, seconds: float) -> None:
    """Let the task that is inside a call have its answer, in bounded time, and end the session.

    Nobody may end it beneath that call: it could take a connection that nobody gives back. So who
    is inside ends it, however late that is.
    """
    if unit.one_task.is_to_end:
        return  # the rest of the request's end comes by, and has nothing to wait for
    left = unit.one_task.when_left(unit.end_quietly)

    async def wait() -> None:
        await asyncio.wait({left}, timeout=seconds)
        if not left.done():
            unit.cut()
            await asyncio.wait({left}, timeout=_AFTER_CUT_SECONDS)

    longest = seconds + _AFTER_CUT_SECONDS + 1
    try:
        await run_within(wait(), seconds=longest, give_up=lambda: None)
    finally:
        await unit.callbacks.run_async()


def complete_sync(session: UnitSession) -> None:
    """End a synchronous unit of work that has succeeded."""
    try:
        if session.in_transaction():
            session.commit_only()
    finally:
        session.end()
    session.callbacks.run()


def finish_reading_sync(session: UnitSession) -> None:
    """End a synchronous read session; as `finish_reading`."""
    try:
        if session.holds_changes():
            session.flush()
    finally:
        abandon_sync(session)


def abandon_sync(session: UnitSession) -> None:
    """End a synchronous unit of work that has failed; as `abandon`."""
    try:
        session.end()
    except Exception:
        logger.warning("A session could not be rolled back cleanly", exc_info=True)
    session.callbacks.run()
