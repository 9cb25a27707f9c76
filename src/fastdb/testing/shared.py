"""One transaction that all sessions of a test share, and that is rolled back in the end.

Each of them has a savepoint where it believes to have a transaction: its COMMIT releases it, its
ROLLBACK goes back to it. Savepoints of one connection lie on top of each other, so that to undo
one of them undoes all that has come after it, whoever wrote it. Therefore a unit of work that has
written is alone until it ends: the others wait, as they would for its locks; only reads of the same
request do not. Those that have only read are in nobody's way: theirs is released, and they take a
new one when they go on; where a read cannot do harm, they have none at all.

The session of the test itself is a host: what the app does meanwhile lies on top of it, and sees
what the test has flushed.

Everything here runs in the event loop in which the connection lives.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncTransaction

from fastdb.callers import Caller
from fastdb.errors import NotUndone, UnitsOverlap
from fastdb.greenlets import in_greenlet
from fastdb.testing.home import OVER
from fastdb.testing.statements import commits_on_mysql, ends_transaction, only_reads

T = TypeVar("T")

# Around all others. It tells at the end whether the transaction is still the same. PostgreSQL lets
# no procedure end a transaction that has savepoints, and needs no telling.
_AROUND = "fastdb_test"

_numbers = count(1)

# Cancelled in the middle of an answer, their connection is lost, and with it the test's data.
_NOT_TO_BE_CANCELLED = frozenset({"aiomysql", "asyncmy"})

_MYSQL_FUNCTIONS = text(
    "SELECT EXISTS (SELECT * FROM information_schema.routines WHERE routine_type = 'FUNCTION'"
    " AND routine_schema NOT IN ('mysql', 'sys'))"
)

_MARIADB_MAY_IDLE = text(
    "SET SESSION idle_transaction_timeout = 0, SESSION idle_write_transaction_timeout = 0,"
    " SESSION idle_readonly_transaction_timeout = 0"
)

_ENDED = (
    "The transaction around this test was ended inside of it: by a procedure that commits, or with"
    " its connection. What the test wrote may still be there."
)


class Guest:
    """Who uses the transaction as if it were its own: what SQLAlchemy takes for a connection.

    Attributes:
        name: Of its savepoint.
        number: Its own, for the savepoints that it asks for.
        is_saved: Its savepoint is there.
        is_over: Its transaction was rolled back with the test in which it began.
        reads_only: The database refuses its writes.
        autocommits: Each of its statements commits itself.
        is_host: Others may write while it has written, and what they do is undone with it.
    """

    def __init__(self, *, reads_only: bool = False, is_host: bool = False) -> None:
        self.name = ""
        self.number = next(_numbers)
        self.is_over = False
        self.reads_only = reads_only
        self.autocommits = False
        self.is_host = is_host
        self.is_saved = False
        self.has_written = False
        self.has_failed = False
        self.said_first = ""
        self.caller = Caller(None, None)

    def begin(self, name: str, caller: Caller, statement: str) -> None:
        """Take note of who has begun."""
        self.name = name
        self.is_saved = self.has_written = self.has_failed = False
        self.caller, self.said_first = caller, _first_line(statement)

    def would_wait_for_itself(self, caller: Caller) -> bool:
        """Return whether the same task or thread has begun it, and cannot end it meanwhile."""
        return self.caller.owner is caller.owner

    def is_of(self, caller: Caller) -> bool:
        """Return whether it belongs to the same request, or where there is none, task or thread."""
        ours = self.caller
        if ours.request is not None or caller.request is not None:
            return ours.request is caller.request
        return ours.owner is caller.owner

    def __str__(self) -> str:
        return f"{self.caller}, which began with: {self.said_first}"


class SharedTransaction:
    """A connection, and the transaction around each test.

    Args:
        engine: A connection of it is taken, and kept until `close()`.
        wait_seconds: For how long a unit of work waits for another one to end.
    """

    def __init__(self, engine: AsyncEngine, *, wait_seconds: float = 5.0) -> None:
        self._engine = engine
        self._wait_seconds = wait_seconds
        self._connection: AsyncConnection | None = None
        self._transaction: AsyncTransaction | None = None
        self._test: object = None  # a new one for each, None between them
        self.dbapi_connection: Any = None
        self._guests: list[Guest] = []  # those that have begun, the innermost last
        # Who holds it has the connection; who waits for it is told when a savepoint has gone.
        self._changes = asyncio.Condition()
        self._is_read_only: bool | None = False
        self._is_lost = False
        self._backend = engine.dialect.name
        self._is_mysql = self._backend in ("mysql", "mariadb")
        # A statement that fails costs PostgreSQL all that is not saved. Elsewhere only a function
        # that is selected could write, which SQLite does not have.
        self._saves_readers = self._backend == "postgresql"
        self._may_be_cancelled = engine.dialect.driver not in _NOT_TO_BE_CANCELLED

    async def connect(self) -> AsyncConnection:
        """Take the connection, and return it."""
        connection = await self._engine.connect()
        try:
            raw = await connection.get_raw_connection()
            if self._is_mysql:
                await self._get_to_know_mysql(connection)
        except BaseException:
            await connection.close()
            raise
        self._connection, self.dbapi_connection = connection, raw.dbapi_connection
        self._is_read_only, self._is_lost = False, False
        return connection

    async def _get_to_know_mysql(self, connection: AsyncConnection) -> None:
        self._saves_readers = bool(await connection.scalar(_MYSQL_FUNCTIONS))
        if getattr(self._engine.dialect, "is_mariadb", False):
            # The transaction goes on between tests, and while somebody looks around in a debugger.
            await connection.execute(_MARIADB_MAY_IDLE)
        await connection.rollback()

    def begin(self) -> None:
        """Begin a test; its transaction begins with its first statement."""
        self._test = object()

    async def roll_back(self) -> None:
        """Undo all that was done since `begin`.

        Raises:
            NotUndone: The transaction was not there any more.
        """
        self._test = None
        async with self._changes:
            while self._guests:
                self._guests.pop().is_over = True
            self._changes.notify_all()
            if self._transaction is None:
                return
            try:
                await self._read_only(False)
                await self._undo(self._transaction)
            except Exception as error:
                await self._give_up()
                raise NotUndone(_ENDED) from error
            if self._is_lost:
                await self._give_up()
                raise NotUndone(_ENDED)

    async def _begin(self) -> None:
        connection = self._connection
        if connection is None or connection.closed or connection.invalidated:
            await self._let_go()
            connection = await self.connect()
        self._transaction = await connection.begin()
        if self._backend != "postgresql":
            await self._say(f"SAVEPOINT {_AROUND}")

    async def _undo(self, transaction: AsyncTransaction) -> None:
        if self._backend != "postgresql":
            # On MySQL it stays, for the next test, and no row lock and no snapshot does: of an
            # engine that has joined since, all is rolled back.
            await self._say(f"ROLLBACK TO SAVEPOINT {_AROUND}")
        if not self._is_mysql:
            # PostgreSQL's now() is that of its beginning. SQLite would keep what goes only with
            # a transaction: `PRAGMA defer_foreign_keys`, and streams that nobody has closed.
            self._transaction = None
            await transaction.rollback()

    async def _give_up(self) -> None:
        connection, self._connection, self._transaction = self._connection, None, None
        if connection is not None:
            await connection.invalidate()
            await connection.close()

    async def close(self) -> None:
        """Give the connection back."""
        await self._let_go()

    async def _let_go(self) -> None:
        connection, self._connection, self._transaction = self._connection, None, None
        if connection is None:
            return
        try:
            await connection.close()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # It was lost since, with the transaction that was to be rolled back.

    # What guests do

    async def run(
        self, guest: Guest, caller: Caller, statement: str, work: Callable[[Any], T]
    ) -> T:
        """Run a statement of a guest's, in its savepoint, when it is its turn.

        Args:
            guest: Who.
            caller: For whom.
            statement: The text, which tells whether others have to wait for the guest's end.
            work: Called with the DBAPI connection, where it may wait.

        Raises:
            UnitsOverlap: Another unit of work did not end in time, or cannot.
            NotUndone: The statement cannot be undone by a rollback; it is not run.
        """
        test = self._test
        self._refuse(statement)
        reads = only_reads(statement)
        if guest.reads_only and self._is_mysql and not reads:
            # MySQL has no savepoints that only read. What it would say, word for word.
            raise self.dbapi_connection.dbapi.OperationalError(
                1792, "Cannot execute statement in a READ ONLY transaction"
            )
        async with self._changes:
            await self._turn(guest, caller, statement, reads=reads)
            if guest.is_over or self._test is not test:
                raise NotUndone(OVER)
            if self._transaction is None:
                await _to_the_end(self._begin())
            await self._enter(guest, caller, statement, reads=reads)
            await self._read_only(guest.reads_only)
            guest.has_written = guest.has_written or not reads
            try:
                return await self._work(work)
            except BaseException as error:
                guest.has_failed = True
                self._is_lost = self._is_lost or self._is_disconnect(error)
                raise
            finally:
                if guest.autocommits and not self._is_lost:
                    await self._step_aside(guest)

    async def _enter(self, guest: Guest, caller: Caller, statement: str, *, reads: bool) -> None:
        if guest not in self._guests:
            # By their place: drivers keep statements prepared by their text.
            guest.begin(f"fastdb_{len(self._guests)}", caller, statement)
            self._guests.append(guest)
        if not guest.is_saved and (self._saves_readers or not reads):
            await self._say(f"SAVEPOINT {guest.name}")
            guest.is_saved = True

    def _is_disconnect(self, error: Any) -> bool:
        dialect: Any = self._engine.dialect
        return isinstance(error, dialect.loaded_dbapi.Error) and bool(
            dialect.is_disconnect(error, self.dbapi_connection, None)
        )

    @property
    def test(self) -> object:
        """What stands for the test that runs: another one for each, None between them."""
        return self._test

    async def visit(self, work: Callable[[Any], T], test: object = None) -> T:
        """Do what is no statement, such as fetching the rows of one, as soon as nobody else is.

        Raises:
            NotUndone: It belongs to a test, `test`, that has ended.
        """
        async with self._changes:
            if test is not None and self._test is not test:
                raise NotUndone(OVER)
            return await self._work(work)

    async def commit(self, guest: Guest) -> None:
        """Release the guest's savepoint: what it did is there for the others."""
        await self._end(guest, f"RELEASE SAVEPOINT {guest.name}")

    async def rollback(self, guest: Guest) -> None:
        """Undo what the guest did since its savepoint."""
        guest.is_over = False  # who has it next begins anew
        # A function that was selected may have written.
        back = [f"ROLLBACK TO SAVEPOINT {guest.name}"] * (not guest.reads_only or guest.has_failed)
        await self._end(guest, *back, f"RELEASE SAVEPOINT {guest.name}")

    async def _end(self, guest: Guest, *statements: str) -> None:
        async with self._changes:
            if guest.is_over:
                raise NotUndone(OVER)
            if guest not in self._guests:
                return
            await self._turn(guest, guest.caller, "COMMIT or ROLLBACK", reads=False)
            if guest not in self._guests:  # the test has ended meanwhile
                raise NotUndone(OVER)
            await self._release(guest, *statements)

    async def _release(self, guest: Guest, *statements: str) -> None:
        try:
            if guest.is_saved:
                await self._read_only(False)
                for statement in statements:
                    await self._say(statement)
        finally:
            self._guests.remove(guest)
            self._changes.notify_all()

    async def _step_aside(self, reader: Guest) -> None:
        """Release the savepoint of a guest who has only read; it will take a new one."""
        back = [f"ROLLBACK TO SAVEPOINT {reader.name}"] * reader.has_failed
        await self._release(reader, *back, f"RELEASE SAVEPOINT {reader.name}")

    async def _turn(self, guest: Guest, caller: Caller, statement: str, *, reads: bool) -> None:
        """Wait until nobody is above the guest who would be undone with it."""
        other = await self._in_the_way(guest, caller, reads=reads)
        if other is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait_seconds):
                while not other.would_wait_for_itself(caller):
                    await self._changes.wait()
                    other = await self._in_the_way(guest, caller, reads=reads)
                    if other is None:
                        return
        raise UnitsOverlap(
            f"Two units of work of this test overlap: {caller} was to run {_first_line(statement)},"
            f" but {other} has not ended. In a test that is rolled back, all share one connection,"
            " and a unit that has written is alone until it commits or rolls back. End it first;"
            " or, where they are meant to overlap, mark the test with"
            ' @pytest.mark.fastdb(isolation="database").'
        )

    async def _in_the_way(self, guest: Guest, caller: Caller, *, reads: bool) -> Guest | None:
        """Return who must end first; those who have only read step aside."""
        if not reads and not guest.has_written and self._is_on_another(guest):
            while guest in self._guests and not self._guests[-1].has_written:
                await self._step_aside(self._guests[-1])
        is_in = guest in self._guests
        while self._guests and self._guests[-1] is not guest:
            top = self._guests[-1]
            if top.has_written:
                # Whoever waited for its own request, or for the test itself, would wait for ever.
                may_join = not is_in and (top.is_host or (reads and top.is_of(caller)))
                return None if may_join else top
            await self._step_aside(top)
        return None

    def _is_on_another(self, guest: Guest) -> bool:
        """Return whether a unit that has written is beneath the guest, who has read in it."""
        if guest not in self._guests:
            return False
        beneath = self._guests[: self._guests.index(guest)]
        return any(other.has_written and not other.is_host for other in beneath)

    def _refuse(self, statement: str) -> None:
        if self._test is None:
            raise NotUndone(
                f"This was to run outside of any test: {_first_line(statement)}. A test that uses"
                " the app's database asks for a fixture of fastdb's (db, session, client, …), or"
                ' for its databases alone: @pytest.mark.usefixtures("fastdb_test"). What the app'
                " does between two tests would not be undone: stop its tasks with its lifespan, or"
                " the test's sessions with the test."
            )
        if ends_transaction(statement):
            raise NotUndone(
                f"In a test that is rolled back, this is not left to SQL: {_first_line(statement)}."
                " Use commit() and rollback() of the session or the connection; or mark the test"
                ' with @pytest.mark.fastdb(isolation="database").'
            )
        if self._is_mysql and commits_on_mysql(statement):
            raise NotUndone(
                f"MySQL commits by itself before this, so no rollback could undo the test:"
                f" {_first_line(statement)}. Let the tables be made once, by the setting"
                ' fastdb_schema; or mark the test with @pytest.mark.fastdb(isolation="database").'
            )

    async def _read_only(self, wanted: bool) -> None:
        """Let the database refuse writes, or not."""
        if self._is_read_only is wanted:
            return
        self._is_read_only = None  # nobody knows, if this is interrupted
        if self._backend == "sqlite":
            await self._say(f"PRAGMA query_only = {'ON' if wanted else 'OFF'}")
        elif self._backend == "postgresql" and wanted:
            # It ends with the savepoint.
            await self._say("SET LOCAL transaction_read_only = on")
        self._is_read_only = wanted

    async def _say(self, statement: str) -> None:
        def say(connection: Any) -> None:
            _execute(connection, statement)

        try:
            await _to_the_end(in_greenlet(say, self.dbapi_connection))
        except Exception as error:
            self._is_lost = self._is_lost or self._is_disconnect(error)
            raise

    async def _work(self, work: Callable[[Any], T]) -> T:
        working = in_greenlet(work, self.dbapi_connection)
        return await (working if self._may_be_cancelled else _to_the_end(working))


async def _to_the_end(working: Coroutine[Any, Any, T]) -> T:
    """Await `working`; a cancellation waits for its end too, so that nobody else comes between."""
    task = asyncio.ensure_future(working)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # the caller has gone
        raise cancelled
    return task.result()


def _execute(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()


def _first_line(statement: str) -> str:
    line = " ".join(statement.split())
    return line if len(line) <= 100 else f"{line[:97]}..."
