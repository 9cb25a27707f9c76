"""What grows with load, and does not shrink again, in one candidate: run through `alone`."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from fastapi import FastAPI
from load import load
from memory import highest_bytes, resident_bytes
from sqlite import stream
from workloads import INSERT, READ

from asgi import Call, caller
from peers.candidates import CANDIDATES
from peers.places import Place

_WARM_UP_REQUESTS = 1000
_READS_PER_INSERT = 9


@dataclass(frozen=True)
class Trial:
    """What is to be done.

    Attributes:
        candidate: A name in CANDIDATES.
        url: Of the database.
        clients: How many at the same time, one level after the other.
        seconds: Of each level, at least.
        churn: Requests, one after the other in a few lines, that are to leave nothing behind.
    """

    candidate: str
    url: str
    clients: Sequence[int]
    seconds: float
    churn: int


def measure(**trial: Any) -> dict[str, Any]:
    return asyncio.run(_measure(Trial(**trial)))


def measure_stream(name: str, url: str) -> dict[str, Any]:
    return asdict(stream.measure(name, url))


async def _measure(trial: Trial) -> dict[str, Any]:
    app = CANDIDATES[trial.candidate].make_app(Place(trial.url, tuned=True))
    async with app.router.lifespan_context(app):
        # Memory is looked at before the thousand clients come, who need some of it themselves.
        churn = await _churn(app, trial.churn)
        levels = [await _level(app, clients, trial.seconds) for clients in trial.clients]
    return {"levels": levels, "churn": churn}


async def _level(app: FastAPI, clients: int, seconds: float) -> dict[str, Any]:
    call = caller(app, READ)
    await load(call, clients=clients, seconds=seconds / 4, watch_loop=False)
    # Each client is to be answered several times.
    block = await load(call, clients=clients, seconds=seconds + clients / 250, watch_loop=False)
    return {
        "clients": clients,
        "per_second": block.per_second,
        "p50_ms": block.percentile(50) * 1000,
        "p99_ms": block.percentile(99) * 1000,
        "failures": block.failures,
        "mb": highest_bytes() / 1e6,
    }


async def _churn(app: FastAPI, requests: int) -> dict[str, Any]:
    calls = [*[caller(app, READ)] * _READS_PER_INSERT, caller(app, INSERT)]
    failures = await _send(calls, _WARM_UP_REQUESTS)
    before = await _settled_bytes()
    failures += await _send(calls, requests)
    after = await _settled_bytes()
    return {
        "requests": requests,
        "before_mb": before / 1e6,
        "after_mb": after / 1e6,
        "failures": failures,
    }


async def _send(calls: Sequence[Call], requests: int) -> int:
    """Send the calls in turns, 16 at the same time; return how many have failed."""
    numbers = iter(range(requests))
    failures = 0

    async def client() -> None:
        nonlocal failures
        for number in numbers:
            try:
                await asyncio.create_task(calls[number % len(calls)]())
            except Exception:  # noqa: BLE001 - whatever it was, the request has failed
                failures += 1

    await asyncio.gather(*(client() for _ in range(16)))
    return failures


async def _settled_bytes() -> float:
    looks = []
    for _ in range(5):
        await asyncio.sleep(0.02)
        looks.append(resident_bytes())
    return median(looks)
