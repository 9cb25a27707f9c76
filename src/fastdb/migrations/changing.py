"""The connection that changes a database: of its own, with a lock, while others wait."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from fastdb.database import Database
from fastdb.errors import ConfigurationError, MigrationFailed
from fastdb.migrations.lock import one_at_a_time
from fastdb.migrations.requests import Order, Settings
from fastdb.migrations.server_locks import through_pooler
from fastdb.options import TIMEOUTS_OPTION
from fastdb.sqlite.intent import BEGIN_OPTION


@contextmanager
def connected(db: Database, settings: Settings) -> Iterator[Connection]:
    """Connect through the synchronous twin, with the time limits of migrations."""
    twin = db.sync
    options = {} if twin.transaction_pooler else {TIMEOUTS_OPTION: settings.timeouts}
    with twin.engine.connect().execution_options(**options) as connection:
        try:
            yield connection
        finally:
            # Closed and not kept: what is set for its session, locks included, ends with it.
            connection.invalidate()


@contextmanager
def alone(
    connection: Connection, order: Order, settings: Settings, must_change: Callable[[], bool]
) -> Iterator[bool]:
    """Let nobody else change the database within the block; give whether it is to be changed.

    Args:
        connection: From `connected`.
        order: Whose database it is, and how long to wait.
        settings: How env.py calls `run()`.
        must_change: Asked before and after waiting. Where it says no at first, nothing is locked.

    Raises:
        MigrationFailed: The worker that was waited for has failed, and there is something to do.
        MigrationLocked: Others have gone on for longer than is to be waited.
        ConfigurationError: The connection goes through a pooler, which would lose the lock.
        Stopped: The order was to stop.
    """
    if not must_change():
        yield False
        return
    _make_fit_for_changes(connection, order.db)
    wait = settings.wait if order.wait is None else order.wait
    with one_at_a_time(connection, settings.version_table, wait=wait, stop=order.stop) as failed:
        still = must_change()
        if still and failed is not None:
            raise MigrationFailed(
                f"Another worker ({failed}) has failed to migrate this database; its log says why."
                " This one does not try the same revision again."
            )
        yield still


def _make_fit_for_changes(connection: Connection, db: Database) -> None:
    if db.sync.transaction_pooler:
        raise ConfigurationError(through_pooler("this Database goes through a transaction pooler"))
    if connection.dialect.name == "sqlite":
        # A transaction that reads the version and then writes must not meet another writer between.
        connection.execution_options(**{BEGIN_OPTION: "immediate"})
