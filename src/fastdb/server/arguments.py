"""The driver's arguments: how long a connection may take, whether the other side still
lives, and what a pooler cannot bear.
"""

from math import ceil
from typing import Any

from fastdb.options import PoolOptions, Timeouts
from fastdb.sockets import ANSWER_LIMITS, keepalive_arguments
from fastdb.urls import Target

# What keeps a driver from naming prepared statements, which a transaction pooler would look for
# on another server connection. asyncpg has a cache of its own and SQLAlchemy keeps one for it.
_POOLER_ARGUMENTS: dict[str, dict[str, Any]] = {
    "asyncpg": {"statement_cache_size": 0, "prepared_statement_cache_size": 0},
    "psycopg": {"prepare_threshold": None},
}

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
    asking = keepalive_arguments(timeouts) if target.driver in ("psycopg", "psycopg2") else {}
    arguments = {**asking, **limit, **target.connect_args, **(limit if timeouts else {})}
    if target.driver == "pymysql":
        # Its limit ends with the TCP connection, before the server has said anything: so each of
        # its first answers has it, too. See `wait_for_answers`.
        arguments = dict.fromkeys(ANSWER_LIMITS, arguments[name]) | arguments
    if pool.mode == "transaction_pooler":
        arguments |= _POOLER_ARGUMENTS.get(target.driver, {})
    return arguments
