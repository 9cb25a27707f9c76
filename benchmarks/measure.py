"""Time per request, of several candidates side by side in one process.

A machine is never as quick as it was a second ago. So the candidates take turns, a block of
requests each, and what counts is the ratio of two blocks of the same round.
"""

import asyncio
import gc
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from asgi import Call

_WARM_UP_REQUESTS = 40
_BLOCK_SECONDS = 0.02
_LEAST_ROUNDS = 10
_LATE = 1.2  # where the machine has become slower than it was when the blocks were sized


@dataclass(frozen=True, slots=True)
class Block:
    """What one request of a block took on average, in microseconds."""

    wall_us: float
    cpu_us: float  # of this process, all its threads; the server's is not in it


async def measure(
    calls: Mapping[str, Call],
    *,
    seconds: float,
    clients: int = 1,
    block_seconds: float = _BLOCK_SECONDS,
) -> dict[str, list[Block]]:
    """Measure each call for about `seconds`; return its blocks, one for each round.

    Args:
        calls: What sends a request, by the candidate's name.
        seconds: For each of them.
        clients: How many call at the same time, each again when it is answered.
        block_seconds: Of one candidate's turn, about. Longer ones differ less from one another.
    """
    sizes = {name: await _block_size(call, clients, block_seconds) for name, call in calls.items()}
    blocks: dict[str, list[Block]] = {name: [] for name in calls}
    order = list(calls)
    chance = random.Random(0)
    gc.collect()
    gc.freeze()  # what stays: without it, collecting before each block would take too long
    try:
        end = time.perf_counter() + _LATE * seconds * len(calls)
        for number in range(max(_LEAST_ROUNDS, round(seconds / block_seconds))):
            if number >= _LEAST_ROUNDS and time.perf_counter() > end:
                break
            chance.shuffle(order)  # so that nobody always comes after the same one
            for name in order:
                blocks[name].append(await _block(calls[name], sizes[name], clients))
    finally:
        gc.unfreeze()
    return blocks


async def _block_size(call: Call, clients: int, block_seconds: float) -> int:
    """Fill caches and pools; return how many requests make a block."""
    requests = max(_WARM_UP_REQUESTS, 8 * clients)
    await _send(call, requests, clients)
    probe = await _block(call, requests, clients)
    return max(5, 2 * clients, round(block_seconds * 1e6 / probe.wall_us))


async def _block(call: Call, size: int, clients: int) -> Block:
    gc.collect()  # each block pays for its own garbage only
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    await _send(call, size, clients)
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    return Block(wall / size / 1000, cpu / size / 1000)


async def _send(call: Call, requests: int, clients: int) -> None:
    if clients == 1:  # without tasks, which would be in the figures
        for _ in range(requests):
            await call()
        return
    numbers = iter(range(requests))

    async def client() -> None:
        for _ in numbers:
            await asyncio.create_task(call())

    async with asyncio.TaskGroup() as clients_of_block:
        for _ in range(clients):
            clients_of_block.create_task(client())
