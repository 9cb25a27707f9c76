"""Stop the statement of a cancelled task, which would run on in its thread and keep its lock."""

import asyncio
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, event

from fastdb.completion import run_within
from fastdb.greenlets import may_wait

# An interrupt that comes before the thread has started the statement is lost, so it is repeated.
_REPEAT_SECONDS = 0.005


async def stop(driver_connection: Any, *, seconds: float, interrupt: bool = True) -> bool:
    """Wait until nothing runs in the connection's thread any more, and return whether that is so.

    Args:
        driver_connection: aiosqlite's.
        seconds: How long at most.
        interrupt: Stop what runs; False to let it end by itself, as for a COMMIT.
    """

    async def reach() -> None:
        # The thread works in order: it comes to this when the statement is over.
        reached = asyncio.ensure_future(driver_connection.set_progress_handler(None, 0))
        while not reached.done():
            if interrupt:
                await driver_connection.interrupt()
            await asyncio.wait({reached}, timeout=_REPEAT_SECONDS if interrupt else None)
        reached.result()

    ended = asyncio.ensure_future(reach())
    # The caller is about to raise the cancellation; another one makes no difference.
    with suppress(Exception, asyncio.CancelledError):
        await run_within(_wait_for(ended), seconds=seconds, give_up=ended.cancel)
    return ended.done() and not ended.cancelled() and ended.exception() is None


async def _wait_for(ended: asyncio.Future[None]) -> None:
    await ended


async def close_in_time(driver_connection: Any, seconds: float) -> None:
    """Close aiosqlite's connection, for `seconds` at most, though the caller is cancelled.

    SQLAlchemy would let the connection's thread end as soon as the caller is cancelled again, and
    the task that it has left to close the connection waits for that thread for ever.

    Raises:
        CancelledError: The caller was cancelled meanwhile.
    """
    await run_within(driver_connection.close(), seconds=seconds, give_up=driver_connection.stop)


def interrupt_at_cancellation(engine: Engine, seconds: float) -> None:
    """Interrupt what runs on a connection that SQLAlchemy gives up because its task is cancelled.

    aiosqlite has no cancellation: the connection is closed only after its statement has ended.

    Args:
        engine: The engine to listen on, of the plain dialect.
        seconds: How long is waited for the statement to stop, and for the connection to close.
    """

    async def interrupt(driver_connection: Any) -> None:
        await stop(driver_connection, seconds=seconds)

    def given_up(dbapi_connection: Any, _entry: Any, _error: BaseException | None) -> None:
        dbapi_connection.run_async(interrupt)

    def terminate(dbapi_connection: Any) -> None:
        if may_wait():
            dbapi_connection.run_async(lambda connection: close_in_time(connection, seconds))
        else:
            dbapi_connection.terminate()

    event.listen(engine, "invalidate", given_up)
    # No event comes in place of this. The engine has its dialect for itself.
    engine.dialect.do_terminate = terminate  # type: ignore[method-assign]
