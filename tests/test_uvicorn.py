"""A real server with real sockets: clients that leave, and a server that is told to stop."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from asgi import Base, Item, checked_out, serving, until
from backends import Backend
from fastdb import Database, DatabaseDep, SessionDep, StreamSessionDep, SyncSessionDep

HOST = "127.0.0.1"
START_SECONDS = 30


class _Server(uvicorn.Server):
    """A server inside the test's own loop, which leaves the signals alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[int]:
    """Serve `app`, whose lifespan runs elsewhere, and give the port."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=5)
        server = _Server(config)
        running = asyncio.ensure_future(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def http_client(port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", trust_env=False) as client:
        yield client


async def test_answer_over_a_socket_means_durable(database: Database) -> None:
    """Rows are there when the client has its 201, from `async def` and from `def`."""
    app = FastAPI()

    @app.post("/async", status_code=201)
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))

    @app.post("/sync", status_code=201)
    def create_sync(session: SyncSessionDep) -> None:
        session.add(Item(name="b"))

    async with (
        serving(app, database, sync=True) as watcher,
        listening(app) as port,
        http_client(port) as client,
    ):
        assert (await client.post("/async")).status_code == 201
        assert await watcher.rows() == ["a"]
        assert (await client.post("/sync")).status_code == 201
        assert await watcher.rows() == ["a", "b"]


async def test_many_clients_at_the_same_time(database: Database) -> None:
    """More clients than connections: all are served, each with its own transaction."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(session: SessionDep, name: str) -> None:
        session.add(Item(name=name))

    async with (
        serving(app, database) as watcher,
        listening(app) as port,
        http_client(port) as client,
    ):
        answers = await asyncio.gather(*(client.post(f"/items?name={n}") for n in range(40)))

        assert {answer.status_code for answer in answers} == {201}
        assert len(await watcher.rows()) == 40


# --- Clients that leave -------------------------------------------------------------------------


async def leave_after_first_chunk(port: int, path: str) -> None:
    """Ask, read the beginning of the answer, and hang up."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n".encode())
    await reader.readuntil(b"first")
    writer.close()
    await writer.wait_closed()


def _stream(db: Database, rest: AsyncIterator[bytes]) -> StreamingResponse:
    async def write() -> AsyncIterator[bytes]:
        async with db.session() as session:
            session.add(Item(name="a"))
            await session.flush()
            yield b"first"
            async for chunk in rest:
                yield chunk

    return StreamingResponse(write())


async def _nothing_more() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def _more_than_fits() -> AsyncIterator[bytes]:
    while True:
        yield bytes(1 << 20)
        await asyncio.sleep(0)  # uvicorn's `send` does not wait for a client that has left


@pytest.mark.parametrize("rest", [_nothing_more, _more_than_fits], ids=["waiting", "sending"])
async def test_client_that_leaves_a_stream_undoes_it(
    database: Database, rest: Callable[[], AsyncIterator[bytes]]
) -> None:
    """Row 2: hanging up rolls back, whether the stream waited for more or for the client."""
    app = FastAPI()

    @app.post("/items")
    async def create(db: DatabaseDep) -> StreamingResponse:
        return _stream(db, rest())

    async with serving(app, database) as watcher, listening(app) as port:
        await leave_after_first_chunk(port, "/items")
        await until(lambda: checked_out(database) == 0)

        assert "COMMIT" not in watcher.log
        assert await watcher.rows() == []


async def test_stream_that_was_read_to_its_end_is_committed(database: Database) -> None:
    """Row 2, the other half: a client that stays has what the stream wrote."""
    app = FastAPI()

    async def enough() -> AsyncIterator[bytes]:
        yield b"last"

    @app.post("/items")
    async def create(db: DatabaseDep) -> StreamingResponse:
        return _stream(db, enough())

    async with (
        serving(app, database) as watcher,
        listening(app) as port,
        http_client(port) as client,
    ):
        assert (await client.post("/items")).text == "firstlast"
        assert await watcher.rows() == ["a"]


@pytest.mark.parametrize("rest", [_nothing_more, _more_than_fits], ids=["waiting", "sending"])
async def test_stream_session_is_given_back_when_the_client_leaves(
    database: Database, rest: Callable[[], AsyncIterator[bytes]]
) -> None:
    """`StreamSessionDep` is given back with the request, however its client left."""
    app = FastAPI()

    async def read(session: AsyncSession) -> AsyncIterator[bytes]:
        await session.scalars(select(Item))
        yield b"first"
        async for chunk in rest():
            yield chunk

    @app.post("/items")
    async def export(session: StreamSessionDep) -> StreamingResponse:
        return StreamingResponse(read(session))

    async with serving(app, database), listening(app) as port:
        await leave_after_first_chunk(port, "/items")
        await until(lambda: checked_out(database) == 0)


async def test_client_that_leaves_a_plain_endpoint_changes_nothing(database: Database) -> None:
    """An endpoint goes on without its client, and is committed."""
    app = FastAPI()
    reached, left = asyncio.Event(), asyncio.Event()

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.flush()
        reached.set()
        await left.wait()

    async with serving(app, database) as watcher, listening(app) as port:
        _, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST /items HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
        await reached.wait()
        writer.close()
        await writer.wait_closed()
        left.set()
        await until(lambda: checked_out(database) == 0)

        assert watcher.log[:2] == ["BEGIN", "COMMIT"]
        assert await watcher.rows() == ["a"]


# --- A server that is told to stop ----------------------------------------------------------------

APP = """
import asyncio, os, sys
import uvicorn
from fastapi import FastAPI
from fastdb import Database, ReadSessionDep, SessionDep, SyncSessionDep
from sqlalchemy import text

