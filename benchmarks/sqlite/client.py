"""Many clients at once over HTTP, in a process of their own: run by `over_http`."""

import asyncio
import json
import sys
from collections.abc import Sequence
from time import perf_counter

from load import Block


def main(_arguments: Sequence[str]) -> None:
    """Serve orders, one a line: send that load, and answer with a line of what it has shown."""
    for line in sys.stdin:
        order = json.loads(line)
        block = asyncio.run(_load(**order))
        figures = {name: getattr(block, name) for name in Block.__slots__}
        print(json.dumps(figures), flush=True)


async def _load(
    port: int, method: str, path: str, body: str, status: int, clients: int, seconds: float
) -> Block:
    request = (
        f"{method} {path} HTTP/1.1\r\nHost: benchmark\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    expected = f"HTTP/1.1 {status} ".encode()
    block = Block(seconds)
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(clients)]
    end = perf_counter() + seconds
    try:
        await asyncio.gather(
            *(_client(*stream, request, expected, block, end) for stream in streams)
        )
    finally:
        for _, writer in streams:
            writer.close()
    return block


async def _client(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    request: bytes,
    expected: bytes,
    block: Block,
    end: float,
) -> None:
    while (begun := perf_counter()) < end:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(_length(head))
        now = perf_counter()
        if not head.startswith(expected):
            block.failures += 1
            continue
        block.answered += now < end
        block.all_answered += 1
        block.latencies.append(now - begun)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise ValueError(f"an answer without its length: {head!r}")
