"""The engines that a Database holds: one that writes, one that only reads, and their variants."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, Pool, event
from sqlalchemy.ext.asyncio import AsyncEngine

from fastdb.blocking import refuse_on_event_loop
from fastdb.engines.make import make_async_engine, make_sync_engine
from fastdb.engines.recipe import GIVEN_BY_SQLITE, Recipe
from fastdb.errors import ConfigurationError
from fastdb.failover import leave_demoted_primary
from fastdb.guards import refuse_failed_commits
from fastdb.options import TIMEOUTS_OPTION, BeginIntent, Timeouts, normal_isolation
from fastdb.pools import FairQueuePool
from fastdb.server import NO_LIMITS, begin_read_only, compare_with_server
from fastdb.sockets import OpenConnections
from fastdb.sqlite.intent import BEGIN_OPTION

E = TypeVar("E", Engine, AsyncEngine)


@dataclass(slots=True)
class Engines(Generic[E]):
    """The engines of one database.

    Attributes:
        main: Writes.
        read: Is held read-only by the database; each statement sees what is committed.
        snapshot: Is read-only too; all statements of a transaction see one consistent view.
        is_sqlite: Its transactions begin with an intent, and are always serializable.
        autocommits: Its transactions are none, unless they are given an isolation level.
        takes_timeouts: Whether a session may have time limits of its own.
        connections: What is open to a server, for each async engine that opens its own.
    """

    main: E
    read: E
    snapshot: E
    is_sqlite: bool = False
    autocommits: bool = False
    takes_timeouts: bool = True
    connections: tuple[OpenConnections, ...] = ()
    _variants: dict[tuple[BeginIntent | None, str | None], E] = field(default_factory=dict)

    def variant(
        self, begin: BeginIntent | None, isolation: str | None, timeouts: Timeouts | None = None
    ) -> E:
        """Return `main`, with transactions as said; the connections are the same."""
        if not self.is_sqlite:
            begin = None
        elif normal_isolation(isolation) in GIVEN_BY_SQLITE and not self.autocommits:
            isolation = None
        if begin is None and isolation is None:
            return self.limited(self.main, timeouts)
        engine = self._variants.get((begin, isolation))
        if engine is None:
            engine = self.main
            if begin is not None:
                _check_begin(begin)
                engine = engine.execution_options(**{BEGIN_OPTION: begin})
            if isolation is not None:
                engine = _with_connections(engine, isolation_level=isolation)
            self._variants[begin, isolation] = engine
        return self.limited(engine, timeouts)

    def limited(self, engine: E, timeouts: Timeouts | None) -> E:
        """Return `engine` with time limits of its own, where there are any.

        Raises:
            ConfigurationError: MySQL cannot have them through a transaction pooler.
        """
        if timeouts is None:
            return engine
        if not self.takes_timeouts:
            raise ConfigurationError(NO_LIMITS)
        return engine.execution_options(**{TIMEOUTS_OPTION: timeouts})

    def pools(self) -> tuple[Pool, Pool]:
        """Return the pools whose connections the engines and their variants use."""
        return self.main.pool, self.read.pool

    def cut_idle(self) -> None:
        """Cut the connections to a server that nobody uses, without waiting for it."""
        for connections in self.connections:
            connections.cut_idle()


def _check_begin(begin: str) -> None:
    if begin not in ("immediate", "deferred"):
        raise ConfigurationError(
            f"session(begin={begin!r}): unknown value; use one of immediate, deferred."
        )


def async_engines(recipe: Recipe) -> Engines[AsyncEngine]:
    """Make the async engines of a Database."""
    engines = _engines(recipe, make_async_engine)
    refuse_failed_commits(engines.main.sync_engine)
    both = [engine.sync_engine for engine in (engines.main, engines.read)]
    if recipe.target.backend != "sqlite":
        engines.connections = tuple(map(OpenConnections, both))
    each = _most(engines.main.pool)
    if each and recipe.target.backend != "sqlite" and recipe.pool.mode == "queue":
        compare_with_server(both, recipe.target.backend, each=each)
    return engines


def _most(pool: Pool) -> int:
    """Return how many connections one of our pools may hold; 0 for the user's own."""
    return pool.holders.size if isinstance(pool, FairQueuePool) and pool.holders else 0


def sync_engines(recipe: Recipe) -> Engines[Engine]:
    """Make the engines of a Database's synchronous twin."""
    engines = _engines(recipe, make_sync_engine)
    refuse_failed_commits(engines.main)
    refuse_on_event_loop(engines.main)
    refuse_on_event_loop(engines.read)
    return engines


def _engines(recipe: Recipe, make: Callable[..., E]) -> Engines[E]:
    main = make(recipe)
    backend = recipe.target.backend
    if recipe.pool.mode == "transaction_pooler":
        # Session state would reach other clients of the pooler: read-only is said with each
        # BEGIN, on the same connections.
        variants = _read_only_variants(main, backend)
        leave_demoted_primary(_sync_engine(main))
        return Engines(main, *variants, takes_timeouts=backend == "postgresql")
    read = make(recipe, read_only=True)
    leave_demoted_primary(_sync_engine(main), _sync_engine(read))
    if backend == "sqlite":
        return Engines(main, read, read, is_sqlite=True, autocommits=recipe.autocommits)
    if backend == "postgresql":
        return Engines(main, read, _with_connections(read, isolation_level="REPEATABLE READ"))
    # Leaving autocommit and coming back would cost MySQL four round trips: the connection stays
    # in it, a transaction is begun all the same, and `roll_back_at_return` ends it.
    return Engines(main, read, _mysql_variant(read, snapshot=True))


def _read_only_variants(main: E, backend: str) -> tuple[E, E]:
    if backend == "postgresql":
        read = _with_connections(main, postgresql_readonly=True)
        return read, _with_connections(read, isolation_level="REPEATABLE READ")
    return _mysql_variant(main, snapshot=False), _mysql_variant(main, snapshot=True)


def _with_connections(engine: E, **options: Any) -> E:
    """Return `engine` with connections that are set so when they are taken, and set back after.

    As by `engine.execution_options(**options)`, which loses the connection of a caller who is
    cancelled meanwhile: nobody has it yet, and it would count as taken until it is collected.
    """
    variant = engine.execution_options()

    @event.listens_for(_sync_engine(variant), "engine_connect")
    def set_options(connection: Connection) -> None:
        try:
            connection.execution_options(**options)
        except BaseException:
            connection.invalidate()  # nobody knows how much of it has been set
            connection.close()
            raise

    return variant


def _mysql_variant(engine: E, *, snapshot: bool) -> E:
    variant = engine.execution_options()
    begin_read_only(_sync_engine(variant), snapshot=snapshot)
    return variant


def _sync_engine(engine: Engine | AsyncEngine) -> Engine:
    return engine.sync_engine if isinstance(engine, AsyncEngine) else engine