db = Database(os.environ["URL"])
app = FastAPI(lifespan=db.lifespan)

@app.post("/items", status_code=201)
async def create(session: SessionDep, name: str):
    await session.execute(text("INSERT INTO item (name) VALUES (:name)"), {"name": name})
    if name == "slow":
        print("reached", flush=True)
        await asyncio.sleep(0.2)

@app.post("/sync", status_code=201)
def create_sync(session: SyncSessionDep, name: str):
    session.execute(text("INSERT INTO item (name) VALUES (:name)"), {"name": name})

@app.post("/endless")
async def endless(session: SessionDep):
    await session.execute(text("INSERT INTO item (name) VALUES ('endless')"))
    print("reached", flush=True)
    await asyncio.Event().wait()

@app.get("/items")
async def read(session: ReadSessionDep):
    return list(await session.scalars(text("SELECT name FROM item ORDER BY name")))

config = uvicorn.Config(app, fd=int(sys.argv[1]), log_level="warning", timeout_graceful_shutdown=1)
server = uvicorn.Server(config)

@app.get("/ready")
async def ready(): ...

server.run()
"""


@asynccontextmanager
async def server_process(
    backend: Backend, tmp_path: Path
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Run `APP` in a process of its own, on a table that exists; give it when it answers."""
    async with Database(backend.url) as database:
        await database.create_all(Base.metadata)
    script = tmp_path / "app.py"
    await asyncio.to_thread(script.write_text, APP)
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        source = str(Path(__file__).parents[1] / "src")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            str(script),
            str(listener.fileno()),
            env={**os.environ, "URL": backend.url, "PYTHONPATH": source},
            pass_fds=[listener.fileno()],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        port = listener.getsockname()[1]
    try:
        # It may take longer to start than a request may take.
        async with http_client(port) as client:
            (await client.get("/ready", timeout=START_SECONDS)).raise_for_status()
        yield process, port
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def stopped(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Send SIGTERM; return how the process ended, and what it wrote to stderr."""
    process.send_signal(signal.SIGTERM)
    _, errors = await process.communicate()
    return process.returncode, errors.decode()


@pytest.mark.backends("sqlite-file", "postgresql", "mysql")
async def test_server_that_is_told_to_stop_closes_its_connections(
    backend: Backend, tmp_path: Path
) -> None:
    """SIGTERM ends the server without a warning, and no session is left on the database."""
    async with server_process(backend, tmp_path) as (process, port):
        async with http_client(port) as client:
            for kind in ("items", "sync"):
                assert (await client.post(f"/{kind}?name={kind}")).status_code == 201
            assert (await client.get("/items")).json() == ["items", "sync"]

        # uvicorn ends with the signal that it was given, when it has cleaned up.
        assert await stopped(process) == (-signal.SIGTERM, "")


@pytest.mark.backends("sqlite-file", "postgresql-asyncpg", "mysql-aiomysql")
async def test_request_in_flight_is_served_before_the_server_stops(
    backend: Backend, tmp_path: Path
) -> None:
    """A request that SIGTERM finds at work is committed, and answered."""
    async with server_process(backend, tmp_path) as (process, port):
        async with http_client(port) as client:
            assert process.stdout is not None
            answer = asyncio.ensure_future(client.post("/items?name=slow"))
            assert await process.stdout.readline() == b"reached\n"
            ended = await stopped(process)

            assert (await answer).status_code == 201
            assert ended == (-signal.SIGTERM, "")
        async with Database(backend.url) as database, database.read_session() as session:
            assert list(await session.scalars(select(Item.name))) == ["slow"]


@pytest.mark.backends("sqlite-file", "postgresql-asyncpg", "mysql-aiomysql")
async def test_request_that_does_not_end_is_rolled_back_when_the_server_stops(
    backend: Backend, tmp_path: Path
) -> None:
    """A request that outstays the grace period is cancelled: rolled back, nothing left open."""
    async with server_process(backend, tmp_path) as (process, port):
        async with http_client(port) as client:
            assert process.stdout is not None
            answer = asyncio.ensure_future(client.post("/endless"))
            assert await process.stdout.readline() == b"reached\n"
            code, errors = await stopped(process)
            with pytest.raises(httpx.HTTPError):
                (await answer).raise_for_status()

        assert code == -signal.SIGTERM
        assert "Warning" not in errors
        async with Database(backend.url) as database, database.read_session() as session:
            assert list(await session.scalars(select(Item.name))) == []
