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
from fastdb.migrations.changing import alone, connected
from fastdb.migrations.foreign_keys import foreign_keys_off
from fastdb.migrations.progress import Progress
from fastdb.migrations.requests import (
    ATTRIBUTE,
    Order,
    Question,
    Settings,
    VersionTable,
    inside,
)
from fastdb.options import Timeouts

logger = logging.getLogger("fastdb.migrations")

LIMITS = Timeouts(statement=None, lock=5, idle_in_transaction=None)
"""An index may take long, and so may a revision that computes between two statements. But who waits
for a table stops all who come after, so not for long."""

WAIT_SECONDS = 60.0


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
    _refuse_second_call(request)
    settings = Settings(options, wait, timeouts)
    if isinstance(request, Question):
        request.answer = settings
        return
    order = request if isinstance(request, Order) else Order(db)
    options = {"target_metadata": target_metadata, "compare_type": True} | options
    if context.is_offline_mode():
        _write_sql(order.db, options)
        return
    with _short_errors_for_commands(config), inside():
        given = config.attributes.get("connection")
        if given is not None:
            _run_on(given, options, order.stop, changes=_destination_is_given())
        elif order.connection is not None:
            _run_on(order.connection, options, order.stop, changes=True)
        else:
            _run_alone(order, settings, options)


def _refuse_second_call(request: object) -> None:
    if isinstance(request, Question):
        is_second = request.answer is not None
    else:
        try:
            context.get_context()
        except Exception:  # noqa: BLE001 - Alembic's own is no finer, while nothing is configured
            is_second = False
        else:
            is_second = True
    if is_second:
        raise ConfigurationError(
            "env.py calls `run()` twice. Each database has a folder of its own: `fastdb init"
            " … --name audit --folder audit_migrations`."
        )


def _run_alone(order: Order, settings: Settings, options: dict[str, Any]) -> None:
    with (
        connected(order.db, settings) as connection,
        alone(
            connection, order, settings, lambda: _will_change(connection, settings.options)
        ) as changes,
    ):
        _run_on(connection, options, order.stop, changes=changes)


def _run_on(connection: Connection, options: dict[str, Any], stop: Event, *, changes: bool) -> None:
    with foreign_keys_off(connection) if changes else nullcontext() as before:
        progress = Progress(
            connection,
            version_table=options.get("version_table", VersionTable().name),
            show=_show,
            stop=stop,
            before=before,
        )
        configured: dict[str, Any] = _ways_of(connection.dialect.name) | options
        configured["on_version_apply"] = [*_theirs(options), progress.applied]
        context.configure(connection=connection, **configured)
        _announce(progress)
        try:
            with context.begin_transaction():
                context.run_migrations()
        except Exception as error:
            explained = progress.explain(error)
            if explained is error:
                raise
            raise explained from error
        progress.end()
        if not progress.is_callers and connection.in_transaction():
            connection.commit()  # what is no revision, as `alembic ensure_version` makes a table


def _announce(progress: Progress) -> None:
    """Let Alembic's way through the revisions lead past `progress`."""
    # Alembic itself tells of a revision only when it is done. What it is about to do is given by
    # a function of the command's, which configure() would take from us, too, and shows nobody.
    migration: Any = context.get_context()
    steps = migration._migrations_fn  # noqa: SLF001
    migration._migrations_fn = lambda *state: progress.announced(steps(*state))  # noqa: SLF001


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
    # They cannot be turned off within a transaction; see `foreign_keys`.
    on_sqlite = engine.dialect.name == "sqlite"
    if on_sqlite:
        context.static_output("PRAGMA foreign_keys = OFF;\n")
    with context.begin_transaction():
        context.run_migrations()
    if on_sqlite:
        context.static_output("PRAGMA foreign_key_check;\n\nPRAGMA foreign_keys = ON;\n")


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
