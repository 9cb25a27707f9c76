"""What SQLAlchemy takes for a connection of its own: a guest in the transaction of a test.

It works from any event loop and any thread: statements go home, where the one connection lives,
and come back with all their rows.
"""

from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

from fastdb.callers import caller
from fastdb.errors import NotUndone
from fastdb.testing.home import Home
from fastdb.testing.shared import Guest, SharedTransaction

T = TypeVar("T")

# All else that is set on a cursor is a setting for the driver's.
_OWN = frozenset(
    {"_rows", "_settings", "_sizes", "_stream", "_test", "description", "lastrowid", "rowcount"}
)


class GuestConnection:
    """A DBAPI connection to SQLAlchemy.

    Args:
        home: Where the connection lives.
        shared: The transaction that it shares.
        reads_only: The database refuses its writes.
        is_host: Others may write while it has written.
        autocommits: Its statements commit themselves, where nobody says otherwise.
        streams: The driver can have a stream open beside other statements.
    """

    def __init__(
        self,
        home: Home,
        shared: SharedTransaction,
        *,
        reads_only: bool = False,
        is_host: bool = False,
        autocommits: bool = False,
        streams: bool = True,
    ) -> None:
        self.guest = Guest(reads_only=reads_only, is_host=is_host)
        self.guest.autocommits = autocommits
        self._autocommits = autocommits
        self._home = home
        self._shared = shared
        self._streams = streams
        self._was_sent = False  # something, since the last COMMIT or ROLLBACK

    @property
    def real(self) -> Any:
        """What the guests share: SQLAlchemy's DBAPI connection, not to be used in other loops."""
        return self._shared.dbapi_connection

    def cursor(self, *arguments: Any, **options: Any) -> "GuestCursor":
        """Return a cursor that has all its rows at once; with any argument, one that streams."""
        if self._streams and (arguments or options):
            return GuestStream(self, arguments, options)
        return GuestCursor(self)

    def set_autocommit(self, wanted: bool | None) -> None:
        """Let statements commit themselves, or not; with None, as at the beginning."""
        self.guest.autocommits = self._autocommits if wanted is None else wanted

    def run(self, statement: str, work: Callable[[Any], T]) -> T:
        """Do `work`, which executes `statement`, with the connection that is shared."""
        who, self._was_sent = caller(), True
        return self._at_home(lambda: self._shared.run(self.guest, who, statement, work))

    @property
    def test(self) -> object:
        """What stands for the test that runs."""
        return self._shared.test

    def visit(self, work: Callable[[Any], T], test: object = None) -> T:
        """Do what is no statement with the connection that is shared, in `test` alone if given."""
        return self._at_home(lambda: self._shared.visit(work, test))

    def commit(self) -> None:
        """Release the savepoint; where there is none, at no cost."""
        if self._was_sent:
            self._at_home(lambda: self._shared.commit(self.guest))
            self._was_sent = False

    def rollback(self) -> None:
        """Undo what was done since the last COMMIT."""
        if self.guest.is_over:  # with all that it did
            self.guest.is_over = self._was_sent = False
        if self._was_sent:  # a pool asks for it at each return
            self._at_home(lambda: self._shared.rollback(self.guest))
            self._was_sent = False

    def close(self) -> None:
        """Roll back what is left."""
        self.rollback()

    def terminate(self) -> None:
        """Roll back what is left, as the end of a connection does."""
        self.rollback()

    def _at_home(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._home.call(make)


class GuestCursor:
    """A cursor that has all its rows as soon as the statement has run."""

    server_side = False

    def __init__(self, connection: GuestConnection) -> None:
        self._connection = connection
        self._rows: deque[Any] = deque()
        self._sizes: tuple[Any, ...] = ()
        self.arraysize = 1
        self.description: Any = None
        self.rowcount: int = -1
        self.lastrowid: Any = None
        # What SQLAlchemy's dialects set on their driver's cursors. From here on:
        self._settings: dict[str, Any] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if "_settings" in self.__dict__ and name not in _OWN:
            self._settings[name] = value

    def execute(self, operation: str, parameters: Any = None) -> Self:
        """Execute and fetch."""
        return self._run("execute", operation, parameters)

    def executemany(self, operation: str, seq_of_parameters: Sequence[Any]) -> int:
        """Execute once for each of the parameters; return how many rows that was about.

        PEP 249 says nothing of it, but SQLAlchemy's dialects for MySQL take it from here.
        """
        return self._run("executemany", operation, seq_of_parameters).rowcount

    def _run(self, how: str, operation: str, parameters: Any) -> Self:
        def work(connection: Any) -> tuple[Any, ...]:
            cursor = self._prepare(connection.cursor())
            try:
                _execute(cursor, how, operation, parameters)
                rows = cursor.fetchall() if cursor.description else ()
                lastrowid = getattr(cursor, "lastrowid", None)
                return rows, cursor.description, cursor.rowcount, lastrowid
            finally:
                cursor.close()

        answer = self._connection.run(operation, work)
        rows, self.description, self.rowcount, self.lastrowid = answer
        self._rows = deque(rows)
        return self

    def _prepare(self, cursor: Any) -> Any:
        for name, value in self._settings.items():
            setattr(cursor, name, value)
        if self._sizes:
            cursor.setinputsizes(*self._sizes)
        return cursor

    def setinputsizes(self, *sizes: Any) -> None:
        """Take the types of the parameters."""
        self._sizes = sizes

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        """Return the next `size` rows."""
        number = min(self.arraysize if size is None else size, len(self._rows))
        return [self._rows.popleft() for _ in range(number)]

    def fetchall(self) -> Sequence[Any]:
        """Return the rows that are left."""
        rows, self._rows = list(self._rows), deque()
        return rows

    def __iter__(self) -> Iterator[Any]:
        while (row := self.fetchone()) is not None:
            yield row

    def close(self) -> None:
        """Forget the rows; the driver's cursor was closed when they were fetched."""
        self._rows.clear()

    async def _async_soft_close(self) -> None:
        # SQLAlchemy's extension for asyncio calls it on the cursor of each result that it hands
        # over; there is no public name for it.
        ...


class GuestStream(GuestCursor):
    """A cursor that fetches as many rows as it is asked for, and not before."""

    server_side = True

    def __init__(
        self, connection: GuestConnection, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._stream: Any = None
        self._test: object = None
        self._asked_for = (arguments, options)
        super().__init__(connection)

    def _run(self, how: str, operation: str, parameters: Any) -> Self:
        def work(connection: Any) -> Any:
            arguments, options = self._asked_for
            cursor = self._prepare(connection.cursor(*arguments, **options))
            _execute(cursor, how, operation, parameters)
            return cursor, cursor.description

        self._test = self._connection.test
        self._stream, self.description = self._connection.run(operation, work)
        return self

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return next(iter(self.fetchmany(1)), None)

    def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        """Return the next `size` rows."""
        number = self.arraysize if size is None else size
        return self._fetch(lambda stream: stream.fetchmany(number))

    def fetchall(self) -> Sequence[Any]:
        """Return the rows that are left."""
        return self._fetch(lambda stream: stream.fetchall())

    def _fetch(self, fetch: Callable[[Any], Sequence[Any]]) -> Sequence[Any]:
        stream = self._stream
        if stream is None:
            return []
        return self._connection.visit(lambda _: fetch(stream), self._test)

    def close(self) -> None:
        """Let the driver's cursor go."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(NotUndone):  # it was closed with its transaction
                self._connection.visit(lambda _: stream.close(), self._test)


def _execute(cursor: Any, how: str, operation: str, parameters: Any) -> None:
    if parameters is None:
        getattr(cursor, how)(operation)
    else:
        getattr(cursor, how)(operation, parameters)
