"""What a test run has of fastdb: templates, one app that runs, databases for each test."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from fastdb.database import Database
from fastdb.errors import ConfigurationError
from fastdb.session import AsyncUnitSession, TwinSession, abandon, abandon_sync
from fastdb.testing.home import Home
from fastdb.testing.settings import Isolation, Settings
from fastdb.testing.tested import Host, TestedDatabase
from fastdb.urls import parse_url

# Of a private server, by what the setting may say.
SERVERS = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}


class Kit:
    """The test databases of a run, and its app.

    Args:
        settings: What pytest's configuration says.
        server_url: Returns the URL of a private server, "postgresql" or "mysql".

    Raises:
        ConfigurationError: The settings name what is not there, or not clearly.
    """

    def __init__(self, settings: Settings, server_url: Callable[[str], str]) -> None:
        self.home = Home()
        self.app: Any = None
        self._settings = settings
        self._server_url = server_url
        self._stack = ExitStack()
        self._tested: list[TestedDatabase] = []

    def open(self) -> None:
        """Make the templates, start the app on them, and be ready for tests."""
        with ExitStack() as stack:
            stack.callback(self.home.close)
            for db, schema in self._settings.find_databases():
                tested = TestedDatabase(self.home, db, self._url_for(db), schema)
                stack.enter_context(tested.prepared())
                self._tested.append(tested)
            app = self._settings.find_app()
            if app is not None:
                self._start(app, stack)
            for tested in self._tested:
                stack.enter_context(tested.ready())
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Stop the app, and remove all databases that were made."""
        self._stack.close()

    def _url_for(self, db: Database) -> str:
        target = db.supply.recipe.target
        url = self._settings.url or target.backend
        if url == "sqlite":
            return "sqlite://"
        if url in SERVERS:
            url = self._server_url(SERVERS[url])
        there = make_url(url)
        if "+" in there.drivername or parse_url(url, world="async").backend != target.backend:
            return url
        through = there.set(drivername=f"{target.backend}+{target.driver}")  # as the app
        return through.render_as_string(hide_password=False)

    def _start(self, app: Any, stack: ExitStack) -> None:
        """Run the app's lifespan, once; what it writes is there for all tests."""
        from fastdb.testing.apps import RunningApp

        self.app = RunningApp(app)
        self.home.run(self.app.start())
        stack.callback(lambda: self.home.run(self.app.stop()))

    @contextmanager
    def isolated(self, how: Isolation) -> Iterator["IsolatedTest"]:
        """Let one test have all databases as if nobody had written to them."""
        with ExitStack() as stack:
            hosts: dict[Database, Host] = {}
            test = IsolatedTest(self.home, how, hosts)
            if how == "rollback":  # afterwards, when there is nothing left to be undone
                stack.callback(test.end)
            for tested in self._tested:
                hosts[tested.db] = stack.enter_context(tested.isolated(how))
            if how == "database":  # before: nobody may be connected
                stack.callback(test.end)
            yield test


class IsolatedTest:
    """A test, its databases and its own sessions.

    Attributes:
        isolation: "rollback" or "database".
    """

    def __init__(self, home: Home, isolation: Isolation, hosts: dict[Database, Host]) -> None:
        self.isolation = isolation
        self._home = home
        self._hosts = hosts
        self._sessions: dict[Database, AsyncUnitSession] = {}
        self._sync_sessions: dict[Database, TwinSession] = {}

    @property
    def db(self) -> Database:
        """The app's Database, which leads to the test's; the first one where there are several."""
        return next(iter(self._hosts))

    @property
    def databases(self) -> Collection[Database]:
        """The app's Databases, each of which leads to one of the test's."""
        return self._hosts.keys()

    def session(self, db: Database | None = None) -> AsyncSession:
        """Return the test's own session, the same at every call.

        Args:
            db: Of the app. Default: the first one.
        """
        db = self._known(db)
        session = self._sessions.get(db)
        if session is None:
            session = self._sessions[db] = db.session_from(self._hosts[db].supply)
        return session

    def sync_session(self, db: Database | None = None) -> Session:
        """Return the test's own session of the synchronous twin, the same at every call.

        Args:
            db: Of the app. Default: the first one.
        """
        db = self._known(db)
        session = self._sync_sessions.get(db)
        if session is None:
            session = self._sync_sessions[db] = db.sync_session_from(self._hosts[db].supply)
        return session

    def url(self, db: Database | None = None) -> str:
        """Return the URL of the test's own database, with its password, for other processes.

        Args:
            db: Of the app. Default: the first one.

        Raises:
            ConfigurationError: The test has none of its own: what is rolled back in the end is
                seen by nobody else.
        """
        url = self._hosts[self._known(db)].url
        if url is None:
            raise ConfigurationError(
                "This test is rolled back, so that another process would see nothing of it: give it"
                ' a database of its own, with @pytest.mark.fastdb(isolation="database").'
            )
        return url

    def _known(self, db: Database | None) -> Database:
        db = db or self.db
        if db not in self._hosts:
            raise ConfigurationError(
                f"{db!r} is not replaced in the tests: give it a line in fastdb_database."
            )
        return db

    async def close_here(self) -> None:
        """Close what the app has opened in the running event loop."""
        for db in self._hosts:
            await db.aclose()

    async def end_in_loop(self) -> None:
        """End what belongs to the running event loop, before that ends."""
        if self.isolation == "rollback":
            return  # nothing does
        while self._sessions:
            _, session = self._sessions.popitem()
            await abandon(session)
        await self._close()

    async def _close(self) -> None:
        await self.close_here()
        for host in self._hosts.values():
            if host.to_close is not None:
                await host.to_close.aclose()

    def end(self) -> None:
        """End the sessions, and close what the app has opened."""
        with ExitStack() as each:
            if self.isolation == "database":
                each.callback(lambda: self._home.run(self._close()))
            for sync_session in self._sync_sessions.values():
                each.callback(abandon_sync, sync_session)
            for session in self._sessions.values():
                if not session.end_unused():
                    each.callback(session.sync_session.end)
