"""The dialect `sqlite+fastdb`: SQLAlchemy's own for aiosqlite, with fewer ways to the thread.

It is registered as an entry point, so that SQLAlchemy finds it by its name:

    create_async_engine("sqlite+fastdb:///app.db", inline_reads=False)

`fastdb.create_async_engine` uses it for every SQLite URL, and sets the connections up besides.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast, get_args

from sqlalchemy import URL, Engine, event
from sqlalchemy.dialects.sqlite.aiosqlite import (
    SQLiteDialect_aiosqlite,
    SQLiteExecutionContext_aiosqlite,
)
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import ExceptionContext

from fastdb.options import TIMEOUTS_OPTION, BeginIntent
from fastdb.sqlite.accelerated import AcceleratedConnection, AcceleratedDBAPI, Equipment
from fastdb.sqlite.compiler import LockingCompiler
from fastdb.sqlite.inline import InlineReads
from fastdb.sqlite.intent import Terms, intent_of
from fastdb.sqlite.writelock import WriteLock


class _ExecutionContext(SQLiteExecutionContext_aiosqlite):
    def create_cursor(self) -> Any:
        """Tell the cursor on what terms its statement runs."""
        cursor = super().create_cursor()
        dialect = cast("SQLiteDialect_fastdb", self.dialect)
        cursor.terms = dialect.terms_for(self.compiled, self.execution_options)  # type: ignore[attr-defined]
        return cursor


class SQLiteDialect_fastdb(SQLiteDialect_aiosqlite):  # noqa: N801 - named as SQLAlchemy names them
    """SQLite through aiosqlite, one hop per statement or none.

    Args:
        begin: What transactions are for where nobody says: "deferred" (to read; the default) or
            "immediate" (to write).
        inline_reads: Run reads that have proved cheap on the event loop's thread. Default True.
        reads_only: The connections refuse to write (`PRAGMA query_only`). Default False.
        close_seconds: How long an interrupted statement may take to stop. Default 5.
        statement_seconds: How long a statement may run before it is interrupted. Default None: no
            limit.
        write_lock: Shared by the engines of one file. Default: the engine's own.
    """

    driver = "fastdb"
    supports_statement_cache = True
    statement_compiler = LockingCompiler
    execution_ctx_cls = _ExecutionContext

    def __init__(
        self,
        begin: BeginIntent = "deferred",
        inline_reads: bool = True,
        reads_only: bool = False,
        close_seconds: float = 5.0,
        statement_seconds: float | None = None,
        write_lock: WriteLock | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.begin_intent: BeginIntent = begin
        self._terms: dict[BeginIntent, Terms] = {
            intent: Terms(intent, statement_seconds) for intent in get_args(BeginIntent)
        }
        self._equipment = Equipment(
            write_lock=write_lock or WriteLock(),
            inline_reads=InlineReads() if inline_reads else None,
            close_seconds=close_seconds,
            reads_only=reads_only,
        )

    def terms_for(self, compiled: Any, options: Any) -> Terms:
        """Return on what terms a statement with these execution options runs."""
        intent = intent_of(compiled, options, self.begin_intent)
        timeouts = options.get(TIMEOUTS_OPTION)
        if timeouts is None:
            return self._terms[intent]
        return Terms(intent, timeouts.statement, timeouts.lock)

    @classmethod
    def import_dbapi(cls) -> Any:
        """Return the module-like object whose `connect` SQLAlchemy calls."""
        return AcceleratedDBAPI(__import__("aiosqlite"), __import__("sqlite3"))

    def create_connect_args(self, url: URL) -> Any:
        """Return the arguments of `sqlite3.connect`, which is to begin nothing by itself."""
        arguments, options = super().create_connect_args(url)
        return arguments, {**options, "isolation_level": None}

    def on_connect(self) -> Callable[[Any], None]:
        """Return what is done with each new connection."""
        set_up = super().on_connect()

        def connect(connection: AcceleratedConnection) -> None:
            set_up(cast("Any", connection))
            connection.equip(self._equipment)

        return connect

    # Transactions. SQLAlchemy has sqlite3 begin them, by its `isolation_level`; here it never does.

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin with the next statement."""
        dbapi_connection.begin()

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """Begin nothing under AUTOCOMMIT; see other connections' uncommitted rows, or not."""
        dbapi_connection.begins = level != "AUTOCOMMIT"
        if dbapi_connection.begins:
            SQLiteDialect.set_isolation_level(self, dbapi_connection, level)

    def detect_autocommit_setting(self, dbapi_conn: Any) -> bool:
        """Return whether statements commit themselves."""
        return not dbapi_conn.begins

    @classmethod
    def load_provisioning(cls) -> None:
        """Prepare SQLAlchemy's own tests as for its dialects of SQLite."""
        SQLiteDialect_aiosqlite.load_provisioning()  # type: ignore[no-untyped-call]

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        """Keep the connections of cancelled tasks whose statement could be stopped."""
        event.listen(engine, "handle_error", _keep_connection)


def _keep_connection(context: ExceptionContext) -> None:
    """SQLAlchemy gives up the connection of every cancelled task; these have stopped in time."""
    if context.connection is None or context.connection.invalidated:
        return
    if isinstance(context.original_exception, asyncio.CancelledError):
        connection = context.connection.connection.dbapi_connection
        if isinstance(connection, AcceleratedConnection) and connection.is_idle():
            context.is_disconnect = False
