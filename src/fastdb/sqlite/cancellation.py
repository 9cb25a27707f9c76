"""Stop the statement of a cancelled task, which would run on in its thread and keep its lock."""

import asyncio
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, event

from fastdb.completion import run_within

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


def interrupt_at_cancellation(engine: Engine, seconds: float) -> None:
    """Interrupt what runs on a connection that SQLAlchemy gives up because its task is cancelled.

    aiosqlite has no cancellation: the connection is closed only after its statement has ended.

    Args:
        engine: The engine to listen on, of the plain dialect.
        seconds: How long is waited for the statement to stop.
    """

    async def interrupt(driver_connection: Any) -> None:
        await stop(driver_connection, seconds=seconds)

    def given_up(dbapi_connection: Any, _entry: Any, _error: BaseException | None) -> None:
        dbapi_connection.run_async(interrupt)

    event.listen(engine, "invalidate", given_up)
