"""A TCP proxy that delays what servers answer, in a process of its own.

Each round trip takes that much longer. There are threads instead of an event loop, whose timers
know whole milliseconds only.
"""

import contextlib
import multiprocessing
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from sqlalchemy.engine import make_url

_CHUNK = 64 * 1024
_HOST = "127.0.0.1"
_Piece = tuple[float, bytes]


@contextmanager
def delaying(seconds: float) -> Iterator[Callable[[str], str]]:
    """Give a function that returns the URL by which a database is reached through a proxy."""
    processes: list[multiprocessing.process.BaseProcess] = []
    known: dict[str, str] = {}

    def reach(url: str) -> str:
        if url not in known:
            known[url] = start(url)
        return known[url]

    def start(url: str) -> str:
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        parts = make_url(url)
        process = spawn.Process(
            target=_serve, args=(theirs, parts.host, parts.port, seconds), daemon=True
        )
        process.start()
        processes.append(process)
        return parts.set(host=_HOST, port=ours.recv()).render_as_string(hide_password=False)

    try:
        yield reach
    finally:
        for process in processes:
            process.kill()
            process.join()


def _serve(connection: Connection, host: str, port: int, seconds: float) -> None:
    listening = socket.create_server((_HOST, 0), backlog=1024)
    connection.send(listening.getsockname()[1])
    while True:
        client, _ = listening.accept()
        try:
            server = socket.create_connection((host, port))
        except OSError:
            client.close()  # as the client would be refused without the proxy
            continue
        _link(client, server, seconds)


def _link(client: socket.socket, server: socket.socket, seconds: float) -> None:
    for each in (client, server):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pieces: queue.SimpleQueue[_Piece] = queue.SimpleQueue()
    for target, arguments in (
        (_pass_on, (client, server)),
        (_hold, (server, pieces, seconds)),
        (_release, (pieces, client)),
    ):
        threading.Thread(target=target, args=arguments, daemon=True).start()


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(_CHUNK):
            server.sendall(data)
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_WR)


def _hold(server: socket.socket, pieces: "queue.SimpleQueue[_Piece]", seconds: float) -> None:
    data = b"?"
    while data:
        try:
            data = server.recv(_CHUNK)
        except OSError:
            data = b""
        pieces.put((time.monotonic() + seconds, data))
    server.close()


def _release(pieces: "queue.SimpleQueue[_Piece]", client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            due, data = pieces.get()
            if not data:
                break
            time.sleep(max(0.0, due - time.monotonic()))
            client.sendall(data)
        # Another thread is reading from it: close() alone would not tell the client.
        client.shutdown(socket.SHUT_RDWR)
    client.close()
