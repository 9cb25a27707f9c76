"""What a network server and its driver are told: at connecting, after it, and with BEGIN."""

from math import ceil
from typing import Any

from sqlalchemy import Connection, Engine, event

from fastdb.options import PoolOptions, Timeouts
from fastdb.urls import Target

# What keeps a driver from naming prepared statements, which a transaction pooler would look for
# on another server connection. asyncpg has a cache of its own and SQLAlchemy keeps one for it.
_POOLER_ARGUMENTS: dict[str, dict[str, Any]] = {
    "asyncpg": {"statement_cache_size": 0, "prepared_statement_cache_size": 0},
    "psycopg": {"prepare_threshold": None},
}

_MYSQL_LOCK_LIMITS = ("innodb_lock_wait_timeout", "lock_wait_timeout")

_CONNECT_TIMEOUT = {"asyncpg": "timeout"}


def connect_arguments(
    target: Target, pool: PoolOptions, timeouts: Timeouts | None
) -> dict[str, Any]:
    """Return the driver's arguments: what the URL says, with our limits around it.

    `timeouts`, where given, wins over the URL; the defaults do not.
    """
    name = _CONNECT_TIMEOUT.get(target.driver, "connect_timeout")
    # libpq and PyMySQL count whole seconds.
    limit = {name: ceil((timeouts or Timeouts()).connect)}
    arguments = {**limit, **target.connect_args, **(limit if timeouts else {})}
    if pool.mode == "transaction_pooler":
        arguments |= _POOLER_ARGUMENTS.get(target.driver, {})
    return arguments


def apply_server_settings(
    engine: Engine,
    backend: str,
    pool: PoolOptions,
    timeouts: Timeouts | None,
    *,
    read_only: bool,
) -> None:
    """Set the lock's time limit, and read-only where asked, on every connection of `engine`.

    They are set after connecting, not as start-up parameters, which poolers refuse. Through a
    transaction pooler nothing may be set for the session: on PostgreSQL a limit that was asked
    for is set with each BEGIN, on MySQL the server's own stays.
    """
    lock_seconds = (timeouts or Timeouts()).lock
    if pool.mode == "transaction_pooler":
        if backend == "postgresql" and timeouts is not None:
            _execute_at_begin(engine, _postgresql_settings(lock_seconds, local=True))
        return
    if backend == "postgresql":
        statements = [_postgresql_settings(lock_seconds, read_only=read_only)]
    else:
        # Rows, and tables (which DDL waits for, by default a day).
        limits = (f"SESSION {name} = {ceil(lock_seconds)}" for name in _MYSQL_LOCK_LIMITS)
        statements = ["SET " + ", ".join(limits)]
        if read_only:
            statements.append("SET SESSION TRANSACTION READ ONLY")
    _execute_after_connect(engine, statements)


def begin_read_only(engine: Engine, *, snapshot: bool) -> None:
    """Begin MySQL's transactions read-only, each for itself, without session state.

    Args:
        engine: A variant made by `execution_options()`; the engine it comes from is unchanged.
        snapshot: Let all statements see one consistent view.
    """

    def begin(connection: Connection) -> None:
        if not snapshot:
            connection.exec_driver_sql("START TRANSACTION READ ONLY")
            return
        if connection.default_isolation_level not in ("REPEATABLE READ", "SERIALIZABLE"):
            # Without SESSION: for the next transaction only. Weaker levels have no one view.
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    event.listen(engine, "begin", begin)


def _postgresql_settings(
    lock_seconds: float, *, read_only: bool = False, local: bool = False
) -> str:
    settings = {"lock_timeout": f"{round(lock_seconds * 1000)}ms"}
    if read_only:
        settings["default_transaction_read_only"] = "on"
    calls = (f"set_config('{name}', '{value}', {local})" for name, value in settings.items())
    return "SELECT " + ", ".join(calls)


def _execute_after_connect(engine: Engine, statements: list[str]) -> None:
    def connected(dbapi_connection: Any, _entry: Any) -> None:
        cursor = dbapi_connection.cursor()
        try:
            for statement in statements:
                cursor.execute(statement)
        finally:
            cursor.close()
        # PostgreSQL takes a setting back when the transaction that made it is rolled back.
        dbapi_connection.commit()

    event.listen(engine, "connect", connected)


def _execute_at_begin(engine: Engine, statement: str) -> None:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    event.listen(engine, "begin", begin)
