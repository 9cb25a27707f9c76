"""Where a run takes place: a database, the network before it, the app; and how each is broken."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from backends import BACKENDS
from bank.administration import create_database, wait_until_left
from bank.plan import ON_A_FILE, ON_A_SERVER, Fault, Kind
from bank.process import AppProcess
from databases import new_name, render
from proxy import Proxy
from servers import MariaDB, PostgreSQL

# What survives the end of the process, not of the machine. The tests' servers take less care.
DURABLE = {
    "postgresql": {"synchronous_commit": "on"},
    "mysql": {"innodb-flush-log-at-trx-commit": "2"},
}
PROCESSES_ON_A_FILE = 2
# Far beyond what it takes until somebody commits.
ANSWER_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Place:
    """What a run takes place on.

    Attributes:
        url: The way to the database that never breaks.
        apps: The processes of the app.
        server: The database's, if there is one.
        proxy: Between the app and the server.
    """

    url: str
    apps: Sequence[AppProcess]
    server: PostgreSQL | MariaDB | None = None
    proxy: Proxy | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What can happen here."""
        return ON_A_FILE if self.server is None else ON_A_SERVER

    async def wait_until_left(self) -> Sequence[Any]:
        """Wait until nobody is connected any more; return who still is after some seconds."""
        if self.server is None:
            return ()
        return await asyncio.to_thread(
            wait_until_left, self.server, str(make_url(self.url).database)
        )

    async def strike(self, fault: Fault) -> None:
        """Let a fault begin."""
        app = self.apps[fault.victim % len(self.apps)]
        match fault.kind:
            case Kind.SERVER_KILLED:
                await asyncio.to_thread(self._server.kill)
            case Kind.SERVER_PAUSED:
                await asyncio.to_thread(self._server.pause)
            case Kind.NETWORK_DEAF | Kind.NETWORK_CUT:
                self._proxy.go_deaf()
            case Kind.ANSWER_LOST:
                await self._lose_an_answer()
            case Kind.APP_KILLED:
                await app.kill()
            case Kind.APP_PAUSED:
                app.pause()

    async def heal(self, fault: Fault) -> None:
        """Let a fault end; whoever was stopped answers again."""
        app = self.apps[fault.victim % len(self.apps)]
        match fault.kind:
            case Kind.SERVER_KILLED:
                await asyncio.to_thread(self._server.start)
            case Kind.SERVER_PAUSED:
                await asyncio.to_thread(self._server.resume)
            case Kind.NETWORK_DEAF:
                self._proxy.hear_again()
            case Kind.NETWORK_CUT | Kind.ANSWER_LOST:
                await self._proxy.stop()  # with it goes what was kept
                self._proxy.hear_again()
                await self._proxy.restart()
            case Kind.APP_KILLED:
                await app.start()
            case Kind.APP_PAUSED:
                app.resume()

    async def _lose_an_answer(self) -> None:
        lost = asyncio.Event()

        def lose() -> None:
            self._proxy.go_deaf()
            lost.set()

        self._proxy.when(b"COMMIT", lose, answered=True)
        async with asyncio.timeout(ANSWER_SECONDS):
            await lost.wait()

    @property
    def _server(self) -> PostgreSQL | MariaDB:
        assert self.server is not None
        return self.server

    @property
    def _proxy(self) -> Proxy:
        assert self.proxy is not None
        return self.proxy


def make_server(database: str) -> PostgreSQL | MariaDB | None:
    """Return a server that may be killed, not started yet; None for SQLite."""
    name, _driver = BACKENDS[database]
    if name == "sqlite":
        return None
    return (PostgreSQL if name == "postgresql" else MariaDB)(settings=DURABLE[name])


@asynccontextmanager
async def open_place(
    database: str, server: PostgreSQL | MariaDB | None, directory: Path
) -> AsyncIterator[Place]:
    """Make an empty database; the app is not running yet.

    Args:
        database: And driver, as in `backends.BACKENDS`.
        server: A running one.
        directory: For the file of SQLite, and for logs.
    """
    async with AsyncExitStack() as stack:
        if server is None:
            url = f"sqlite+aiosqlite:///{directory / 'bank.db'}"
            proxy, app_url, number = None, url, PROCESSES_ON_A_FILE
        else:
            name, driver = BACKENDS[database]
            empty = new_name()
            await asyncio.to_thread(create_database, server, empty)
            url = render(make_url(server.url(empty)).set(drivername=f"{name}+{driver}"))
            proxy = await stack.enter_async_context(Proxy.before(url))
            # In plain text, so that the proxy knows a COMMIT when it sees one.
            plain = "?sslmode=disable" if name == "postgresql" else ""
            app_url, number = proxy.url + plain, 1
        apps = [AppProcess(app_url, directory / f"app-{each}.log") for each in range(number)]
        for app in apps:
            stack.push_async_callback(app.close)
        yield Place(url, apps, server, proxy)
