"""One way to serve, asked what one claim says, in this process: run through `alone`."""

import asyncio
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from load import load
from memory import highest_bytes, resident_bytes
from workloads import Workload

from asgi import asker, caller
from peers.claim_ways import WAYS
from peers.crowd import crowd, statuses
from peers.places import Place

_PATIENCE = 150.0


@dataclass(frozen=True)
class Trial:
    """What is to be done.

    Attributes:
        way: A name in WAYS.
        url: Of the database.
        pool: Connections at most.
        threads: Of FastAPI's pool, for synchronous endpoints.
        requests: At the same time.
        bursts: How often all requests are sent at once; 0 to let each client ask again and again.
        seconds: For which clients ask again and again.
    """

    way: str
    url: str
    pool: int
    threads: int
    requests: int
    method: str
    path: str
    body: str
    status: int
    bursts: int
    seconds: float


def measure(**trial: Any) -> dict[str, Any]:
    return asyncio.run(_measure(Trial(**trial)))


async def _measure(trial: Trial) -> dict[str, Any]:
    place = Place(trial.url, tuned=True, pool_size=trial.pool)
    app = WAYS[trial.way](place, trial.threads)
    request = Workload(
        "claim", "claim", "", trial.path, trial.method, trial.body.encode(), trial.status
    )
    async with app.router.lifespan_context(app):
        idle = resident_bytes() / 1e6
        measured = _bursts if trial.bursts else _again_and_again
        found = await measured(app, request, trial)
    return {**found, "mb_idle": idle, "mb": highest_bytes() / 1e6}


async def _bursts(app: Any, request: Workload, trial: Trial) -> dict[str, Any]:
    ask = asker(app, request)
    await ask()  # imports what is imported at first use
    cold = await _burst(ask, trial) if trial.bursts > 1 else None  # opens the connections
    warm = [await _burst(ask, trial) for _ in range(trial.bursts)]
    outcomes = [outcome for _, found in warm for outcome in found]
    totals = [seconds for seconds, _ in warm]
    return {
        "seconds": totals,
        "seconds_cold": cold and cold[0],
        "p50": median(outcome.seconds for outcome in outcomes),
        "slowest": max(outcome.seconds for outcome in outcomes),
        "per_second": trial.requests / median(totals),
        "failed": sum(outcome.status != trial.status for outcome in outcomes) / trial.bursts,
        "statuses": statuses(outcomes),
    }


async def _burst(ask: Any, trial: Trial) -> tuple[float, list[Any]]:
    begun = perf_counter()
    outcomes = await crowd(ask, trial.requests, patience=_PATIENCE)
    return perf_counter() - begun, outcomes


async def _again_and_again(app: Any, request: Workload, trial: Trial) -> dict[str, Any]:
    call = caller(app, request)
    await load(call, clients=trial.requests, seconds=trial.seconds / 4)
    block = await load(call, clients=trial.requests, seconds=trial.seconds)
    return {
        "seconds": [],
        "seconds_cold": None,
        "p50": block.percentile(50),
        "slowest": block.percentile(100),
        "per_second": block.per_second,
        "failed": block.failures,
        "statuses": {},
    }
