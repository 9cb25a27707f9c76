"""The cursors that SQLAlchemy executes on: one that has all rows at once, and one that streams."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Protocol, Self, TypeVar

from fastdb.sqlite.hops import Answer, Work, execute_many
from fastdb.sqlite.intent import Terms

T = TypeVar("T")


class Connection(Protocol):
    """What the cursors need of their connection."""

    def run(self, statement: str, parameters: Any, terms: Terms) -> Answer:
        """Run a statement and fetch its rows, in one hop or none."""
        ...

    def in_thread(self, work: Work[T], statement: str, terms: Terms, /) -> T:
        """Run `work` in the connection's thread, in one hop."""
        ...

    def open_stream(self, statement: str, parameters: Any, terms: Terms) -> sqlite3.Cursor:
        """Run a statement, in one hop, and leave its rows where they are."""
        ...

    def read_stream(self, fetch: Callable[[], list[Any]], terms: Terms) -> list[Any]:
        """Fetch rows of a stream, in one hop."""
        ...

    def close_stream(self, stream: sqlite3.Cursor) -> None:
        """Close a stream."""
        ...


_TERMS = Terms()


class AcceleratedCursor:
    """A cursor that has all its rows as soon as the statement has run."""

    server_side = False
    arraysize = 1

    def __init__(self, connection: Connection) -> None:
        self.terms = _TERMS
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: Any = None
        self._connection = connection
        self._rows: Iterator[Any] = iter(())

    def execute(self, operation: str, parameters: Any = None) -> Self:
        """Execute and fetch, in one hop at most."""
        parameters = () if parameters is None else parameters
        return self._take(self._connection.run(operation, parameters, self.terms))

    def executemany(self, operation: str, seq_of_parameters: Sequence[Any]) -> Self:
        """Execute once for each of the parameters, in one hop."""
        terms = self.terms
        work = partial(
            execute_many,
            statement=operation,
            parameters=seq_of_parameters,
            seconds=terms.statement_seconds,
        )
        without_limit = terms._replace(statement_seconds=None)
        return self._take(self._connection.in_thread(work, operation, without_limit))

    def _take(self, answer: Answer) -> Self:
        rows, self.description, self.rowcount, self.lastrowid = answer
        self._rows = iter(rows)
        return self

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return next(self._rows, None)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next `size` rows."""
        return list(islice(self._rows, size or self.arraysize))

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def setinputsizes(self, *_: Any) -> None:
        """Do nothing: SQLite has no use for it."""

    def close(self) -> None:
        """Forget the rows; SQLite's own cursor was closed when they were fetched."""
        self._rows = iter(())

    async def _async_soft_close(self) -> None:
        # SQLAlchemy's extension for asyncio calls it on the cursor of each result that it hands
        # over; there is no public name for it.
        ...


class StreamingCursor(AcceleratedCursor):
    """A cursor that fetches as many rows as it is asked for, and not before."""

    server_side = True

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._stream: sqlite3.Cursor | None = None

    def execute(self, operation: str, parameters: Any = None) -> Self:
        """Execute, in one hop."""
        parameters = () if parameters is None else parameters
        self._stream = self._connection.open_stream(operation, parameters, self.terms)
        self.description = self._stream.description
        return self

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return next(iter(self.fetchmany(1)), None)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next `size` rows, in one hop."""
        if self._stream is None:
            return []
        fetch = partial(self._stream.fetchmany, size or self.arraysize)
        return self._connection.read_stream(fetch, self.terms)

    def fetchall(self) -> list[Any]:
        """Return the rows that are left, in one hop."""
        if self._stream is None:
            return []
        return self._connection.read_stream(self._stream.fetchall, self.terms)

    def __iter__(self) -> Iterator[Any]:
        while (row := self.fetchone()) is not None:
            yield row

    def close(self) -> None:
        """Let SQLite's cursor go."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._connection.close_stream(stream)
