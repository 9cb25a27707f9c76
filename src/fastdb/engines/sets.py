"""The engines that a Database holds: one that writes, one that only reads, and their variants."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from fastdb.engines.make import make_async_engine, make_sync_engine
from fastdb.engines.recipe import GIVEN_BY_SQLITE, Recipe
from fastdb.errors import ConfigurationError
from fastdb.guards import refuse_failed_commits
from fastdb.options import BeginIntent, normal_isolation
from fastdb.server_settings import begin_read_only
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
    """

    main: E
    read: E
    snapshot: E
    is_sqlite: bool = False
    _variants: dict[tuple[BeginIntent | None, str | None], E] = field(default_factory=dict)

    def variant(self, begin: BeginIntent | None, isolation: str | None) -> E:
        """Return `main`, with transactions that begin as said; the connections are the same."""
        if not self.is_sqlite:
            begin = None
        elif normal_isolation(isolation) in GIVEN_BY_SQLITE:
            isolation = None
        if begin is None and isolation is None:
            return self.main
        engine = self._variants.get((begin, isolation))
        if engine is None:
            options: dict[str, Any] = {}
            if begin is not None:
                _check_begin(begin)
                options[BEGIN_OPTION] = begin
            if isolation is not None:
                options["isolation_level"] = isolation
            engine = self._variants[begin, isolation] = self.main.execution_options(**options)
        return engine


def _check_begin(begin: str) -> None:
    if begin not in ("immediate", "deferred"):
        raise ConfigurationError(
            f"session(begin={begin!r}): unknown value; use one of immediate, deferred."
        )


def async_engines(recipe: Recipe) -> Engines[AsyncEngine]:
    """Make the async engines of a Database."""
    engines = _engines(recipe, make_async_engine)
    refuse_failed_commits(engines.main.sync_engine)
    return engines


def sync_engines(recipe: Recipe) -> Engines[Engine]:
    """Make the engines of a Database's synchronous twin."""
    engines = _engines(recipe, make_sync_engine)
    refuse_failed_commits(engines.main)
    return engines


def _engines(recipe: Recipe, make: Callable[..., E]) -> Engines[E]:
    main = make(recipe)
    backend = recipe.target.backend
    if recipe.pool.mode == "transaction_pooler":
        # Session state would reach other clients of the pooler: read-only is said with each
        # BEGIN, on the same connections.
        return Engines(main, *_read_only_variants(main, backend))
    read = make(recipe, read_only=True)
    if backend == "sqlite":
        return Engines(main, read, read, is_sqlite=True)
    if backend == "postgresql":
        return Engines(main, read, read.execution_options(isolation_level="REPEATABLE READ"))
    # Leaving autocommit and coming back would cost MySQL four round trips: the connection stays
    # in it, a transaction is begun all the same, and `roll_back_at_return` ends it.
    return Engines(main, read, _mysql_variant(read, snapshot=True))


def _read_only_variants(main: E, backend: str) -> tuple[E, E]:
    if backend == "postgresql":
        read = main.execution_options(postgresql_readonly=True)
        return read, read.execution_options(isolation_level="REPEATABLE READ")
    return _mysql_variant(main, snapshot=False), _mysql_variant(main, snapshot=True)


def _mysql_variant(engine: E, *, snapshot: bool) -> E:
    variant = engine.execution_options()
    begin_read_only(_sync_engine(variant), snapshot=snapshot)
    return variant


def _sync_engine(engine: Engine | AsyncEngine) -> Engine:
    return engine.sync_engine if isinstance(engine, AsyncEngine) else engine
