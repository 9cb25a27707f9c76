"""Leaving a server that takes no writes any more: after a fail-over, yesterday's primary.

Its connections live, and answer every ping; only who writes is told. To SQLAlchemy that is an error
like any other, and the pool would keep them, so that every write failed until the app is restarted.

They are not cut: the transaction that was refused ends as after any error, with whatever savepoints
it has, and a COMMIT that was refused has a known outcome. But nobody gets one of them from the pool
any more.
"""

import logging
from typing import Any

from sqlalchemy import Engine, event, exc
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry

from fastdb.errors.classification import causes
from fastdb.errors.values import is_mysql

logger = logging.getLogger("fastdb.pool")

_KEY = "fastdb.refusals"

_SQLSTATE = "25006"

# ER_OPTION_PREVENTS_STATEMENT, which is that of other options than `read_only`, too, and
# ER_READ_ONLY_MODE. A transaction that was declared read-only has another one, 1792.
_MYSQL_ERRORS = frozenset({1290, 1836})


def leave_demoted_primary(writer: Engine, *others: Engine) -> None:
    """Give up all connections when a server tells a writing session that it takes no writes.

    The next session connects anew: to the host that the URL's `target_session_attrs` or its DNS
    name leads to by then. Where that is the same server, a new connection is all that it costs.

    Args:
        writer: The engine whose errors count; not those of transactions that SQLAlchemy was told
            to begin read-only.
        others: Engines that are left with it: what is behind the same URL should be one server.
    """
    if writer.name != "sqlite":
        _Connections(writer, others)


def takes_no_writes(error: BaseException) -> bool:
    """Return whether a server has refused a statement because it takes no writes.

    PostgreSQL says the same of a transaction that was declared read-only.
    """
    for each in causes(error):
        if is_mysql(each):
            return bool(each.args) and each.args[0] in _MYSQL_ERRORS
        if _SQLSTATE in (getattr(each, "sqlstate", None), getattr(each, "pgcode", None)):
            return True
    return False


class _Connections:
    """The connections of some engines: first used before the latest refusal, or since."""

    def __init__(self, writer: Engine, others: tuple[Engine, ...]) -> None:
        self._refusals = 0
        self._name = writer.url.database or writer.name
        for engine in (writer, *others):
            event.listen(engine, "checkout", self._checked_out)
        event.listen(writer, "handle_error", self._failed)

    def _checked_out(self, _dbapi_connection: Any, entry: ConnectionPoolEntry, _: Any) -> None:
        # Not at connecting: what is new is never given up, whatever others are told meanwhile.
        if entry.info.setdefault(_KEY, self._refusals) != self._refusals:
            raise exc.DisconnectionError("The server took no writes when it was last asked to.")

    def _failed(self, context: ExceptionContext) -> None:
        connection = context.connection
        if connection is None or context.is_disconnect:
            return
        if connection.get_execution_options().get("postgresql_readonly"):
            return
        if not takes_no_writes(context.original_exception):
            return
        # Many are told at the same time, on connections that are as old.
        if connection.info.get(_KEY) == self._refusals:
            self._refusals += 1
            logger.warning(
                "The server of %s takes no writes: its connections are given up, and the next"
                " session connects anew. Has another server become the primary?",
                self._name,
            )
