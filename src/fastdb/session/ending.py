"""The three ends of a session: it has succeeded, it has only read, it has failed."""

import logging

from fastdb.completion import run_within
from fastdb.greenlets import GreenletCall
from fastdb.session.async_unit import AsyncUnitSession
from fastdb.session.unit import UnitSession

logger = logging.getLogger("fastdb.session")


async def complete(session: AsyncUnitSession) -> None:
    """End a unit of work that has succeeded: COMMIT where something was begun, and close."""
    if session.end_unused():
        return
    unit = session.sync_session
    try:
        if unit.in_transaction():
            await session.commit_and_end()
        else:
            unit.end()
            await unit.callbacks.run_async()  # of a COMMIT that was not made through the session
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
