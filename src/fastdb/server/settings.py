"""Time limits and read-only connections: what a server is told after connecting and with BEGIN."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, event

from fastdb.errors import ConfigurationError
from fastdb.options import TIMEOUTS_OPTION, PoolOptions, Timeouts, normal_isolation
from fastdb.server.limits import (
    Limit,
    mysql_limits,
    offer_mysql,
    offer_postgresql,
    postgresql_limits,
    set_mysql,
    set_postgresql,
)

_BEFORE = "fastdb.limits_before"

NO_LIMITS = (
    "Time limits of a session through PoolOptions.transaction_pooler(): MySQL keeps them for the"
    " connection, and there the next one to have it is somebody else. Set them on the server, for"
    " the user."
)


def apply_server_settings(
    engine: Engine,
    backend: str,
    pool: PoolOptions,
    timeouts: Timeouts | None,
    *,
    read_only: bool,
    autocommits: bool,
) -> None:
    """Set time limits, and read-only where asked, on every connection of `engine`.

    They are set after connecting, not as start-up parameters, which poolers refuse. Through a
    transaction pooler nothing may be set for the session: on PostgreSQL limits that were asked
    for are set with each BEGIN, on MySQL the server's own stay.

    A session that has time limits of its own has them in SQLAlchemy's execution options.

    Args:
        engine: Of PostgreSQL or MySQL.
        backend: Which of both.
        pool: Whether there is a transaction pooler in between.
        timeouts: What was asked for; None for the defaults.
        read_only: Whether its connections are to refuse writes.
        autocommits: Whether its transactions are none, unless they are given an isolation level.
    """
    if pool.mode == "transaction_pooler":
        if backend == "postgresql":
            _limit_transactions(engine, timeouts)
        else:
            _refuse_limits(engine)
        return
    if backend == "postgresql":
        _set_up_postgresql(engine, timeouts, read_only=read_only)
    else:
        _set_up_mysql(engine, timeouts, read_only=read_only)
    _limit_sessions(engine, backend, autocommits=autocommits)


def _set_up_postgresql(engine: Engine, timeouts: Timeouts | None, *, read_only: bool) -> None:
    more = {"default_transaction_read_only": "on"} if read_only else {}
    if timeouts is None:
        statement = offer_postgresql(postgresql_limits(Timeouts()), more)
    else:
        more |= {limit.name: limit.value for limit in postgresql_limits(timeouts)}
        statement = offer_postgresql([], more)
    _after_connect(engine, lambda: [statement])


def _set_up_mysql(engine: Engine, timeouts: Timeouts | None, *, read_only: bool) -> None:
    def statements() -> list[str]:
        limits = _limits(engine, "mysql", timeouts or Timeouts())
        setting = offer_mysql(limits) if timeouts is None else set_mysql(limits)
        return [setting, "SET SESSION TRANSACTION READ ONLY"] if read_only else [setting]

    _after_connect(engine, statements)


def _after_connect(engine: Engine, statements: Any) -> None:
    def connected(dbapi_connection: Any, _entry: Any) -> None:
        cursor = dbapi_connection.cursor()
        try:
            for statement in statements():
                cursor.execute(statement)
        finally:
            cursor.close()
        # PostgreSQL takes a setting back when the transaction that made it is rolled back.
        dbapi_connection.commit()

    event.listen(engine, "connect", connected)


def _limit_transactions(engine: Engine, default: Timeouts | None) -> None:
    """Set limits with BEGIN and only until the end of the transaction: PostgreSQL, pooled."""

    def begin(connection: Connection) -> None:
        timeouts = connection.get_execution_options().get(TIMEOUTS_OPTION, default)
        if timeouts is not None:
            connection.exec_driver_sql(set_postgresql(postgresql_limits(timeouts), local=True))

    event.listen(engine, "begin", begin)


def _refuse_limits(engine: Engine) -> None:
    def begin(connection: Connection) -> None:
        if TIMEOUTS_OPTION in connection.get_execution_options():
            raise ConfigurationError(NO_LIMITS)

    event.listen(engine, "begin", begin)


def _limit_sessions(engine: Engine, backend: str, *, autocommits: bool) -> None:
    """Set the limits of a session that has its own, on a connection that is ours alone.

    In a transaction of PostgreSQL's they are set until its end. MySQL has none but the
    connection's, and under autocommit there is no transaction: there they stay until the next
    session begins on the connection, which costs those nothing that have none of their own.
    """

    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        timeouts = options.get(TIMEOUTS_OPTION)
        before: list[Limit] | None = connection.info.get(_BEFORE)
        limits = before if timeouts is None else _limits(engine, backend, timeouts)
        if limits is None:
            return
        if backend == "postgresql" and not _autocommits(options, autocommits):
            # A ROLLBACK would undo what were set for the connection, and nobody would know.
            connection.exec_driver_sql(set_postgresql(limits, local=True))
            return
        if timeouts is None:
            del connection.info[_BEFORE]
        elif before is None:
            connection.info[_BEFORE] = _current(connection, backend, limits)
        connection.exec_driver_sql(
            set_postgresql(limits, local=False) if backend == "postgresql" else set_mysql(limits)
        )

    event.listen(engine, "begin", begin)


def _autocommits(options: Mapping[str, Any], default: bool) -> bool:
    level = normal_isolation(options.get("isolation_level"))
    return default if level is None else level == "AUTOCOMMIT"


def _limits(engine: Engine, backend: str, timeouts: Timeouts) -> list[Limit]:
    if backend == "postgresql":
        return postgresql_limits(timeouts)
    return mysql_limits(timeouts, is_mariadb=getattr(engine.dialect, "is_mariadb", False))


def _current(connection: Connection, backend: str, limits: list[Limit]) -> list[Limit]:
    """Return what is in force of `limits`."""
    ask = "current_setting('{}')" if backend == "postgresql" else "@@SESSION.{}"
    names = ", ".join(ask.format(limit.name) for limit in limits)
    row = connection.exec_driver_sql(f"SELECT {names}").one()
    return [Limit(limit.name, str(value)) for limit, value in zip(limits, row, strict=True)]
