"""What SQLite itself is told to execute: not what SQLAlchemy believes that it sends."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event


def trace(engine: Engine, note: Callable[[str], object]) -> None:
    """Call `note` with each statement that SQLite executes on connections taken from now on."""

    def taken(dbapi_connection: Any, *_: object) -> None:
        if engine.dialect.is_async:
            dbapi_connection.run_async(lambda connection: connection.set_trace_callback(note))
        else:
            dbapi_connection.set_trace_callback(note)

    event.listen(engine, "checkout", taken)
