"""The synchronous twin on the thread of an event loop: refused, unless somebody has asked for it.

It works there, and nothing says that every other request waits for each of its statements.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, event

from fastdb.errors import EventLoopBlocked

OPTION = "fastdb_on_event_loop"
"""The execution option of an engine or a connection that allows it."""


def refuse_on_event_loop(engine: Engine) -> None:
    """Make what has connected with `engine` raise EventLoopBlocked on an event loop's thread.

    SQLAlchemy tells of a connection when it is there. Where a Database knows what it is for, it
    calls `refuse_if_it_blocks` before.
    """
    event.listen(engine, "engine_connect", _refuse)


def allow_on_event_loop(engine: Engine, allowed: bool) -> Engine:
    """Return `engine`, or where it is `allowed` a variant that may block an event loop."""
    return engine.execution_options(**{OPTION: True}) if allowed else engine


def refuse_if_it_blocks(options: Mapping[str, Any]) -> None:
    """Raise if an event loop runs in this thread and the execution options do not allow that.

    Raises:
        EventLoopBlocked: It would stop every other task for as long as a statement takes.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if not options.get(OPTION):
        raise EventLoopBlocked(
            "The synchronous twin, db.sync, was used on the thread of an event loop, where each of"
            " its statements stops all other tasks. Use `async with db.session() as session:`; or"
            " call the synchronous code with `await asyncio.to_thread(…)`; or, where nobody else"
            " is served, as in a notebook, say so: `db.sync.session(on_event_loop=True)`,"
            f" `db.sync.engine.execution_options({OPTION}=True)`."
        )


def _refuse(connection: Connection) -> None:
    try:
        refuse_if_it_blocks(connection.get_execution_options())
    except EventLoopBlocked:
        connection.close()  # else it would go back to the pool when it is collected
        raise
