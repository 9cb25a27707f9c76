"""Engines whose connections are guests of one transaction.

SQLAlchemy does not say how to give a dialect other transactions, nor how to make an engine without
the statements with which it gets to know its server: `Engine(pool, dialect, url)` and a class in
front of the dialect's are used here, in this file only. A test notices when SQLAlchemy ends a
transaction in any other way.
"""

import asyncio
from collections.abc import Callable, Iterator
from inspect import isfunction
from typing import Any, TypeVar, cast

from sqlalchemy import Dialect, Engine, Pool
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool, PoolProxiedConnection, QueuePool

from fastdb.blocking import refuse_on_event_loop
from fastdb.engines import Engines, Recipe
from fastdb.guards import refuse_failed_commits
from fastdb.loops import EnginesByLoop
from fastdb.pools import FairQueuePool, WatchedQueuePool, watch_holders
from fastdb.supply import Supply
from fastdb.testing.guests import GuestConnection
from fastdb.testing.home import Home
from fastdb.testing.shared import SharedTransaction

E = TypeVar("E", Engine, AsyncEngine)


class _GuestTransactions:
    """Savepoints where a dialect has transactions; put in front of its class."""

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin with the first statement."""

    def do_commit(self, dbapi_connection: Any) -> None:
        """Release the savepoint."""
        dbapi_connection.commit()

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Go back to the savepoint."""
        dbapi_connection.rollback()

    def do_close(self, dbapi_connection: Any) -> None:
        """Go back to the savepoint."""
        dbapi_connection.close()

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Go back to the savepoint."""
        dbapi_connection.terminate()

    def do_ping(self, dbapi_connection: Any) -> bool:
        """Return that it lives: another one would not have the test's data."""
        return True

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """Keep the level of the test's transaction; statements may commit themselves."""
        dbapi_connection.set_autocommit(level == "AUTOCOMMIT")

    def reset_isolation_level(self, dbapi_connection: Any) -> None:
        """Let statements commit themselves, or not, as they did at first."""
        dbapi_connection.set_autocommit(None)

    def detect_autocommit_setting(self, dbapi_conn: Any) -> bool:
        """Return that there is something to end."""
        return False

    def set_readonly(self, connection: Any, value: bool) -> None:
        """Let the database refuse writes."""
        connection.guest.reads_only = value

    def get_readonly(self, connection: Any) -> bool:
        """Return whether the database refuses writes."""
        return bool(connection.guest.reads_only)

    def set_deferrable(self, connection: Any, value: bool) -> None:
        """Do nothing: the transaction is not its own."""

    def is_disconnect(self, e: Exception, connection: Any, cursor: Any) -> bool:
        """Return whether the connection that all share was lost."""
        guest = getattr(connection, "dbapi_connection", connection)
        return bool(cast("Any", super()).is_disconnect(e, guest.real, None))

    def get_driver_connection(self, connection: Any) -> Any:
        """Return the guest: the driver's connection belongs to another event loop."""
        return connection

    # The savepoints of several guests must not have the same names: MySQL would forget the older.

    def do_savepoint(self, connection: Any, name: str) -> None:
        """Set a savepoint of the guest's own."""
        cast("Any", super()).do_savepoint(connection, _own_name(connection, name))

    def do_rollback_to_savepoint(self, connection: Any, name: str) -> None:
        """Go back to one of the guest's own."""
        cast("Any", super()).do_rollback_to_savepoint(connection, _own_name(connection, name))

    def do_release_savepoint(self, connection: Any, name: str) -> None:
        """Release one of the guest's own."""
        cast("Any", super()).do_release_savepoint(connection, _own_name(connection, name))


def _own_name(connection: Any, name: str) -> str:
    return f"fastdb_{connection.connection.dbapi_connection.guest.number}_{name}"


def guest_dialect(dialect: Dialect) -> Dialect:
    """Return a copy of `dialect`, which knows its server, with savepoints for transactions."""
    kind = type(dialect)
    made: Any = type(kind.__name__, (_GuestTransactions, kind), {"supports_statement_cache": True})
    copy = made.__new__(made)
    # Neither its events nor methods that somebody has put in front of its own: they are about a
    # connection and its event loop.
    copy.__dict__.update(
        {
            name: value
            for name, value in vars(dialect).items()
            if name != "dispatch" and not isfunction(getattr(kind, name, None))
        }
    )
    return cast("Dialect", copy)


