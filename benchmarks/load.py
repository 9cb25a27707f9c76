"""Many clients at once, in this process: each sends a request, and the next when it is answered."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter

from asgi import Call

_HEARTBEAT_SECONDS = 0.001


@dataclass(slots=True)
class Block:
    """What some seconds of load have shown.

    Attributes:
        seconds: How long requests were sent.
        elapsed: Seconds until the last of them was answered.
        answered: Requests answered within that time, rightly.
        all_answered: The same, with those answered later.
        failures: Requests answered wrongly or not at all.
        errors: The types of their exceptions, and how often each came.
        latencies: In seconds, of all requests that were answered rightly.
        stall: For how long the event loop came to nothing else at most, in seconds; None where it
            is another process's.
    """

    seconds: float
    elapsed: float = 0.0
    answered: int = 0
    all_answered: int = 0
    failures: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    stall: float | None = None

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds

    def percentile(self, percent: float) -> float:
        ordered = sorted(self.latencies) or [float("nan")]
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def load(call: Call, *, clients: int, seconds: float, watch_loop: bool = True) -> Block:
    """Let `clients` call again and again for `seconds`; wait until the last has its answer.

    Args:
        call: Sends a request.
        clients: How many send at the same time.
        seconds: For how long.
        watch_loop: Measure the stall of the event loop, which costs some of its time.
    """
    block = Block(seconds)
    gc.collect()  # each block pays for its own garbage only
    async with _heartbeat(block) if watch_loop else nullcontext():
        begun = perf_counter()
        await asyncio.gather(*(_client(call, block, begun + seconds) for _ in range(clients)))
        block.elapsed = perf_counter() - begun
    return block


async def _client(call: Call, block: Block, end: float) -> None:
    while (begun := perf_counter()) < end:
        try:
            # A task for each request, as servers do it: without, an app that never waits would
            # let no other client have a turn.
            await asyncio.create_task(call())
        except Exception as error:  # noqa: BLE001 - whatever it was, the request has failed
            block.failures += 1
            name = type(error).__name__
            block.errors[name] = block.errors.get(name, 0) + 1
            continue
        now = perf_counter()
        block.answered += now < end
        block.all_answered += 1
        block.latencies.append(now - begun)


@asynccontextmanager
async def _heartbeat(block: Block) -> AsyncIterator[None]:
    block.stall = 0.0

    async def beat() -> None:
        while True:
            due = perf_counter() + _HEARTBEAT_SECONDS
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            block.stall = max(block.stall or 0.0, perf_counter() - due)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
