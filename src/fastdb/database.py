"""The Database: what an application holds, and what opens and closes the engines."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple
from warnings import warn

from sqlalchemy import URL, MetaData, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from fastdb.binding import bound
from fastdb.callers import work_for_this_task
from fastdb.completion import run_within
from fastdb.credentials import PasswordSource
from fastdb.engines import Engines, Recipe, async_engines, sync_engines
from fastdb.errors import ConfigurationError
from fastdb.loops import EnginesByLoop
from fastdb.options import (
    BeginIntent,
    PoolOptions,
    SQLiteOptions,
    Timeouts,
    TLSOptions,
    normal_isolation,
)
from fastdb.per_request import Kind, Sessions, StreamSessions
from fastdb.retry import run_again
from fastdb.routes import SessionKind, check_routes, hands_over
from fastdb.schema import create_all
from fastdb.session import (
    SESSION_OPTIONS,
    AsyncUnitSession,
    TwinSession,
    async_unit_session_class,
    complete,
    finish_reading,
    twin_session_class,
)
from fastdb.sqlite.memory import TemporaryDatabase
from fastdb.sync import SyncDatabase
from fastdb.units import UnitOfWork

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Database:
    """One database, its engines and its sessions.

        db = Database("postgresql://app@localhost/shop")
        app = FastAPI(lifespan=db.lifespan)

    Making one does no I/O: it belongs at module level. It is opened by the app's lifespan, by
    `async with db:`, or by first use, and closed by leaving that block or by `aclose()`. It may
    be entered again, by several apps, and in several event loops: each loop has its own engines,
    and the last one out closes.

    Args:
        url: `sqlite:///app.db`, `postgresql://…`, `mysql://…`, in any spelling.
        password: Overrides the URL's; a callable, sync or async, is asked at each new connection.
        pool: How many connections are kept. Default `PoolOptions()`.
        timeouts: How long is waited, in seconds. Default `Timeouts()`.
        tls: Encryption; overrides what the URL says. Default: what the URL says.
        sqlite: How SQLite is opened. Default `SQLiteOptions()`.
        isolation: Isolation level of writing transactions, such as "REPEATABLE READ". Default:
            the server's; on SQLite always serializable.
        session_class: The class of the sessions. Default SQLAlchemy's `AsyncSession`.
        session_options: Further arguments for sessions.
        async_options: SQLAlchemy's arguments for the async engines; they win over the options.
        sync_options: The same for the engines of `db.sync`.

    Raises:
        InvalidURL: The URL or one of its parameters cannot be used; the message names it.
        MissingDriver: The driver is not installed; the message names the extra.
        ConfigurationError: An option makes no sense for this database.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        password: str | PasswordSource | None = None,
        pool: PoolOptions | None = None,
        timeouts: Timeouts | None = None,
        tls: TLSOptions | None = None,
        sqlite: SQLiteOptions | None = None,
        isolation: str | None = None,
        session_class: type[AsyncSession] = AsyncSession,
        session_options: Mapping[str, Any] | None = None,
        async_options: Mapping[str, Any] | None = None,
        sync_options: Mapping[str, Any] | None = None,
    ) -> None:
        read: dict[str, Any] = {
            "pool": pool,
            "timeouts": timeouts,
            "tls": tls,
            "sqlite": sqlite,
            "password": password,
            "isolation": isolation,
        }
        self._recipe = Recipe.read(url, "async", sqlalchemy_options=async_options or {}, **read)

        # A closure, not a partial: its `repr` does not show the URL with the password.
        def read_sync_recipe() -> Recipe:
            return Recipe.read(url, "sync", sqlalchemy_options=sync_options or {}, **read)

        self._read_sync_recipe = read_sync_recipe
        self._session_options = SESSION_OPTIONS | dict(session_options or {})
        sync_class = self._session_options.pop(
            "sync_session_class", session_class.sync_session_class
        )
        close_seconds = self._recipe.waits.close
        self._session_class = async_unit_session_class(
            session_class,
            sync_class,
            close_seconds=close_seconds,
            asked_for=timeouts,
            limits_commit=self._recipe.target.backend != "sqlite",
        )
        self._twin_session_class = twin_session_class(sync_class, close_seconds=close_seconds)
        self._loops = EnginesByLoop(repr(self), lambda: async_engines(self._in_place(self._recipe)))
        # Filled with `setdefault`, which lets one of several threads win, and needs no lock that a
        # fork could leave locked. What the others have made is used by nobody.
        self._twin: dict[str, SyncDatabase] = {}
        self._memory: dict[str, TemporaryDatabase] = {}

    def __repr__(self) -> str:
        return f"Database({self._recipe.target.url.render_as_string(hide_password=True)!r})"

    # Engines

    @property
    def engine(self) -> AsyncEngine:
        """The SQLAlchemy `AsyncEngine` that writes; the same from entering to leaving."""
        return self._loops.here().main

    @property
    def read_engine(self) -> AsyncEngine:
        """The `AsyncEngine` whose connections are held read-only by the database itself."""
        return self._loops.here().read

    @property
    def sync(self) -> SyncDatabase:
        """The synchronous twin, for Alembic and scripts.

        Raises:
            MissingDriver: The twin's driver is not installed; the message names the extra.
        """
        twin = self._twin.get("twin")
        return twin or self._twin.setdefault("twin", self._make_twin())

    def _make_twin(self) -> SyncDatabase:
        recipe = self._read_sync_recipe()
        return SyncDatabase(
            lambda: sync_engines(self._in_place(recipe)),
            session_class=self._twin_session_class,
            session_options=self._session_options,
            begin_to_write=self._begin(safe=False),
            transaction_pooler=recipe.pool.mode == "transaction_pooler",
        )

    # Sessions

    def session(
        self,
        *,
        isolation: str | None = None,
        timeouts: Timeouts | None = None,
        begin: BeginIntent | None = None,
    ) -> AbstractAsyncContextManager[AsyncSession]:
        """Open one unit of work: COMMIT on success, ROLLBACK on any exception, close always.

        No connection is taken before the first statement.

        Args:
            isolation: Isolation level of this transaction. Default: the Database's.
            timeouts: Time limits of this transaction: `statement`, `lock` and
                `idle_in_transaction`. Default: the Database's.
            begin: On SQLite, when the write lock is taken: "immediate" (with the first
                statement) or "deferred" (with the first write). Default: by
                `SQLiteOptions.begin`. Other databases have no such choice to make.

        Raises:
            DatabaseClosed: The Database was closed.
            TransactionFailed: A statement failed and the block caught the error.
            CommitOutcomeUnknown: The connection was lost while COMMIT was in flight.
        """
        session = self._new_session(begin or self._begin(safe=False), isolation, timeouts)
        return UnitOfWork(session, complete)

    async def run(
        self,
        unit: Callable[[AsyncSession, *Ts], Awaitable[T]],
        *args: *Ts,
        attempts: int = 3,
        seconds: float = 30.0,
        isolation: str | None = None,
        timeouts: Timeouts | None = None,
    ) -> T:
        """Run `unit(session, *args)` as one unit of work, and again where that may help.

        After a deadlock, a serialization failure, SQLite's "database is locked", a prepared
        statement whose table was altered, or a connection that was lost before COMMIT was sent, in
        BEGIN and COMMIT as well: with a new session, and after a short wait of random length. What
        `unit` does besides its session should bear repeating; what is not to be repeated belongs
        in `on_commit`. An attempt in which `session.commit()` was called is not repeated.

        Args:
            unit: Called with the session and `args`.
            args: Passed on.
            attempts: How often at most. Default 3.
            seconds: For how long at most new attempts begin. Default 30.
            isolation: Isolation level of each attempt, such as "SERIALIZABLE". Default: the
                Database's.
            timeouts: Time limits of each attempt's transaction, as in `session`. Default: the
                Database's.

        Returns:
            What `unit` returned.

        Raises:
            CommitOutcomeUnknown: The connection was lost while COMMIT was in flight; not repeated.
            ConfigurationError: stamina is not installed (the extra `retry`), a figure is out of
                range, or the isolation, given here or to the Database, is AUTOCOMMIT.
            Exception: What the last attempt raised.
        """
        level = normal_isolation(isolation or self._recipe.isolation)
        if level == "AUTOCOMMIT":
            raise ConfigurationError(
                'db.run() with isolation="AUTOCOMMIT": an attempt that fails half-way would be'
                " repeated although its first half is committed. Leave the level out, here or in"
                " the Database, or choose a stricter one."
            )
        return await run_again(
            lambda: self.session(isolation=isolation, timeouts=timeouts),
            lambda session: unit(session, *args),
            attempts=attempts,
            seconds=seconds,
        )

    def read_session(
        self, *, snapshot: bool = False, timeouts: Timeouts | None = None
    ) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a session that only reads; the database itself refuses writes.

        Args:
            snapshot: Let all statements see one consistent view. Default: each statement sees
                what is committed when it runs, in one round trip; on SQLite, always a snapshot.
            timeouts: Time limits of this session, as in `session`. Default: the Database's.
        """
        session = self._new_read_session(snapshot=snapshot, timeouts=timeouts)
        return UnitOfWork(session, finish_reading)

    async def create_all(self, metadata: MetaData) -> None:
        """Create the missing tables of `metadata`; safe when several processes start at once."""
        async with self._loops.here().variant("immediate", None).begin() as connection:
            await connection.run_sync(create_all, metadata)

    async def ping(self) -> None:
        """Ask the database for an answer, and raise what it raises."""
        async with self.read_engine.connect() as connection:
            await connection.execute(select(1))

    # Opening and closing

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Open the database for as long as `app` runs; pass it as `FastAPI(lifespan=db.lifespan)`.

        In a lifespan of your own write `async with db.lifespan(app): yield`, several where there
        are several databases. Apps that are mounted in `app` are bound too.

        Raises:
            InvalidRoute: A route of `app` would silently lose data; the message says what to do.

        Warns:
            LateWriteWarning: A `yield` dependency may write after its session has ended.
        """
        check_routes(app)
        async with self:
            with bound(app, self):
                yield

    async def __aenter__(self) -> Self:
        self._loops.enter()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._loops.leave():
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connections of this event loop, and with the last loop all the rest.

        Idempotent. The Database can be entered again afterwards; mere use raises DatabaseClosed.
        """
        engines, seconds = self._loops.take(), self._recipe.waits.close
        try:
            if engines is not None:
                await run_within(_dispose(engines), seconds=seconds, give_up=engines.cut_idle)
        finally:
            await run_within(self._close_the_rest(), seconds=seconds, give_up=lambda: None)

    async def _close_the_rest(self) -> None:
        if not self._loops.closed:
            return
        for twin in self._twin.values():
            await asyncio.to_thread(twin.close)
        while self._memory:
            _, memory = self._memory.popitem()
            await asyncio.to_thread(memory.delete)

    def __del__(self) -> None:
        loops: EnginesByLoop | None = getattr(self, "_loops", None)
        if loops is not None and loops.hold_connections():
            message = f"{self!r} was never closed: use `async with db:`"
            warn(message, ResourceWarning, stacklevel=2, source=self)

    def _in_place(self, recipe: Recipe) -> Recipe:
        """Give an in-memory database the one file that all its engines share."""
        if not recipe.target.in_memory:
            return recipe
        memory = self._memory.get("memory")
        memory = memory or self._memory.setdefault("memory", TemporaryDatabase())
        return recipe.in_file(memory.path)

    # Making sessions

    def request_session(self, kind: Kind, *, safe: bool) -> AsyncUnitSession:
        """Return a session for whoever ends it: for the dependencies; others use `session()`."""
        if kind == "write":
            return self._new_session(self._begin(safe=safe))
        return self._new_read_session(snapshot=kind == "snapshot")

    def request_sync_session(self, *, safe: bool) -> TwinSession:
        """Return a session of the twin for whoever ends it; others use `db.sync.session()`."""
        work_for_this_task()
        return self.sync.new_session(begin=self._begin(safe=safe))

    def _new_session(
        self,
        begin: BeginIntent | None,
        isolation: str | None = None,
        timeouts: Timeouts | None = None,
    ) -> AsyncUnitSession:
        engine = self._loops.here().variant(begin, isolation, timeouts)
        return self._session_class(engine, **self._session_options)

    def _new_read_session(
        self, *, snapshot: bool, timeouts: Timeouts | None = None
    ) -> AsyncUnitSession:
        engines = self._loops.here()
        engine = engines.snapshot if snapshot else engines.read
        session = self._session_class(engines.limited(engine, timeouts), **self._session_options)
        session.reads_only = True
        if engine is not engines.snapshot:
            session.snapshot_engine = engines.limited(engines.snapshot, timeouts)
        return session

    def _begin(self, *, safe: bool) -> BeginIntent:
        chosen = self._recipe.sqlite.begin
        if chosen == "by-method":
            return "deferred" if safe else "immediate"
        return chosen

    # Dependencies bound to this database, for apps that have several

    @hands_over(SessionKind())
    async def get_session(self, sessions: Sessions) -> AsyncSession:
        """Hand over this request's session of this database; see `fastdb.get_session`."""
        return sessions.session(self)

    @hands_over(SessionKind())
    async def get_read_session(self, sessions: Sessions) -> AsyncSession:
        """Hand over this request's read session of this database."""
        return sessions.read_session(self, "read")

    @hands_over(SessionKind())
    async def get_snapshot_session(self, sessions: Sessions) -> AsyncSession:
        """Hand over this request's snapshot of this database."""
        return sessions.read_session(self, "snapshot")

    @hands_over(SessionKind(outlives_response=True))
    async def get_stream_session(self, sessions: StreamSessions) -> AsyncSession:
        """Hand over a snapshot of this database that lives until the response has been sent."""
        return sessions.read_session(self, "snapshot")

    @hands_over(SessionKind(is_async=False))
    async def get_sync_session(self, sessions: Sessions) -> Any:
        """Hand over this request's session of this database's synchronous twin."""
        return sessions.sync_session(self)


async def _dispose(engines: Engines[AsyncEngine]) -> None:
    await engines.read.dispose()
    await engines.main.dispose()
