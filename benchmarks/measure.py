"""Time per request, of several candidates side by side in one process.

A machine is never as quick as it was a second ago. So the candidates take turns, a block of
requests each, and what counts is the ratio of two blocks of the same round.
"""

import gc
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from asgi import Call

_WARM_UP_REQUESTS = 40
_BLOCK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Block:
    """What one request of a block took on average, in microseconds."""

    wall_us: float
    cpu_us: float  # of this process, all its threads; the server's is not in it


async def measure(calls: Mapping[str, Call], *, seconds: float) -> dict[str, list[Block]]:
    """Measure each call for about `seconds`; return its blocks, one for each round."""
    sizes = {name: await _block_size(call) for name, call in calls.items()}
    blocks: dict[str, list[Block]] = {name: [] for name in calls}
    order = list(calls)
    chance = random.Random(0)
    gc.collect()
    gc.freeze()  # what stays: without it, collecting before each block would take too long
    try:
        for _ in range(max(10, round(seconds / _BLOCK_SECONDS))):
            chance.shuffle(order)  # so that nobody always comes after the same one
            for name in order:
                blocks[name].append(await _block(calls[name], sizes[name]))
    finally:
        gc.unfreeze()
    return blocks


async def _block_size(call: Call) -> int:
    """Fill caches and pools; return how many requests make a block."""
    for _ in range(_WARM_UP_REQUESTS):
        await call()
    probe = await _block(call, _WARM_UP_REQUESTS)
    return max(5, round(_BLOCK_SECONDS * 1e6 / probe.wall_us))


async def _block(call: Call, size: int) -> Block:
    gc.collect()  # each block pays for its own garbage only
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    for _ in range(size):
        await call()
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    return Block(wall / size / 1000, cpu / size / 1000)
