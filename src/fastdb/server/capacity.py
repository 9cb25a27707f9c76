"""Whether the server has room for all connections that the workers may open."""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, event

logger = logging.getLogger("fastdb.pool")

_ROOM = {
    # Without those that are kept for administrators.
    "postgresql": "SELECT current_setting('max_connections')::int"
    " - current_setting('superuser_reserved_connections')::int"
    # From PostgreSQL 16 on.
    " - coalesce(current_setting('reserved_connections', true), '0')::int",
    "mysql": "SELECT @@max_connections",
}


def compare_with_server(engines: Sequence[Engine], backend: str, *, each: int) -> None:
    """Warn, with the first connection, where the server cannot take all that may be opened.

    Args:
        engines: Those of one process; whichever connects first asks.
        backend: "postgresql" or "mysql".
        each: How many connections each of them may open.
    """
    was_told = False

    def first_connect(dbapi_connection: Any, _entry: Any) -> None:
        nonlocal was_told
        if was_told:
            return
        was_told = True
        room = _room(dbapi_connection, backend)
        if room is not None:
            name = engines[0].url.database or engines[0].name
            _tell(name, room, workers(sys.argv, os.environ), len(engines), each)

    for engine in engines:
        event.listen(engine, "first_connect", first_connect)


def _room(dbapi_connection: Any, backend: str) -> int | None:
    """Return how many connections the server takes, if it tells."""
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(_ROOM[backend])
        room = int(cursor.fetchone()[0])
    except Exception:
        logger.debug("The server does not tell how many connections it takes", exc_info=True)
        room = None
    finally:
        cursor.close()
    # Not where the task was cancelled, whose connection is given up: this would fail in its place.
    dbapi_connection.rollback()
    return room


def workers(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Return how many processes serve the app, as far as they were asked for.

    Args:
        arguments: The command line of uvicorn, gunicorn, hypercorn or `fastapi run`, which their
            workers see, too.
        environment: Where `WEB_CONCURRENCY` is what those programs read.
    """
    named: list[str | None] = [environment.get("WEB_CONCURRENCY")]
    for at, argument in enumerate(arguments):
        if argument in ("--workers", "-w"):
            named.append(next(iter(arguments[at + 1 : at + 2]), None))
        elif argument.startswith("--workers="):
            named.append(argument.removeprefix("--workers="))
        elif argument.startswith("-w"):
            named.append(argument.removeprefix("-w"))
    numbers = [int(text) for text in named if text is not None and text.isdecimal()]
    return max(1, numbers[-1]) if numbers else 1


def _tell(database: str, room: int, processes: int, pools: int, each: int) -> None:
    wanted = processes * pools * each
    tell = logger.warning if wanted > room else logger.info
    tell(
        "%s may be asked for %d connections: %d worker(s) x %d pool(s) x %d (size + max_overflow)."
        " Its server takes %d, other clients included%s.",
        database,
        wanted,
        processes,
        pools,
        each,
        room,
        ": make the pools smaller, or put a pooler in between" if wanted > room else "",
    )
