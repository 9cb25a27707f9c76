"""SQLAlchemy's connection over aiosqlite, with at most one hop per statement.

aiosqlite owns the SQLite connection and the thread that it is used in. Each of its calls goes to
that thread and back, a hop, and SQLAlchemy's adapter makes four to six of them for one SELECT.
Here one hop does it all: BEGIN if the transaction has not begun yet, the statement, its rows. A
statement that has earned it (see `inline`) needs none, nor does the end of a transaction that has
only read.

What is private in aiosqlite and cannot be done without is used in this file, and noticed by a test
when it changes: `Connection._execute`, the one way to run a function of ours in the connection's
thread, and `Connection._conn`, the sqlite3 connection there.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, repeat
from typing import Any, TypeVar, cast

from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_dbapi,
)

from fastdb.greenlets import may_wait
from fastdb.sqlite.cancellation import close_in_time, stop
from fastdb.sqlite.cursors import AcceleratedCursor, StreamingCursor
from fastdb.sqlite.hops import (
    Answer,
    TooMuch,
    Work,
    end,
    fetch_all,
    fetch_little,
    fetch_more,
    look_at,
    open_stream,
    take_over_waiting,
    timed,
    wait_for_locks,
    within_limit,
)
from fastdb.sqlite.inline import STEPS_BETWEEN_LOOKS, InlineReads
from fastdb.sqlite.intent import (
    Begin,
    Terms,
    begin_for,
    is_begin,
    is_read,
    is_write,
    only_begins,
    rolled_back_by_sqlite,
)
from fastdb.sqlite.writelock import WriteLock

T = TypeVar("T")

# Reads on the loop's thread never wait; after so many in a row, others have their turn.
_READS_IN_A_ROW = 16

# SQLite's own pauses between two attempts (sqliteDefaultBusyCallback in main.c), shorter at the
# end: nobody but this task waits here.
_PAUSES = (0.001, 0.002, 0.005, 0.010, 0.015, 0.020)


class _Nothing:
    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


_NOTHING = _Nothing()


@dataclass(frozen=True, slots=True)
class Equipment:
    """What the connections of one engine share.

    Attributes:
        write_lock: Who writes to this file.
        inline_reads: What may run on the event loop's thread; None for nothing.
        close_seconds: How long an interrupted statement may take to stop.
        reads_only: SQLite refuses what these connections write: nothing waits for the lock.
    """

    write_lock: WriteLock
    inline_reads: InlineReads | None
    close_seconds: float
    reads_only: bool


class AcceleratedConnection(AsyncAdapt_aiosqlite_connection):
    """What SQLAlchemy uses as its DBAPI connection, around an open connection of aiosqlite."""

    def __init__(self, dbapi: Any, driver_connection: Any) -> None:
        super().__init__(dbapi, driver_connection)
        self.begins = True  # False under AUTOCOMMIT
        self._raw: sqlite3.Connection = driver_connection._conn  # noqa: SLF001
        self._equipment = Equipment(WriteLock(), None, close_seconds=5.0, reads_only=False)
        self._lock_seconds = 5.0
        self._sqlite_waits_seconds: float | None = 5.0
        self._waits_itself = False  # for locks; else SQLite does, asleep in the thread
        self._may_work_here = False  # on the loop's thread
        self._one_at_a_time = asyncio.Lock()
        self._is_lost = False  # its thread could not be stopped, and nobody knows what it does
        self._is_wanted = False  # a transaction, which begins with the next statement
        self._is_open = False  # its BEGIN was sent, and nobody has ended it since
        self._has_view = False  # of the file: it has read or written, not only begun
        self._has_only_read = False
        self._streams: set[sqlite3.Cursor] = set()
        self._reads_in_a_row = 0

    def equip(self, equipment: Equipment) -> None:
        """Take over what the engine's connections share, and the waiting for locks.

        SQLite waits asleep, in its thread, where nobody can interrupt it. In WAL mode there is one
        lock to wait for, at the beginning, and it is waited for here. The other journal modes lock
        in many places: they keep SQLite's way, and nothing of them runs on the loop's thread.
        """
        milliseconds, is_wal = self.run_async(lambda _: self._hop(take_over_waiting))
        self._lock_seconds = self._sqlite_waits_seconds = milliseconds / 1000
        self._waits_itself = is_wal
        self._may_work_here = is_wal and self._is_for_all_threads()
        inline_reads = equipment.inline_reads if self._may_work_here else None
        self._equipment = replace(equipment, inline_reads=inline_reads)

    def _is_for_all_threads(self) -> bool:
        try:
            self._raw.set_progress_handler(None, 0)
        except sqlite3.ProgrammingError:
            return False  # somebody has opened it with check_same_thread
        return True

    def cursor(self, server_side: bool = False) -> Any:
        """Return a cursor, in no hop; with `server_side`, one that fetches as it goes."""
        return StreamingCursor(self) if server_side else AcceleratedCursor(self)

    def close(self) -> None:
        """Close the connection; its thread ends."""
        try:
            super().close()
        finally:
            self._forget_transaction()

    def terminate(self) -> None:
        """Close the connection, or leave that to its thread."""
        try:
            if self._is_lost or not may_wait():
                self._terminate_force_close()  # the other way waits for the thread, without limit
            else:
                seconds = self._equipment.close_seconds
                self.run_async(lambda connection: close_in_time(connection, seconds))
        finally:
            self._forget_transaction()

    def is_idle(self) -> bool:
        """Return whether nothing is being done in the connection's thread."""
        return not self._is_lost and not self._one_at_a_time.locked()

    # Transactions

    def begin(self) -> None:
        """Begin a transaction with the next statement."""
        if not self._in_transaction():
            self._forget_transaction()  # whatever became of the last one
        self._is_wanted = self.begins

    def commit(self) -> None:
        """COMMIT: one hop, or none where nothing was written."""
        self._refuse_lost_transaction()
        self._end(sqlite3.Connection.commit)

    def rollback(self) -> None:
        """ROLLBACK: one hop, or none where nothing was written."""
        self._end(sqlite3.Connection.rollback)

    def _end(self, how: Callable[[sqlite3.Connection], None]) -> None:
        self._is_wanted = False
        if not self._in_transaction() and not self._streams:
            self._forget_transaction()
        elif self._has_only_read and self._may_work_here and not self._streams and self.is_idle():
            how(self._raw)  # no I/O: SQLite lets go of its view of the file
            self._forget_transaction()
        else:
            self.run_async(lambda _: self._end_in_thread(how))

    async def _end_in_thread(self, how: Callable[[sqlite3.Connection], None]) -> None:
        async with self._one_at_a_time:
            streams, self._streams = self._streams, set()
            try:
                await self._hop(partial(end, how=how, streams=streams), interrupt=False)
            finally:
                if not self._in_transaction():
                    self._forget_transaction()

    def _forget_transaction(self) -> None:
        self._is_open = self._has_view = self._has_only_read = False
        self._equipment.write_lock.freed(self)

    def _in_transaction(self) -> bool:
        try:
            return self._raw.in_transaction
        except sqlite3.ProgrammingError:
            return False  # it is closed

    def _refuse_lost_transaction(self) -> None:
        """Raise if SQLite itself has ended the transaction, which nobody else has."""
        if self._is_open and not self._in_transaction():
            raise rolled_back_by_sqlite()

    # Statements

    def execute(self, operation: Any, parameters: Any = None) -> Any:
        """Execute on a new cursor and return it, as sqlite3's connections do."""
        return self.cursor().execute(operation, parameters)

    def run(self, statement: str, parameters: Any, terms: Terms) -> Answer:
        """Run a statement and fetch its rows, in one hop or none."""
        answer = self._execute_here(statement, parameters, terms)
        if answer is not None:
            return answer
        work = partial(fetch_all, statement=statement, parameters=parameters)
        reads = self._equipment.inline_reads
        if reads is None or not reads.is_candidate(statement):
            return self.in_thread(work, statement, terms)
        answer, seconds = self.in_thread(partial(timed, work=work), statement, terms)
        if reads.has_earned_a_look(statement, seconds=seconds, rows=len(answer.rows)):
            look = partial(look_at, statement=statement, parameters=parameters)
            reads.was_looked_at(statement, self.in_thread(look, statement, terms))
        return answer

    def _execute_here(self, statement: str, parameters: Any, terms: Terms) -> Answer | None:
        """Run a read that has earned it on this thread; return None where that may not be."""
        reads = self._equipment.inline_reads
        if reads is None or not reads.allows(statement):
            return None
        self.run_async(self._take_turns)
        if not self.is_idle():
            return None
        begin = self._begin_for(statement, terms)
        if begin == "BEGIN IMMEDIATE":
            return None
        done = statement
        self._raw.set_progress_handler(reads.is_over_time, STEPS_BETWEEN_LOOKS)
        reads.begin_run()
        try:
            return fetch_little(self._raw, begin=begin, statement=statement, parameters=parameters)
        except TooMuch:
            reads.has_lost(statement)
            return None
        except sqlite3.OperationalError as error:
            if _code(error) == sqlite3.SQLITE_INTERRUPT:
                reads.has_lost(statement)
            elif _code(error) == sqlite3.SQLITE_BUSY:
                done = "BEGIN"  # the file was not read: in the thread, it is waited for
            else:
                raise
            return None
        finally:
            reads.end_run()
            self._raw.set_progress_handler(None, 0)
            self._note_transaction(done)

    def _take_turns(self, _: Any) -> Awaitable[None]:
        """Let the other tasks run, once in a while.

        Otherwise wait for nothing: SQLAlchemy takes an execution without any await for a mistake.
        """
        self._reads_in_a_row += 1
        if self._reads_in_a_row < _READS_IN_A_ROW:
            return _NOTHING
        self._reads_in_a_row = 0
        return asyncio.sleep(0)

    def in_thread(self, work: Work[T], statement: str, terms: Terms) -> T:
        """Run `work` in the connection's thread, in one hop, as soon as it may."""
        self._reads_in_a_row = 0
        return self.run_async(lambda _: self._execute(work, statement, terms))

    async def _execute(self, work: Work[T], statement: str, terms: Terms) -> T:
        lock = self._equipment.write_lock
        lock_seconds = self._lock_seconds if terms.lock_seconds is None else terms.lock_seconds
        if terms.statement_seconds is not None and not is_begin(statement):
            work = partial(within_limit, work=work, seconds=terms.statement_seconds)
        async with self._one_at_a_time:
            await self._let_sqlite_wait(lock_seconds)
            deadline = asyncio.get_running_loop().time() + lock_seconds
            begin = self._begin_for(statement, terms)
            writes = is_write(statement) and not self._equipment.reads_only
            has_lock = begin == "BEGIN IMMEDIATE"
            if (has_lock or writes) and not lock.held_by(self):
                await self._ask_for_lock(lock_seconds)
            try:
                answer = await self._insist(work, begin, deadline, lock_seconds)
                self._is_open = self._is_open and self._in_transaction()
                has_lock = has_lock or writes
            except sqlite3.IntegrityError:
                has_lock = True  # what it is in conflict with was found with the lock
                raise
            except sqlite3.OperationalError as error:
                if begin is not None and _code(error) == sqlite3.SQLITE_INTERRUPT:
                    # If SQLite has ended what was begun here, the next statement is to know.
                    self._is_open, self._is_wanted = True, False
                raise
            finally:
                self._note_transaction(statement)
                if has_lock and self._in_transaction() and not lock.held_by(self):
                    lock.taken(self)
            return answer

    async def _let_sqlite_wait(self, seconds: float) -> None:
        """Tell SQLite, where it waits, of a limit that is not that of the last transaction."""
        if not self._waits_itself and seconds != self._sqlite_waits_seconds:
            self._sqlite_waits_seconds = None  # nobody knows, if this is cancelled
            await self._hop(partial(wait_for_locks, seconds=seconds))
            self._sqlite_waits_seconds = seconds

    async def _ask_for_lock(self, seconds: float) -> None:
        lock = self._equipment.write_lock
        if self._has_view:
            # It would not help to wait: what others commit meanwhile is not in this view, and
            # SQLite lets nobody write then. It says at once.
            lock.refuse_own_holder(self)
        else:
            await lock.take_turn(self, seconds=seconds)

    def _begin_for(self, statement: str, terms: Terms) -> Begin | None:
        self._refuse_lost_transaction()
        if not self._is_wanted or self._in_transaction() or is_begin(statement):
            return None
        if self._equipment.reads_only:
            return "BEGIN DEFERRED"
        return begin_for(statement, terms.intent)

    def _note_transaction(self, statement: str) -> None:
        if not self._in_transaction():
            self._equipment.write_lock.freed(self)
            return
        if not self._is_open:
            self._is_open, self._is_wanted, self._has_only_read = True, False, True
        self._has_view = self._has_view or not only_begins(statement)
        self._has_only_read = self._has_only_read and is_read(statement)

    async def _insist(
        self, work: Work[T], begin: Begin | None, deadline: float, seconds: float
    ) -> T:
        """Run `work`, and again while somebody else holds the lock that it begins with."""
        loop = asyncio.get_running_loop()
        changes = self._raw.total_changes
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            try:
                return await self._hop(partial(work, begin=begin))
            except sqlite3.OperationalError as error:
                # Once something was done, it cannot be done again; and who has a view of the file
                # that others have changed since will never have the lock.
                may_wait = self._waits_itself and not self._has_view
                if _code(error) != sqlite3.SQLITE_BUSY or not may_wait:
                    raise
                if self._raw.total_changes != changes:
                    raise
                if loop.time() + pause > deadline:
                    raise self._equipment.write_lock.not_had(seconds) from error
            await asyncio.sleep(pause)
        raise AssertionError  # pragma: no cover - the pauses never end

    # Streams, whose rows are fetched later

    def open_stream(self, statement: str, parameters: Any, terms: Terms) -> sqlite3.Cursor:
        """Run a statement, in one hop, and leave its rows where they are."""
        work = partial(
            open_stream, statement=statement, parameters=parameters, streams=self._streams
        )
        return self.in_thread(work, statement, terms)

    def read_stream(self, fetch: Callable[[], list[Any]], terms: Terms) -> list[Any]:
        """Fetch rows of a stream, in one hop."""
        work = partial(fetch_more, fetch=fetch, seconds=terms.statement_seconds)
        return self.run_async(lambda _: self._do(work))

    def close_stream(self, stream: sqlite3.Cursor) -> None:
        """Close a stream, in one hop, unless the end of its transaction has."""
        if stream in self._streams:
            self._streams.remove(stream)
            self.run_async(lambda _: self._do(lambda _: stream.close()))

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        async with self._one_at_a_time:
            return await self._hop(work)

    async def _hop(self, work: Callable[[sqlite3.Connection], T], *, interrupt: bool = True) -> T:
        """Go to the connection's thread, do `work` there, and come back with what it returns."""
        try:
            return cast("T", await self._connection._execute(work, self._connection._conn))  # noqa: SLF001
        except asyncio.CancelledError:
            seconds = self._equipment.close_seconds
            self._is_lost = not await stop(self._connection, seconds=seconds, interrupt=interrupt)
            raise
        except ValueError as error:
            if str(error).lower() in ("no active connection", "connection closed"):
                raise sqlite3.OperationalError("no active connection") from error
            raise


class AcceleratedDBAPI(AsyncAdapt_aiosqlite_dbapi):
    """SQLAlchemy's view of aiosqlite as a DBAPI module, whose connections are accelerated."""

    def connect(self, *args: Any, **kwargs: Any) -> AcceleratedConnection:
        """Open a connection, and its thread."""
        return AcceleratedConnection(self, super().connect(*args, **kwargs).driver_connection)


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; an error of the sqlite3 module itself has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
