"""Servers with several worker processes: none ever reads what was meant for another one."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends import Backend
from fastdb import Database
from models import Base, Counter
from server_process import HOST

pytestmark = [pytest.mark.faults, pytest.mark.crowd]

WORKERS = 2
ROWS = range(1, 101)
START_SECONDS = 30
STOP_SECONDS = 20
SERVERS = {
    # It imports the app, and with it uses the database, before it forks.
    "gunicorn": (
        *("gunicorn", "workers_app:app", "--preload", "--workers", str(WORKERS)),
        *("--worker-class", "uvicorn_worker.UvicornWorker", "--bind", "fd://{descriptor}"),
        *("--log-level", "warning", "--graceful-timeout", "5"),
    ),
    # Its workers are new processes, and import the app inside their event loops.
    "uvicorn": (
        *("uvicorn", "workers_app:app", "--workers", str(WORKERS), "--fd", "{descriptor}"),
        *("--log-level", "warning", "--timeout-graceful-shutdown", "5"),
    ),
}
# gunicorn's own word for a good end is 0; uvicorn's is that, or the signal it was given.
GOOD_ENDS = {0, -signal.SIGTERM}


@asynccontextmanager
async def workers(
    server: str, backend: Backend, log: Path
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Start a server of `SERVERS`; give its first process and its URL."""
    environment = {**os.environ, "URL": backend.url, "PYTHONPATH": python_path()}
    if server == "gunicorn":
        environment["USE_AT_IMPORT"] = "1"
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(128)
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        command = [part.format(descriptor=listener.fileno()) for part in SERVERS[server]]
        file = await asyncio.to_thread(log.open, "wb")
        with file:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *command),
                env=environment,
                pass_fds=[listener.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
    try:
        yield process, url
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # its workers, too
            await process.wait()


def python_path() -> str:
    here = str(Path(__file__).parent)
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))


async def set_up(backend: Backend) -> None:
    async with Database(backend.url) as database:
        await database.create_all(Base.metadata)
        async with database.session() as session:
            session.add_all(Counter(id=number, value=number * number) for number in ROWS)


async def ask(url: str) -> Sequence[Any]:
    """Read each row in each way, all at the same time, over a connection for each request."""
    limits = httpx.Limits(max_connections=32, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        trust_env=False, base_url=url, timeout=START_SECONDS, limits=limits
    ) as client:

        async def one(way: str, number: int) -> Any:
            answer = await client.get(f"/{way}/{number}")
            return number, answer.raise_for_status().json()

        ways = ("read", "write", "sync")
        return await asyncio.gather(*(one(way, number) for number in ROWS for way in ways))


@pytest.mark.backends("sqlite-file", "postgresql", "mysql-aiomysql")
@pytest.mark.parametrize("server", SERVERS)
async def test_workers_keep_to_their_own_connections(
    server: str, backend: Backend, tmp_path: Path
) -> None:
    """Every answer is the row that was asked for; no two processes share a connection."""
    await set_up(backend)
    log = tmp_path / "log"
    async with workers(server, backend, log) as (process, url):
        answers = list(await ask(url))
        while len({told["process"] for _, told in answers}) < WORKERS:
            answers += await ask(url)  # until the second one has had its share
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_SECONDS):
            code = await process.wait()

    written = await asyncio.to_thread(log.read_text)
    assert [told["value"] for _, told in answers] == [number**2 for number, _ in answers]
    if backend.name != "sqlite":
        assert_disjoint(answers)
    assert code in GOOD_ENDS, written
    assert "Traceback" not in written
    assert "Warning" not in written


def assert_disjoint(answers: Sequence[Any]) -> None:
    pairs = {(told["connection"], told["process"]) for _, told in answers}
    owners = groupby(sorted(pairs), key=lambda pair: pair[0])
    shared = {connection: list(group) for connection, group in owners}
    assert all(len(group) == 1 for group in shared.values()), shared
