"""The Database: what an application holds, and what opens and closes the engines."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from types import TracebackType
from typing import Any, Generic, Self, TypeVarTuple, cast
from warnings import warn

from sqlalchemy import URL, MetaData, Pool, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from typing_extensions import TypeVar

from fastdb.binding import bound, take_stand_in
from fastdb.callers import work_for_this_task
from fastdb.completion import run_within
from fastdb.credentials import PasswordSource
from fastdb.engines import Engines, Recipe, refuse_what_names_a_place
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
from fastdb.supply import Supply, own_supply
from fastdb.sync import SyncDatabase
from fastdb.units import UnitOfWork

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Session_co = TypeVar("Session_co", bound=AsyncSession, default=AsyncSession, covariant=True)


class Database(Generic[Session_co]):
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
        session_class: The class of the sessions, such as SQLModel's. Type checkers know it then.
            Default SQLAlchemy's `AsyncSession`.
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
        session_class: type[Session_co] = AsyncSession,  # type: ignore[assignment] # its default
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
        recipe = Recipe.read(url, "async", sqlalchemy_options=async_options or {}, **read)

        # A closure, not a partial: its `repr` does not show the URL with the password.
        def read_sync_recipe() -> Recipe:
            return Recipe.read(url, "sync", sqlalchemy_options=sync_options or {}, **read)

        self._supply = own_supply(_name(recipe), recipe, read_sync_recipe)
        self._session_options = SESSION_OPTIONS | dict(session_options or {})
        sync_class = self._session_options.pop(
            "sync_session_class", session_class.sync_session_class
        )
        close_seconds = recipe.waits.close
        self._session_class = async_unit_session_class(
            session_class,
            sync_class,
            close_seconds=close_seconds,
            asked_for=timeouts,
            limits_commit=recipe.target.backend != "sqlite",
        )
        self._twin_session_class = twin_session_class(sync_class, close_seconds=close_seconds)

        def elsewhere(other: str | URL) -> Database[Session_co]:
            refuse_what_names_a_place(async_options or {}, "async_options")
            refuse_what_names_a_place(sync_options or {}, "sync_options")
            # A password, and what TLS is to verify, belong to the place.
            moved = {**read, "password": None, "tls": None}
            if isinstance(pool, Pool):
                raise ConfigurationError(
                    "Database(pool=…): a pool of SQLAlchemy's connects where it was made for, and"
                    " cannot be taken elsewhere, as tests do. Give PoolOptions."
                )
            return Database(
                other,
                **moved,
                session_class=session_class,
                session_options=session_options,
                async_options=async_options,
                sync_options=sync_options,
            )

        self._elsewhere = elsewhere

    def __repr__(self) -> str:
        return _name(self._recipe)

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
        twins = self._supply.twin
        twin = twins.get("twin")
        return twin or twins.setdefault("twin", self._make_twin(self._supply))

    def _make_twin(self, supply: Supply) -> SyncDatabase:
        make_engines, transaction_pooler = supply.make_twin()
        return SyncDatabase(
            make_engines,
            session_class=self._twin_session_class,
            session_options=self._session_options,
            begin_to_write=self._begin(safe=False),
            transaction_pooler=transaction_pooler,
        )

    @property
    def _recipe(self) -> Recipe:
        return self._supply.recipe

    @property
    def _loops(self) -> EnginesByLoop:
        return self._supply.loops

    # Other engines, for `fastdb.testing`

    @property
    def supply(self) -> Supply:
        """What the engines come from."""
        return self._supply

    def elsewhere(self, url: str | URL) -> "Database[Session_co]":
        """Return a Database with the same options for another place.

        Raises:
            ConfigurationError: An option of SQLAlchemy's would connect to the old one all the same.
        """
        return self._elsewhere(url)

    @contextmanager
    def supplied_by(self, supply: Supply) -> Iterator[None]:
        """Take the engines from there meanwhile; what is open stays open."""
        before, self._supply = self._supply, supply
        try:
            yield
        finally:
            self._supply = before

    # Sessions

    def session(
        self,
        *,
        isolation: str | None = None,
        timeouts: Timeouts | None = None,
        begin: BeginIntent | None = None,
    ) -> AbstractAsyncContextManager[Session_co]:
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
        return self._block(session, complete)

    async def run(
        self,
        unit: Callable[[Session_co, *Ts], Awaitable[T]],
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
            unit,
            *args,
            attempts=attempts,
            seconds=seconds,
        )

    def read_session(
        self, *, snapshot: bool = False, timeouts: Timeouts | None = None
    ) -> AbstractAsyncContextManager[Session_co]:
        """Open a session that only reads; the database itself refuses writes.

        Args:
            snapshot: Let all statements see one consistent view. Default: each statement sees
                what is committed when it runs, in one round trip; on SQLite, always a snapshot.
            timeouts: Time limits of this session, as in `session`. Default: the Database's.
        """
        session = self._new_read_session(snapshot=snapshot, timeouts=timeouts)
        return self._block(session, finish_reading)

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
        stand_in = take_stand_in(app, self)
        with nullcontext() if stand_in is None else self.supplied_by(stand_in.supply):
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
        for twin in self._supply.twin.values():
            await asyncio.to_thread(twin.close)
        while self._supply.memory:
            _, memory = self._supply.memory.popitem()
            await asyncio.to_thread(memory.delete)

    def pools(self) -> frozenset[Pool]:
        """Return the pools of all engines there are, in any loop: for `fastdb.testing`."""
        return frozenset(self._supply.pools())

    def __del__(self) -> None:
        supply: Supply | None = getattr(self, "_supply", None)
        if supply is not None and supply.loops.hold_connections():
            message = f"{self!r} was never closed: use `async with db:`"
            warn(message, ResourceWarning, stacklevel=2, source=self)

    # Making sessions

    def session_from(self, supply: Supply) -> AsyncUnitSession:
        """Return a session on other engines, for whoever ends it: for `fastdb.testing`."""
        # On SQLite, a test that has looked at something must not keep the app from writing.
        engine = supply.loops.here().variant("deferred", None)
        return self._session_class(engine, **self._session_options)

    def sync_session_from(self, supply: Supply) -> TwinSession:
        """Return a session of the twin on other engines, for whoever ends it, as there."""
        twin = supply.twin.get("twin") or supply.twin.setdefault("twin", self._make_twin(supply))
        return twin.new_session(begin="deferred")

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

    def _block(
        self, session: AsyncUnitSession, finish: Callable[[AsyncUnitSession], Awaitable[None]]
    ) -> AbstractAsyncContextManager[Session_co]:
        # Its class is made from the user's while the program runs, where no type checker looks.
        return cast("AbstractAsyncContextManager[Session_co]", UnitOfWork(session, finish))

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


def _name(recipe: Recipe) -> str:
    return f"Database({recipe.target.url.render_as_string(hide_password=True)!r})"


async def _dispose(engines: Engines[AsyncEngine]) -> None:
    await engines.read.dispose()
    await engines.main.dispose()
