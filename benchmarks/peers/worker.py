"""One candidate in a process of its own, which obeys its parent.

Nobody else's threads, garbage and modules are in its figures; and libraries that keep their engine
in a module can be there twice. The load comes from the same process, without a server between, or
from elsewhere over HTTP.
"""

import asyncio
import gc
import json
import logging
import os
import socket
import time
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from load import Block, load

from asgi import WrongAnswer
from peers.candidates import CANDIDATES
from peers.places import Place
from peers.workloads import ANSWERS, COUNTING, WORKLOADS, call_of

_SETTLE_SECONDS = 0.05
_LOOKS = 100
_LEAD_IN_SECONDS = 0.05  # after others have had the processor, its caches hold nothing of ours


@dataclass(frozen=True)
class Trial:
    """What a block of load has shown.

    Attributes:
        per_second: Requests answered rightly, in the time until the last was answered: where many
            wait for each other, few are answered before all have been sent.
        answered: How many they were, with those answered after the time was over.
        failures: Requests answered wrongly or not at all.
        errors: The types of exceptions behind them, and how often each came.
        cpu_us: Of this process, all threads included, for each request; None where nothing was
            answered, or where the load comes from another process.
        p50_ms: Half of the requests were answered in that time.
        p99_ms: Likewise 99 of 100.
        longest_ms: Likewise all of them.
        lost: Increments that were acknowledged and are not in the database.
    """

    per_second: float
    answered: int
    failures: int
    errors: dict[str, int]
    cpu_us: float | None
    p50_ms: float | None
    p99_ms: float | None
    longest_ms: float | None
    lost: int | None = None

    @classmethod
    def of(cls, block: Block, cpu_seconds: float) -> "Trial":
        some = bool(block.latencies)
        return cls(
            per_second=block.all_answered / block.elapsed,
            answered=block.all_answered,
            failures=block.failures,
            errors=block.errors,
            cpu_us=cpu_seconds / block.all_answered * 1e6 if block.all_answered else None,
            p50_ms=block.percentile(50) * 1000 if some else None,
            p99_ms=block.percentile(99) * 1000 if some else None,
            longest_ms=max(block.latencies) * 1000 if some else None,
        )


def main(connection: Connection, candidate: str, place: Place) -> None:
    """Open the candidate's app, check it, and do what the parent asks for until it closes."""
    logging.disable(logging.CRITICAL)  # a failure is counted, not told
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # structlog prints
        asyncio.run(_obey(connection, candidate, place))


async def _obey(connection: Connection, candidate: str, place: Place) -> None:
    try:
        app = CANDIDATES[candidate].make_app(place)
        async with app.router.lifespan_context(app):
            await _check(app, place)
            connection.send(None)
            await _obey_with(connection, app)
    except Exception as error:  # noqa: BLE001 - the parent reports it
        with suppress(OSError):
            connection.send(f"{type(error).__name__}: {error}")


async def _obey_with(connection: Connection, app: FastAPI) -> None:
    orders = {"load": _load, "serve": _serve, "checked_out": _checked_out}
    gc.collect()
    gc.freeze()  # what stays: without it, collecting before each block would take too long
    with suppress(EOFError):  # the parent has closed
        while order := await asyncio.to_thread(connection.recv):
            name, arguments = order
            connection.send(await orders[name](app, **arguments))


async def _load(app: FastAPI, workload: str, clients: int, seconds: float) -> Trial:
    call = call_of(app, workload)
    if workload not in COUNTING:  # there, what is not reported would hide what is lost
        await load(call, clients=clients, seconds=min(seconds, _LEAD_IN_SECONDS), watch_loop=False)
    begun = time.process_time()
    block = await load(call, clients=clients, seconds=seconds, watch_loop=False)
    return Trial.of(block, time.process_time() - begun)


async def _serve(app: FastAPI) -> int:
    """Serve the app over HTTP from now on; return the port."""
    import uvicorn

    # With the protocol named, as uvicorn's own sockets have it: asyncio looks at it before it
    # switches Nagle's algorithm off, which would cost 40 ms for each answer.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    config = uvicorn.Config(app, lifespan="off", log_level="critical", access_log=False)
    server = uvicorn.Server(config)
    app.state.serving = asyncio.create_task(server.serve(sockets=[listening]))
    return int(listening.getsockname()[1])


async def _checked_out(app: FastAPI) -> int | None:
    """Return the connections that were not given back; None where the candidate has no pool."""
    if not hasattr(app.state, "engines"):
        return None
    left = 0
    for _ in range(_LOOKS):  # requests whose clients have left may still be at work
        left = sum(engine.pool.checkedout() for engine in app.state.engines())
        if not left:
            break
        await asyncio.sleep(_SETTLE_SECONDS)
    return left


async def _check(app: FastAPI, place: Place) -> None:
    """Ask for everything once: one that answers wrongly has not won."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://benchmark") as client:
        for name, answer in ANSWERS.items():
            workload = WORKLOADS[name]
            body: Any = json.loads(workload.body or "null")
            response = await client.request(workload.method, workload.path, json=body)
            got = response.json()
            if place.database != "sqlite" and workload.method == "POST":
                got, answer = set(got), set(answer)  # the tables are shared
            if (response.status_code, got) != (workload.status, answer):
                raise WrongAnswer(f"{workload.title}: {response.text}")


def as_json(trial: Trial) -> dict[str, Any]:
    return asdict(trial)
