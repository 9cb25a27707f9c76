"""Make one engine: SQLAlchemy's arguments for it, and what listens on it."""

import sqlite3
from typing import Any

import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.dialects import registry
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from fastdb.credentials import ask_for_password
from fastdb.engines.recipe import Recipe
from fastdb.forks import forget_in_children
from fastdb.options import BeginIntent, normal_isolation
from fastdb.pooling import (
    check_idle_connections,
    leave_streams_to_their_transaction,
    pool_arguments,
    roll_back_at_return,
    stop_cancelled_statements,
)
from fastdb.pools import FairQueuePool, WatchedQueuePool, watch_holders
from fastdb.server import apply_server_settings, connect_arguments
from fastdb.sockets import drop_unsent, keep_alive, wait_for_answers
from fastdb.sqlite.cancellation import interrupt_at_cancellation
from fastdb.sqlite.connection import connection_class, verify_foreign_connections
from fastdb.sqlite.transactions import begin_ourselves
from fastdb.sqlite.writelock import write_lock_of
from fastdb.stale_plans import renew_stale_plans
from fastdb.tls import install_tls_verification, tls_connect_args
from fastdb.waits import Waits

# SQLAlchemy finds the dialect by its entry point as well, for those who name it in a URL. Looking
# for that reads every distribution's metadata, which an event loop should not do.
registry.register("sqlite.fastdb", "fastdb.sqlite.dialect", "SQLiteDialect_fastdb")


def make_async_engine(recipe: Recipe, *, read_only: bool = False) -> AsyncEngine:
    """Make an async engine; with `read_only` the database itself refuses writes on it."""
    arguments = _arguments(recipe, read_only, FairQueuePool)
    if recipe.target.backend == "sqlite" and recipe.sqlite.accelerate:
        url = recipe.target.url.set(drivername="sqlite+fastdb")
        engine = create_async_engine(url, **arguments, **_dialect_arguments(recipe, read_only))
    else:
        engine = create_async_engine(recipe.target.url, **arguments)
    _equip(engine.sync_engine, recipe, arguments, read_only)
    return engine


def make_sync_engine(recipe: Recipe, *, read_only: bool = False) -> Engine:
    """Make a synchronous engine, as `make_async_engine` does."""
    arguments = _arguments(recipe, read_only, WatchedQueuePool)
    engine = sqlalchemy.create_engine(recipe.target.url, **arguments)
    _equip(engine, recipe, arguments, read_only)
    return engine


def _arguments(recipe: Recipe, read_only: bool, queue: type[QueuePool]) -> dict[str, Any]:
    """Return SQLAlchemy's arguments: ours, and over them the caller's."""
    theirs = dict(recipe.sqlalchemy_options)
    ours = pool_arguments(recipe.target.backend, recipe.pool, recipe.waits, queue=queue)
    if "pool" in theirs:
        ours = {}
    elif not issubclass(theirs.get("poolclass") or QueuePool, QueuePool):
        # A pool of another kind takes no sizes.
        ours = {name: ours[name] for name in ours if name == "pool_reset_on_return"}
    their_connect_args = dict(theirs.pop("connect_args", {}))
    if recipe.target.backend == "sqlite":
        connect_args = _sqlite_connect_args(recipe, read_only, their_connect_args)
    else:
        connect_args = {
            **connect_arguments(recipe.target, recipe.pool, recipe.timeouts),
            **tls_connect_args(recipe.target.driver, recipe.tls or recipe.target.tls),
            **their_connect_args,
        }
        if read_only:
            # Every statement is a transaction of its own, in one round trip.
            theirs |= {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
    return {**ours, **theirs, "connect_args": connect_args}


def _dialect_arguments(recipe: Recipe, read_only: bool) -> dict[str, Any]:
    return {
        "begin": _intent(recipe, read_only),
        "inline_reads": recipe.sqlite.inline_reads,
        "reads_only": read_only,
        "close_seconds": recipe.waits.close,
        "statement_seconds": recipe.waits.statement,
        "write_lock": write_lock_of(recipe.target.url.database),
    }


def _sqlite_connect_args(recipe: Recipe, read_only: bool, theirs: dict[str, Any]) -> dict[str, Any]:
    given = {**recipe.target.connect_args, **theirs}
    # `timeout` is sqlite3's name for how long a lock is waited for.
    if recipe.timeouts is not None and "timeout" not in theirs:
        given.pop("timeout", None)
    lock_seconds = float(given.setdefault("timeout", recipe.waits.lock))
    factory = connection_class(
        recipe.sqlite,
        lock_seconds=lock_seconds,
        query_only=read_only,
        base=given.get("factory", sqlite3.Connection),
    )
    # The driver begins no transaction of its own: `begin_ourselves` does.
    return {**given, "isolation_level": None, "factory": factory}


def _equip(engine: Engine, recipe: Recipe, arguments: dict[str, Any], read_only: bool) -> None:
    """Listen on `engine` for all that is promised of it."""
    target = recipe.target
    roll_back_at_return(engine)
    forget_in_children(engine)
    watch_holders(
        engine,
        size=arguments.get("pool_size", 0) + max(arguments.get("max_overflow", 0), 0),
        warn_after=recipe.pool.warn_after,
    )
    if target.backend == "sqlite":
        if not arguments.keys().isdisjoint(("creator", "async_creator", "pool")):
            verify_foreign_connections(engine, recipe.sqlite, query_only=read_only)
        if engine.dialect.driver != "fastdb":
            _equip_plain_sqlite(engine, recipe, arguments, read_only)
        return
    if recipe.password is not None:
        ask_for_password(engine, recipe.password)
    waits = Waits(
        engine,
        recipe.waits,
        recipe.timeouts,
        has_told_server=recipe.pool.mode != "transaction_pooler",
    )
    check_idle_connections(engine, recipe.pool.ping_after, waits)
    stop_cancelled_statements(engine, recipe.waits.close)
    leave_streams_to_their_transaction(engine)
    renew_stale_plans(engine, read_only=read_only)
    keep_alive(engine, recipe.timeouts)
    drop_unsent(engine)
    install_tls_verification(engine, target.driver, recipe.tls or target.tls)
    apply_server_settings(
        engine,
        target.backend,
        recipe.pool,
        recipe.timeouts,
        read_only=read_only,
        autocommits=read_only or recipe.autocommits,
    )
    waits.end_connecting(engine)
    if arguments.keys().isdisjoint(("creator", "pool")):
        wait_for_answers(
            engine,
            arguments["connect_args"],
            {*target.connect_args, *recipe.sqlalchemy_options.get("connect_args", ())},
        )


def _equip_plain_sqlite(
    engine: Engine, recipe: Recipe, arguments: dict[str, Any], read_only: bool
) -> None:
    """Give an engine by events what the dialect `sqlite+fastdb` does by itself."""
    begin_ourselves(
        engine,
        write_lock_of(recipe.target.url.database),
        default=_intent(recipe, read_only),
        autocommit=normal_isolation(arguments.get("isolation_level")) == "AUTOCOMMIT",
        reads_only=read_only,
        lock_seconds=float(arguments["connect_args"]["timeout"]),
        statement_seconds=recipe.waits.statement,
    )
    if engine.dialect.is_async:
        interrupt_at_cancellation(engine, recipe.waits.close)


def _intent(recipe: Recipe, read_only: bool) -> BeginIntent:
    # An engine alone does not know what its transactions are for: where nobody says, the lock is
    # taken with the first write.
    return "immediate" if recipe.sqlite.begin == "immediate" and not read_only else "deferred"
