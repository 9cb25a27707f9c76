"""Fifty requests that each wait for a language model, with five connections: `examples/reports`.

Each round measures in three ways how long it takes until fifty answers are there: those of the
model alone, which answers after a second; the same by the client that the app has for it; and those
of the app, which reads, asks the model and writes. In turns, so that what slows the machine down
hits all alike.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionUserMessageParam
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from fastdb import create_sync_engine
from fastdb.testing.servers import AppServer, MariaDB

EXAMPLE = Path(__file__).parent.parent / "examples" / "reports"
DATABASE = "fastdb_reports"
REQUESTS = 50
SECONDS = 1.0
POOL_SIZE = 5
WARN_AFTER = 0.5  # less than the model takes: whoever holds a connection meanwhile is warned of
WARNING = "A connection of"

PROMPT: ChatCompletionUserMessageParam = {"role": "user", "content": "What happened."}

Ask = Callable[[str], Awaitable[None]]


def run(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks reports")
    parser.add_argument("--rounds", type=int, default=9, help="default 9")
    parser.add_argument("--driver", choices=["aiomysql", "asyncmy"], default="aiomysql")
    chosen = parser.parse_args(arguments)
    with ExitStack() as stack:
        server = stack.enter_context(MariaDB())
        with create_sync_engine(server.url()).begin() as connection:
            connection.execute(text(f"CREATE DATABASE {DATABASE}"))
        model = stack.enter_context(
            AppServer(
                "stand_in:app", directory=EXAMPLE, environment={"STAND_IN_SECONDS": str(SECONDS)}
            )
        )
        url = server.url(DATABASE).replace("mysql://", f"mysql+{chosen.driver}://", 1)
        app = stack.enter_context(
            AppServer("reports.app:app", directory=EXAMPLE, environment=_environment(url, model))
        )
        measured = asyncio.run(_measure(model.url, app.url, chosen.rounds))
        warnings = app.log().count(WARNING)
    _print(chosen.driver, measured, warnings)


def _environment(url: str, model: AppServer) -> dict[str, str]:
    return {
        "REPORTS_DATABASE_URL": url,
        "REPORTS_DATABASE_POOL_SIZE": str(POOL_SIZE),
        "REPORTS_DATABASE_WARN_AFTER": str(WARN_AFTER),
        "REPORTS_LLM_URL": f"{model.url}/v1",
    }


async def _measure(model_url: str, app_url: str, rounds: int) -> list[list[float]]:
    """Return the seconds of each round, in each of the ways."""
    limits = httpx.Limits(max_keepalive_connections=REQUESTS)
    async with (
        httpx.AsyncClient(base_url=model_url, limits=limits, timeout=60, trust_env=False) as model,
        AsyncOpenAI(base_url=f"{model_url}/v1", api_key="none", max_retries=0) as client,
        httpx.AsyncClient(base_url=app_url, limits=limits, timeout=60, trust_env=False) as app,
    ):

        async def ask_model(_: str) -> None:
            prompt = {"model": "any", "messages": [PROMPT]}
            (await model.post("/v1/chat/completions", json=prompt)).raise_for_status()

        async def ask_by_client(_: str) -> None:
            await client.chat.completions.create(model="any", messages=[PROMPT])

        async def ask_app(path: str) -> None:
            answer = (await app.post(f"{path}/summaries")).raise_for_status()
            if answer.json() != {"summarized": 1, "failed": 0}:
                raise RuntimeError(answer.text)

        measured = []
        for _ in range(rounds + 1):
            paths = [await _new_report(app) for _ in range(REQUESTS)]
            ways = (ask_model, ask_by_client, ask_app)
            measured.append([await _seconds(ask, paths) for ask in ways])
    return measured[1:]  # the first round opens connections


async def _new_report(app: httpx.AsyncClient) -> str:
    answer = (await app.post("/reports", json={"title": "The week"})).raise_for_status()
    path = f"/reports/{answer.json()['id']}"
    article = {"url": "https://news.example/1", "title": "Day 1", "body": "What happened."}
    (await app.post(f"{path}/articles", json=[article])).raise_for_status()
    return path


async def _seconds(ask: Ask, paths: Sequence[str]) -> float:
    begun = time.perf_counter()
    await asyncio.gather(*(ask(path) for path in paths))
    return time.perf_counter() - begun


def _print(driver: str, measured: Sequence[Sequence[float]], warnings: int) -> None:
    table = Table(title=f"{driver}, {len(measured)} rounds, {warnings} warnings")
    for heading in ("until 50 answers are there", "seconds", "app / this", "range"):
        table.add_column(heading)
    *_, through = zip(*measured, strict=True)
    ways = ("the model alone", "by OpenAI's client", "through the app")
    for way, figures in zip(ways, zip(*measured, strict=True), strict=True):
        ratios = sorted(app / other for app, other in zip(through, figures, strict=True))
        medians = [f"{statistics.median(each):.2f}" for each in (figures, ratios)]
        table.add_row(way, *medians, f"{ratios[0]:.2f} to {ratios[-1]:.2f}")
    Console(width=110).print(table)
