"""A TCP proxy between a driver and its server, for what only the wire can tell.

    async with Proxy.before(url) as proxy:
        engine = create_async_engine(proxy.url)
        ...
        with proxy.counted() as count:
            await ask()
        assert count.round_trips == 1

It passes bytes on as they come and understands none of them, TLS included. Faults:

    proxy.go_deaf()         keeps what comes, as a network does that loses every packet
    proxy.hear_again()      passes it on
    proxy.cut()             ends every connection
    await proxy.stop()      ends every connection, and refuses new ones
    await proxy.restart()   listens again, on the same port
    proxy.delay = 0.005     each answer comes that many seconds later

    proxy.when(b"COMMIT", proxy.cut)                   before COMMIT reaches the server
    proxy.when(b"COMMIT", proxy.cut, answered=True)    when its answer is there, which is lost
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Self

from sqlalchemy.engine import make_url

from databases import render
from server_process import HOST, free_port

_CHUNK = 64 * 1024


class Direction(Enum):
    """Who is heard."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


@dataclass(slots=True)
class Count:
    """What has passed while it was counted.

    Attributes:
        round_trips: How often a client spoke after it had listened: each time, somebody waits.
        connections: How many connections were opened.
    """

    round_trips: int = 0
    connections: int = 0


@dataclass(slots=True)
class Moment:
    """When something is to happen: once, at the first bytes for the server that contain `sign`.

    Attributes:
        sign: What is looked for.
        act: What happens, before anything more is passed on.
        answered: Wait for the server's answer to them.
    """

    sign: bytes
    act: Callable[[], object]
    answered: bool


class Link:
    """One connection through the proxy: the client's half and the server's half."""

    def __init__(
        self,
        proxy: "Proxy",
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._client_reader, self._client_writer = client
        self._server_reader, self._server_writer = server
        self._heard_last: Direction | None = None
        self._expected: Moment | None = None

    async def run(self) -> None:
        """Pass bytes on in both directions until one side has closed."""
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(
                    self._pump(Direction.TO_SERVER, self._client_reader, self._server_writer)
                )
                pumps.create_task(
                    self._pump(Direction.TO_CLIENT, self._server_reader, self._client_writer)
                )
        finally:
            await self._close()

    async def _pump(
        self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # Either side may vanish at any time; the other one is then told by an end of its stream.
        with suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                self._note(direction)
                if self._act(direction, data):
                    await asyncio.sleep(0)  # whoever was cut is cancelled here
                if direction is Direction.TO_CLIENT and self._proxy.delay:
                    await asyncio.sleep(self._proxy.delay)
                await self._proxy.hearing.wait()
                writer.write(data)
                await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof()

    def _note(self, direction: Direction) -> None:
        if direction is Direction.TO_SERVER and self._heard_last is not direction:
            self._proxy.note_round_trip()
        self._heard_last = direction

    def _act(self, direction: Direction, data: bytes) -> bool:
        """Let happen what was to happen now, and return whether anything was."""
        due = None
        if direction is Direction.TO_CLIENT:
            due, self._expected = self._expected, None
        elif moment := self._proxy.take_moment(data):
            if moment.answered:
                self._expected = moment
            else:
                due = moment
        if due is not None:
            due.act()
        return due is not None

    async def _close(self) -> None:
        writers = (self._client_writer, self._server_writer)
        for writer in writers:  # both before the first wait, in which this task may be cancelled
            writer.close()
        for writer in writers:
            with suppress(ConnectionError):
                await writer.wait_closed()


class Proxy:
    """Listens on a port of its own and passes on to `host` and `port`.

    It lives in the event loop that enters it, and is gone when the block is left.

    Args:
        host: Of the server.
        port: Of the server.
        url: The URL that leads to the server without the proxy.
    """

    def __init__(self, host: str, port: int, *, url: str = "") -> None:
        self._host = host
        self._port = port
        self._direct_url = url
        self._listener: socket.socket | None = None
        self._listening_port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepted: set[socket.socket] = set()  # and not served yet
        self._counts: list[Count] = []
        self._moment: Moment | None = None
        self.delay = 0.0
        self.hearing = asyncio.Event()
        self.hearing.set()

    def go_deaf(self) -> None:
        """Pass nothing on any more."""
        self.hearing.clear()

    def hear_again(self) -> None:
        """Pass on what was kept, and what comes."""
        self._moment = None
        self.hearing.set()

    def cut(self) -> None:
        """End every connection at once; what was kept is lost."""
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """End every connection, and let nobody connect."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
        self._listener = None
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def restart(self) -> None:
        """Listen again, where it was."""
        # Not asyncio's own server: of whom it has accepted, it tells only later, and where it is
        # closed meanwhile it forgets them.
        self._listener = socket.create_server((HOST, self._listening_port), backlog=100)
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def when(self, sign: bytes, act: Callable[[], object], *, answered: bool = False) -> None:
        """Let something happen at a moment: see `Moment`."""
        self._moment = Moment(sign, act, answered)

    def take_moment(self, data: bytes) -> Moment | None:
        """Return what is to happen with these bytes, which happens only once."""
        moment = self._moment
        if moment is None or moment.sign not in data:
            return None
        self._moment = None
        return moment

    def lead_to(self, url: str) -> None:
        """Lead who connects from now on to another server, as a DNS name or a load balancer does.

        Connections that are open stay where they are.
        """
        self._host, self._port = _address(url)

    @classmethod
    def before(cls, url: str) -> Self:
        """Return a proxy for the server that a database URL leads to."""
        return cls(*_address(url), url=url)

    @property
    def port(self) -> int:
        """The port to connect to, in place of the server's."""
        assert self._listening_port, "the proxy is not open"
        return self._listening_port

    @property
    def url(self) -> str:
        """The database URL that leads through the proxy."""
        return render(make_url(self._direct_url).set(host=HOST, port=self.port))

    @contextmanager
    def counted(self) -> Iterator[Count]:
        """Count what passes while the block runs."""
        count = Count()
        self._counts.append(count)
        try:
            yield count
        finally:
            self._counts.remove(count)

    def note_round_trip(self) -> None:
        for count in self._counts:
            count.round_trips += 1

    async def __aenter__(self) -> Self:
        self._listening_port = free_port()
        await self.restart()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # who asked has gone again
        client.setblocking(False)
        task = asyncio.create_task(self._serve(client))
        self._tasks.add(task)
        self._accepted.add(client)
        task.add_done_callback(partial(self._served, client))

    def _served(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if client in self._accepted:  # it was cut before its task began
            self._accepted.discard(client)
            client.close()

    async def _serve(self, client: socket.socket) -> None:
        self._accepted.discard(client)
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            server = await self._connect()
            if server is not None:
                await Link(self, (reader, writer), server).run()
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        try:
            server = await asyncio.open_connection(self._host, self._port)
        except OSError:
            return None  # the client is closed, as it would be refused without the proxy
        for count in self._counts:
            count.connections += 1
        return server


def _address(url: str) -> tuple[str, int]:
    parts = make_url(url)
    defaults = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
    return parts.host or "localhost", parts.port or defaults[parts.get_backend_name()]
