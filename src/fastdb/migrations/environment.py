"""The one line of env.py: Alembic on a Database, online and offline."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from threading import Event
from typing import Any

from alembic import context
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData

from fastdb.database import Database
from fastdb.errors import ConfigurationError, MigrationLocked
from fastdb.migrations.foreign_keys import foreign_keys_off
from fastdb.migrations.lock import one_at_a_time
from fastdb.migrations.progress import Progress
from fastdb.migrations.requests import ATTRIBUTE, Order, Question
from fastdb.migrations.server_locks import through_pooler
from fastdb.options import TIMEOUTS_OPTION, Timeouts
from fastdb.sqlite.intent import BEGIN_OPTION

logger = logging.getLogger("fastdb.migrations")

LIMITS = Timeouts(statement=None, lock=5, idle_in_transaction=None)
"""An index may take long, and so may a revision that computes between two statements. But who waits
for a table stops all who come after, so not for long."""

WAIT_SECONDS = 60.0
VERSION_TABLE = "alembic_version"


def run(
    db: Database,
    target_metadata: MetaData | list[MetaData] | None,
    *,
    wait: float = WAIT_SECONDS,
    timeouts: Timeouts = LIMITS,
    **options: Any,
) -> None:
    """Do what Alembic was called for: all that env.py has to say.

        run(db, Base.metadata)

    It connects through the synchronous twin of `db`. One worker at a time changes the database,
    each revision in a transaction of its own. On SQLite, tables are altered by batch mode, with
    foreign keys off, which are checked before each COMMIT.

    Args:
        db: The database. `upgrade()` and its like name another one, if they are given one.
        target_metadata: The tables of the models, for autogenerate.
        wait: For how many seconds another worker may migrate. Default 60.
        timeouts: Time limits of the statements. Default: none for a statement, 5 seconds for a
            lock.
        **options: Further arguments of Alembic's `context.configure()`, such as `version_table`,
            `include_object` or `compare_server_default`; they win over ours.

    Raises:
        MigrationFailed: A revision failed; the message says what stands and what to do.
        MigrationLocked: Another worker has migrated for longer than `wait`.
        ConfigurationError: The connection goes through a pooler, which would lose the lock.
    """
    config = context.config
    request = config.attributes.get(ATTRIBUTE)
    if isinstance(request, Question):
        request.target_metadata, request.options = target_metadata, options
        return
    order = request if isinstance(request, Order) else Order(db)
    options = {"target_metadata": target_metadata, "compare_type": True} | options
    if context.is_offline_mode():
        _write_sql(order.db, options)
        return
    with _short_errors_for_commands(config):
        given = config.attributes.get("connection")
        if given is not None:
            _run_on(given, options, order.stop, changes=_destination_is_given())
            return
        with _connected(order.db, timeouts) as connection:
            if not _will_change(connection, options):
                _run_on(connection, options, order.stop, changes=False)
                return
            _make_fit_for_changes(connection, order.db)
            limit = wait if order.wait is None else order.wait
            with one_at_a_time(connection, wait=limit, stop=order.stop):
                _run_on(connection, options, order.stop, changes=True)


@contextmanager
def _connected(db: Database, timeouts: Timeouts) -> Iterator[Connection]:
    twin = db.sync
    options = {} if twin.transaction_pooler else {TIMEOUTS_OPTION: timeouts}
    with twin.engine.connect().execution_options(**options) as connection:
        try:
            yield connection
        finally:
            # Closed and not kept: what is set for its session, locks included, ends with it.
            connection.invalidate()


def _make_fit_for_changes(connection: Connection, db: Database) -> None:
    if db.sync.transaction_pooler:
        raise ConfigurationError(through_pooler("this Database goes through a transaction pooler"))
    if connection.dialect.name == "sqlite":
        # A transaction that reads the version and then writes must not meet another writer between.
        connection.execution_options(**{BEGIN_OPTION: "immediate"})


def _run_on(connection: Connection, options: dict[str, Any], stop: Event, *, changes: bool) -> None:
    with foreign_keys_off(connection) if changes else nullcontext() as before:
        progress = Progress(
            connection,
            version_table=options.get("version_table", VERSION_TABLE),
            show=_show,
            stop=stop,
            before=before,
        )
        configured: dict[str, Any] = _ways_of(connection.dialect.name) | options
        configured["on_version_apply"] = [*_theirs(options), progress.applied]
        context.configure(connection=connection, **configured)
        try:
            with context.begin_transaction():
                context.run_migrations()
        except Exception as error:
            explained = progress.explain(error)
            if explained is error:
                raise
            raise explained from error
        progress.end()


def _ways_of(dialect: str) -> dict[str, Any]:
    ways: dict[str, Any] = {"transaction_per_migration": True}
    if dialect == "sqlite":
        # Alembic knows the driver's own transactions, which DDL escapes from: ours are real.
        ways |= {"render_as_batch": True, "transactional_ddl": True}
    return ways


def _write_sql(db: Database, options: dict[str, Any]) -> None:
    engine = db.sync.engine
    sql = {"literal_binds": True, "dialect_opts": {"paramstyle": "named"}}
    configured: dict[str, Any] = _ways_of(engine.dialect.name) | sql | options
    context.configure(url=engine.url, **configured)
    with context.begin_transaction():
        context.run_migrations()


def current_heads(connection: Connection, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the revisions that the database is at.

    Args:
        connection: Is given back in no transaction.
        options: Those of `run()`; two of them say where the version is kept.

    Raises:
        ConfigurationError: The connection is to no database.
    """
    on_mysql = connection.dialect.name in ("mysql", "mariadb")
    if on_mysql and connection.dialect.default_schema_name is None:  # it is connected to nothing
        raise ConfigurationError(
            "Migrations are of one database, and the URL names none: mysql://…/name."
        )
    names = ("version_table", "version_table_schema")
    where = {name: options[name] for name in names if name in options}
    heads = MigrationContext.configure(connection, opts=where).get_current_heads()
    connection.rollback()
    return heads


def names_of(revision: Any) -> tuple[str, ...]:
    """Return as a tuple what is for Alembic None, one name or several."""
    if revision is None:
        return ()
    return (revision,) if isinstance(revision, str) else tuple(revision)


def _theirs(options: Mapping[str, Any]) -> tuple[Any, ...]:
    callbacks = options.get("on_version_apply") or ()
    return (callbacks,) if callable(callbacks) else tuple(callbacks)


def _will_change(connection: Connection, options: Mapping[str, Any]) -> bool:
    """Return whether the command changes the database, as far as can be told before."""
    if not _destination_is_given():
        return False
    try:
        destination = names_of(context.get_revision_argument())
    except CommandError:  # a relative one, or one that is wrong, as Alembic will say
        return True
    return set(current_heads(connection, options)) != set(destination)


def _destination_is_given() -> bool:
    """Return whether the command is one that goes somewhere: upgrade, downgrade, stamp."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    except CommandError:
        return True
    return True


def _show(line: str) -> None:
    logger.info("%s", line)
    if context.config.cmd_opts is not None:  # Alembic's own command
        context.config.print_stdout("%s", line)
    elif not logger.isEnabledFor(logging.INFO) and sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"{line}\n")


@contextmanager
def _short_errors_for_commands(config: Config) -> Iterator[None]:
    """Let Alembic's command say in one line what is no error of anybody's code."""
    try:
        yield
    except (ConfigurationError, MigrationLocked) as error:
        if config.cmd_opts is None:
            raise
        raise CommandError(str(error)) from error
