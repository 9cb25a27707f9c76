"""Each candidate in a process of its own behind uvicorn, the clients in another."""

import asyncio
import json
import random
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
from load import Block

from asgi import WrongAnswer
from sqlite.models import file_of, make_file
from sqlite.results import Result, compare
from sqlite.workloads import Load

_BENCHMARKS = Path(__file__).parent.parent
_WARM_UP_SECONDS = 0.2
_START_SECONDS = 20


async def measure(
    directory: Path, loads: Sequence[Load], names: Sequence[str], *, rounds: int, seconds: float
) -> AsyncIterator[list[Result]]:
    """Yield the results of each load in turn."""
    chance = random.Random(0)
    async with AsyncExitStack() as stack:
        clients = await stack.enter_async_context(_process("client", stdin=PIPE, stdout=PIPE))
        ports = {
            name: await stack.enter_async_context(_server(name, file_of(directory, name)))
            for name in names
        }
        for each in loads:
            for port in ports.values():
                await _load(clients, port, each, _WARM_UP_SECONDS)
            serving = each.served_by(names)
            blocks: dict[str, list[Block]] = {name: [] for name in serving}
            for _ in range(rounds):
                for name in chance.sample(serving, len(serving)):
                    block = await _load(clients, ports[name], each, each.block_seconds(seconds))
                    blocks[name].append(block)
            yield compare("uvicorn", each.name, blocks, {})


async def _load(clients: Process, port: int, each: Load, seconds: float) -> Block:
    order = {
        "port": port,
        "method": each.workload.method,
        "path": each.workload.path,
        "body": each.workload.body.decode(),
        "status": each.workload.status,
        "clients": each.clients,
        "seconds": seconds,
    }
    if clients.stdin is None or clients.stdout is None:
        raise TypeError("the clients' process has no pipes")
    clients.stdin.write(json.dumps(order).encode() + b"\n")
    answer = await clients.stdout.readline()
    return Block(**json.loads(answer))


@asynccontextmanager
async def _server(name: str, path: Path) -> AsyncIterator[int]:
    make_file(path)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        descriptor = listening.fileno()
        port = listening.getsockname()[1]
        async with _process("server", name, path, descriptor, pass_fds=[descriptor]):
            # The socket takes the connection at once; the answer comes when the app is open.
            async with httpx.AsyncClient(timeout=_START_SECONDS) as client:
                response = await client.get(f"http://127.0.0.1:{port}/heroes/1")
            if response.status_code != httpx.codes.OK:
                raise WrongAnswer(f"{name}: {response.text}")
            yield port


@asynccontextmanager
async def _process(command: str, *arguments: object, **options: object) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, _BENCHMARKS, "sqlite", command, *map(str, arguments),
        limit=2**26, **options,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()