class GuestEngines:
    """Makes the engines of one Database whose connections are guests of `shared`.

    Args:
        home: Where the connection lives.
        shared: The transaction.
        dialect: Of an engine that has connected.
        recipe: Of the Database.
    """

    def __init__(
        self, home: Home, shared: SharedTransaction, dialect: Dialect, recipe: Recipe
    ) -> None:
        self._home = home
        self._shared = shared
        self._dialect = guest_dialect(dialect)
        self._recipe = recipe
        self._of_app: Supply | None = None
        self._of_host: Supply | None = None

    def supply(self) -> Supply:
        """Return them for a Database whose sessions take turns.

        The same for one test after the other, unless one has left a connection taken.
        """
        if self._of_app is None or any(map(_is_in_use, self._of_app.pools())):
            self._of_app = self._supply(self._pool_of(_GuestPool), self._pool_of(WatchedQueuePool))
        return self._of_app

    def host_supply(self) -> Supply:
        """Return them for the sessions of the test itself."""
        if self._of_host is None:
            self._of_host = self._supply(self._host_pool, self._host_pool)
        return self._of_host

    def _supply(
        self, make_pool: Callable[[bool], Pool], make_sync_pool: Callable[[bool], Pool]
    ) -> Supply:
        def make() -> Engines[AsyncEngine]:
            return self._async(make_pool)

        loops = _GuestLoops("a test's database", make)
        return Supply(
            self._recipe, make, loops, lambda: (lambda: self._sync(make_sync_pool), False)
        )

    def _async(self, make_pool: Callable[[bool], Pool]) -> Engines[AsyncEngine]:
        main, read = (self._engine(make_pool(reads_only)) for reads_only in (False, True))
        refuse_failed_commits(main)
        return self._engines(AsyncEngine(main), AsyncEngine(read))

    def _sync(self, make_pool: Callable[[bool], Pool]) -> Engines[Engine]:
        main, read = (self._engine(make_pool(reads_only)) for reads_only in (False, True))
        refuse_failed_commits(main)
        refuse_on_event_loop(main)
        refuse_on_event_loop(read)
        return self._engines(main, read)

    def _engines(self, main: E, read: E) -> Engines[E]:
        is_sqlite = self._recipe.target.backend == "sqlite"
        return Engines(
            main,
            read,
            read.execution_options(),
            is_sqlite=is_sqlite,
            autocommits=self._recipe.autocommits,
        )

    def _engine(self, pool: Pool) -> Engine:
        engine = Engine(pool, self._dialect, self._recipe.target.url)
        options = self._recipe.pool
        size = options.size + options.max_overflow
        watch_holders(engine, size=size, warn_after=options.warn_after)
        return engine

    def _pool_of(self, kind: type[QueuePool]) -> Callable[[bool], Pool]:
        options = self._recipe.pool
        if options.mode == "null":
            return lambda reads_only: NullPool(self._creator(reads_only), dialect=self._dialect)
        return lambda reads_only: kind(
            self._creator(reads_only),
            dialect=self._dialect,
            pool_size=options.size,
            max_overflow=options.max_overflow,
            timeout=self._recipe.waits.pool,
        )

    def _host_pool(self, reads_only: bool) -> Pool:
        return NullPool(self._creator(reads_only, is_host=True), dialect=self._dialect)

    def _creator(self, reads_only: bool, *, is_host: bool = False) -> Callable[[], Any]:
        def create() -> GuestConnection:
            return GuestConnection(
                self._home,
                self._shared,
                reads_only=reads_only,
                is_host=is_host,
                autocommits=self._recipe.autocommits,
                # MySQL's connections have one answer at a time: a stream would end with the next.
                streams=self._recipe.target.backend != "mysql",
            )

        return create


def _is_in_use(pool: Pool) -> bool:
    return isinstance(pool, QueuePool) and pool.checkedout() > 0


class _GuestPool(FairQueuePool):
    """A pool of guests, who may be in any event loop: all of them are the app's connections."""

    def connect(self) -> PoolProxiedConnection:
        """Take a connection, for `Timeouts.pool` seconds at most.

        Raises:
            PoolExhausted: None was free in time.
        """
        self._loop = asyncio.get_running_loop()
        return super().connect()


class _GuestLoops(EnginesByLoop):
    """The same engines for as long as the test lasts, whoever opens and closes the Database."""

    def __init__(self, name: str, make: Callable[[], Engines[AsyncEngine]]) -> None:
        super().__init__(name, make)
        self._made: dict[str, Engines[AsyncEngine]] = {}

    def here(self) -> Engines[AsyncEngine]:
        """Return those that all event loops share."""
        engines = self._made.get("engines")
        return engines or self._made.setdefault("engines", self._make())

    def enter(self) -> None:
        """Do nothing: they are open."""

    def leave(self) -> bool:
        """Return that they are not to be closed."""
        return False

    def take(self) -> None:
        """Return nothing to close."""

    def hold_connections(self) -> bool:
        """Return that nothing is left open: guests hold nothing."""
        return False

    def pools(self) -> Iterator[Pool]:
        """List the pools."""
        for engines in self._made.values():
            yield from engines.pools()
