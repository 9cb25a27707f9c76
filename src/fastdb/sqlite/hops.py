"""What is done in a SQLite connection's thread, each a hop there and back.

Only `fetch_little` is done on the event loop's thread, for reads that have earned it.
"""

import sqlite3
from collections.abc import Callable, Sequence
from time import thread_time
from typing import Any, NamedTuple, Protocol, TypeVar

from fastdb.sqlite.inline import MOST_BYTES, MOST_ROWS, is_bounded
from fastdb.sqlite.intent import Begin
from fastdb.sqlite.watchdog import execute_many_within, statement_limit

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Answer(NamedTuple):
    """All that a statement has answered, brought back in one hop."""

    rows: Sequence[Any]
    description: Any
    rowcount: int
    lastrowid: Any


class Work(Protocol[T_co]):
    """Something to do in the connection's thread, after BEGIN where that is asked for."""

    def __call__(self, connection: sqlite3.Connection, /, *, begin: Begin | None) -> T_co:
        """Do it."""
        ...


def fetch_all(
    connection: sqlite3.Connection, *, begin: Begin | None, statement: str, parameters: Any
) -> Answer:
    """Run a statement and fetch all its rows."""
    cursor = sqlite3.Cursor(connection)
    try:
        _begin(connection, cursor, begin)
        cursor.execute(statement, parameters)
        rows = cursor.fetchall() if cursor.description else ()
        return Answer(rows, cursor.description, cursor.rowcount, cursor.lastrowid)
    finally:
        # While nobody else uses the connection: the garbage collector would do it in whichever
        # thread it runs, and SQLite would make that one wait.
        cursor.close()


class TooMuch(Exception):
    """A statement returns more than the event loop's thread may fetch."""


def fetch_little(
    connection: sqlite3.Connection, *, begin: Begin | None, statement: str, parameters: Any
) -> Answer:
    """Do as `fetch_all`, on the event loop's thread; give up where it becomes too much.

    Raises:
        TooMuch: There are more rows than a few, or a value is large.
        sqlite3.OperationalError: SQLite was interrupted, besides what the statement raises.
    """
    largest = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES)
    cursor = sqlite3.Cursor(connection)
    try:
        _begin(connection, cursor, begin)
        cursor.execute(statement, parameters)
        rows = cursor.fetchmany(MOST_ROWS + 1)
        if len(rows) > MOST_ROWS:
            raise TooMuch
        return Answer(rows, cursor.description, cursor.rowcount, cursor.lastrowid)
    except sqlite3.DataError as error:
        raise TooMuch from error
    finally:
        cursor.close()
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, largest)


def execute_many(
    connection: sqlite3.Connection,
    *,
    begin: Begin | None,
    statement: str,
    parameters: Any,
    seconds: float | None,
) -> Answer:
    """Run a statement once for each of the parameters, for so many seconds at most."""
    cursor = sqlite3.Cursor(connection)
    try:
        _begin(connection, cursor, begin)
        execute_many_within(seconds, cursor, statement, parameters)
        return Answer((), None, cursor.rowcount, cursor.lastrowid)
    finally:
        cursor.close()


def open_stream(
    connection: sqlite3.Connection,
    *,
    begin: Begin | None,
    statement: str,
    parameters: Any,
    streams: set[sqlite3.Cursor],
) -> sqlite3.Cursor:
    """Run a statement, and leave its rows to be fetched from the cursor that is returned.

    It is added to `streams` here already: who is cancelled meanwhile never sees what is returned.
    """
    cursor = connection.cursor()
    try:
        _begin(connection, cursor, begin)
        cursor.execute(statement, parameters)
        streams.add(cursor)
        return cursor
    except BaseException:
        cursor.close()
        raise


def _begin(connection: sqlite3.Connection, cursor: sqlite3.Cursor, begin: Begin | None) -> None:
    # The second attempt at a statement may find the transaction begun by the first.
    if begin is not None and not connection.in_transaction:
        cursor.execute(begin)


def within_limit(
    connection: sqlite3.Connection, *, begin: Begin | None, work: Work[T], seconds: float
) -> T:
    """Run `work`, which is interrupted after so many seconds."""
    if begin is not None:
        # Outside of the limit: in some journal modes, SQLite waits for the lock here.
        cursor = sqlite3.Cursor(connection)
        try:
            _begin(connection, cursor, begin)
        finally:
            cursor.close()
    with statement_limit(connection, seconds):
        return work(connection, begin=None)


def fetch_more(
    connection: sqlite3.Connection, *, fetch: Callable[[], T], seconds: float | None
) -> T:
    """Fetch from a stream, which is interrupted after so many seconds."""
    with statement_limit(connection, seconds):
        return fetch()


def timed(
    connection: sqlite3.Connection, *, begin: Begin | None, work: Work[Answer]
) -> tuple[Answer, float]:
    """Run `work`; return how many seconds of processor time it took, too."""
    begun = thread_time()
    answer = work(connection, begin=begin)
    return answer, thread_time() - begun


def look_at(
    connection: sqlite3.Connection, *, begin: Begin | None, statement: str, parameters: Any
) -> bool:
    """Return whether the statement, which has just run, may run on the event loop's thread."""
    return begin is None and is_bounded(connection, statement, parameters)


def end(
    connection: sqlite3.Connection,
    *,
    how: Callable[[sqlite3.Connection], None],
    streams: set[sqlite3.Cursor],
) -> None:
    """End the transaction, and the streams in it."""
    for stream in streams:
        stream.close()  # it would keep its view of the database beyond the transaction
    how(connection)


def wait_for_locks(connection: sqlite3.Connection, *, seconds: float) -> None:
    """Let SQLite wait for locks, for so many seconds at most."""
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
    finally:
        cursor.close()


def take_over_waiting(connection: sqlite3.Connection) -> tuple[int, bool]:
    """Return for how many milliseconds SQLite waits for locks, and whether it need not any more."""
    cursor = connection.cursor()
    try:
        (milliseconds,) = cursor.execute("PRAGMA busy_timeout").fetchone()
        (journal_mode,) = cursor.execute("PRAGMA journal_mode").fetchone()
        is_wal = journal_mode == "wal"
        if is_wal:
            cursor.execute("PRAGMA busy_timeout = 0").fetchone()
        return milliseconds, is_wal
    finally:
        cursor.close()
