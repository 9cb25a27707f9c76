"""The synchronous twin: the same database for Alembic, scripts and `def` endpoints."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine, MetaData, Pool, select
from sqlalchemy.orm import Session

from fastdb.blocking import allow_on_event_loop, refuse_if_it_blocks
from fastdb.engines import Engines
from fastdb.options import BeginIntent, Timeouts
from fastdb.schema import create_all
from fastdb.session import (
    TwinSession,
    abandon_sync,
    complete_sync,
    finish_reading_sync,
)


class SyncDatabase:
    """The same database as a `Database`, through a synchronous driver; you get it as `db.sync`.

        with db.sync.session() as session:
            session.add(Hero(name="Deadpond"))

    It belongs to threads and scripts: on the thread of an event loop it would stop every request,
    and is refused.
    Its engines are made at first use and closed with the Database, or by `close()`.
    """

    def __init__(
        self,
        make_engines: Callable[[], Engines[Engine]],
        *,
        session_class: type[TwinSession],
        session_options: Mapping[str, Any],
        begin_to_write: BeginIntent,
        transaction_pooler: bool = False,
    ) -> None:
        self.transaction_pooler = transaction_pooler
        """Whether a pooler gives each transaction another connection to the server."""
        self._make_engines = make_engines
        self._session_class = session_class
        self._session_options = session_options
        self._begin_to_write: BeginIntent = begin_to_write
        self._made: dict[str, Engines[Engine]] = {}

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy `Engine` that writes."""
        return self._engines.main

    @property
    def read_engine(self) -> Engine:
        """The SQLAlchemy `Engine` whose connections are held read-only by the database."""
        return self._engines.read

    @contextmanager
    def session(
        self,
        *,
        isolation: str | None = None,
        timeouts: Timeouts | None = None,
        begin: BeginIntent | None = None,
        on_event_loop: bool = False,
    ) -> Iterator[Session]:
        """Open one unit of work: COMMIT on success, ROLLBACK on any exception, close always.

        Args:
            isolation: Isolation level of this transaction. Default: the Database's.
            timeouts: Time limits of this transaction: `statement`, `lock` and
                `idle_in_transaction`. Default: the Database's.
            begin: On SQLite, "immediate" or "deferred". Default: by `SQLiteOptions.begin`.
            on_event_loop: Allow it on the thread of an event loop, which it blocks. Default: no.

        Raises:
            EventLoopBlocked: It is used on the thread of an event loop.
        """
        session = self.new_session(
            isolation=isolation, timeouts=timeouts, begin=begin, on_event_loop=on_event_loop
        )
        try:
            yield session
        except BaseException:
            abandon_sync(session)
            raise
        complete_sync(session)

    @contextmanager
    def read_session(
        self,
        *,
        snapshot: bool = False,
        timeouts: Timeouts | None = None,
        on_event_loop: bool = False,
    ) -> Iterator[Session]:
        """Open a session that only reads; the database refuses writes.

        Args:
            snapshot: Let all statements see one consistent view. Default: each sees what is
                committed when it runs (on SQLite always a snapshot).
            timeouts: Time limits of this session, as in `session`. Default: the Database's.
            on_event_loop: Allow it on the thread of an event loop, which it blocks. Default: no.
        """
        engines = self._engines
        engine = engines.limited(engines.snapshot if snapshot else engines.read, timeouts)
        engine = allow_on_event_loop(engine, on_event_loop)
        session = self._session_class(engine, **self._session_options)
        session.reads_only = True
        try:
            yield session
        except BaseException:
            abandon_sync(session)
            raise
        finish_reading_sync(session)

    def new_session(
        self,
        *,
        isolation: str | None = None,
        timeouts: Timeouts | None = None,
        begin: BeginIntent | None = None,
        on_event_loop: bool = False,
    ) -> TwinSession:
        """Return a session for whoever ends it: for integrations; others use `session()`."""
        begin = self._begin_to_write if begin is None else begin
        engine = self._engines.variant(begin, isolation, timeouts)
        engine = allow_on_event_loop(engine, on_event_loop)
        return self._session_class(engine, **self._session_options)

    def create_all(self, metadata: MetaData, *, on_event_loop: bool = False) -> None:
        """Create the missing tables; safe when several processes start at once.

        Args:
            metadata: The tables.
            on_event_loop: Allow it on the thread of an event loop, which it blocks. Default: no.
        """
        engine = allow_on_event_loop(self._engines.variant("immediate", None), on_event_loop)
        refuse_if_it_blocks(engine.get_execution_options())
        with engine.begin() as connection:
            create_all(connection, metadata)

    def ping(self, *, on_event_loop: bool = False) -> None:
        """Ask the database for an answer, and raise what it raises.

        Args:
            on_event_loop: Allow it on the thread of an event loop, which it blocks. Default: no.
        """
        engine = allow_on_event_loop(self.read_engine, on_event_loop)
        refuse_if_it_blocks(engine.get_execution_options())
        with engine.connect() as connection:
            connection.execute(select(1))

    def pools(self) -> tuple[Pool, ...]:
        """Return the pools of the engines that were made: for `fastdb.testing`."""
        return tuple(pool for engines in self._made.values() for pool in engines.pools())

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        while self._made:
            _, engines = self._made.popitem()
            engines.read.dispose()
            engines.main.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _engines(self) -> Engines[Engine]:
        engines = self._made.get("engines")
        if engines is None:
            # Two threads may both make one; `setdefault` lets one win, and the other was never
            # connected. That needs no lock, which a fork could leave locked.
            engines = self._made.setdefault("engines", self._make_engines())
        return engines
