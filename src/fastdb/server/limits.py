"""Time limits as PostgreSQL, MariaDB and MySQL spell them."""

from dataclasses import dataclass
from math import ceil

from fastdb.options import Timeouts


@dataclass(frozen=True, slots=True)
class Limit:
    """A setting of the server.

    Attributes:
        name: The server's.
        value: In the server's unit, as it stands in SQL; 0 for no limit.
        may_be_kept: Whether the server's own may stay where nobody asked for ours: a limit that
            somebody has set for the role or the server is there for a reason. Not where a server
            comes with a limit that no application can use.
    """

    name: str
    value: str
    may_be_kept: bool = True


def postgresql_limits(timeouts: Timeouts) -> list[Limit]:
    """Return the limits of a PostgreSQL session, in milliseconds."""
    return [
        Limit("statement_timeout", _milliseconds(timeouts.statement)),
        Limit("lock_timeout", _milliseconds(timeouts.lock)),
        Limit("idle_in_transaction_session_timeout", _milliseconds(timeouts.idle_in_transaction)),
    ]


def mysql_limits(timeouts: Timeouts, *, is_mariadb: bool) -> list[Limit]:
    """Return the limits of a session of MariaDB or MySQL, nearly all of them in whole seconds."""
    lock = str(ceil(timeouts.lock))
    limits = [
        # Rows, and tables (which DDL waits for, by default a day).
        Limit("innodb_lock_wait_timeout", lock, may_be_kept=False),
        Limit("lock_wait_timeout", lock, may_be_kept=False),
    ]
    if is_mariadb:
        limits.append(Limit("max_statement_time", f"{timeouts.statement or 0:.6f}"))
        limits.append(
            Limit("idle_transaction_timeout", str(ceil(timeouts.idle_in_transaction or 0)))
        )
    else:
        limits.append(Limit("max_execution_time", _milliseconds(timeouts.statement)))
    return limits


def set_postgresql(limits: list[Limit], *, local: bool) -> str:
    """Return the SELECT that sets `limits`, for the transaction (`local`) or the session."""
    return "SELECT " + ", ".join(
        f"set_config('{limit.name}', '{limit.value}', {local})" for limit in limits
    )


def offer_postgresql(limits: list[Limit], more: dict[str, str]) -> str:
    """Return the SELECT that sets `limits` where the server has none, and `more` in any case."""
    calls = [
        f"set_config('{limit.name}', coalesce(nullif(current_setting('{limit.name}'), '0'),"
        f" '{limit.value}'), False)"
        for limit in limits
    ]
    calls += [f"set_config('{name}', '{value}', False)" for name, value in more.items()]
    return "SELECT " + ", ".join(calls)


def set_mysql(limits: list[Limit]) -> str:
    """Return the SET that sets `limits` for the session."""
    return "SET " + ", ".join(f"SESSION {limit.name} = {limit.value}" for limit in limits)


def offer_mysql(limits: list[Limit]) -> str:
    """Return the SET that sets `limits`, but for those that the server has and that may stay."""
    return "SET " + ", ".join(
        f"SESSION {limit.name} = IF(@@SESSION.{limit.name} = 0, {limit.value},"
        f" @@SESSION.{limit.name})"
        if limit.may_be_kept
        else f"SESSION {limit.name} = {limit.value}"
        for limit in limits
    )


def _milliseconds(seconds: float | None) -> str:
    # Anything at all is not "no limit", which is what 0 means.
    return "0" if seconds is None else str(max(1, round(seconds * 1000)))
