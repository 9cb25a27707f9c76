"""All candidates in this process, called without a server: nothing but the apps is measured."""

import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI
from load import Block, load

from asgi import WrongAnswer, caller
from sqlite.candidates import CANDIDATES
from sqlite.models import counted, file_of, make_file
from sqlite.results import Result, compare
from sqlite.workloads import ANSWERS, INCREMENT, WORKLOADS, Load

_WARM_UP_SECONDS = 0.1


async def measure(
    directory: Path, loads: Sequence[Load], names: Sequence[str], *, rounds: int, seconds: float
) -> AsyncIterator[list[Result]]:
    """Yield the results of each load in turn."""
    chance = random.Random(0)
    async with _apps(directory, names) as apps:
        for each in loads:
            calls = {name: caller(app, each.workload) for name, app in apps.items()}
            for call in calls.values():
                await load(call, clients=each.clients, seconds=_WARM_UP_SECONDS)
            serving = each.served_by(names)
            blocks: dict[str, list[Block]] = {name: [] for name in serving}
            with _lost_updates(directory, each, blocks) as lost:
                for _ in range(rounds):
                    # So that nobody always comes after the same one.
                    for name in chance.sample(serving, len(serving)):
                        blocks[name].append(
                            await load(
                                calls[name],
                                clients=each.clients,
                                seconds=each.block_seconds(seconds),
                            )
                        )
            yield compare("asgi", each.name, blocks, lost)


@asynccontextmanager
async def _apps(directory: Path, names: Sequence[str]) -> AsyncIterator[dict[str, FastAPI]]:
    async with AsyncExitStack() as stack:
        apps = {}
        for name in names:
            path = file_of(directory, name)
            make_file(path)
            app = CANDIDATES[name](path)
            await stack.enter_async_context(app.router.lifespan_context(app))
            await _check(name, app)
            apps[name] = app
        yield apps


async def _check(name: str, app: FastAPI) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://benchmark") as client:
        for workload in WORKLOADS:
            body = json.loads(workload.body or "null")
            response = await client.request(workload.method, workload.path, json=body)
            if (response.status_code, response.json()) != (
                workload.status,
                ANSWERS[workload.name],
            ):
                raise WrongAnswer(f"{name}, {workload.title}: {response.text}")


@contextmanager
def _lost_updates(
    directory: Path, load: Load, blocks: dict[str, list[Block]]
) -> Iterator[dict[str, int]]:
    """Give a mapping that holds, afterwards, the acknowledged increments that are gone."""
    lost: dict[str, int] = {}
    counting = [name for name in blocks if load.workload is INCREMENT and name != "no database"]
    before = {name: counted(file_of(directory, name)) for name in counting}
    yield lost
    for name in counting:
        acknowledged = sum(block.all_answered for block in blocks[name])
        done = counted(file_of(directory, name)) - before[name]
        lost[name] = max(0, acknowledged - done)
