"""How many connections a SQLite file should have, and which of the idle ones is taken next."""

import argparse
import asyncio
import random
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from load import Block, load
from rich.console import Console
from workloads import INSERT, READ

from asgi import Call, caller
from fastdb import PoolOptions
from sqlite.candidates import fastdb_session
from sqlite.models import make_file
from sqlite.report import new_table, write_json
from sqlite.workloads import Load

# (size, max_overflow); the first is the base of the ratios.
_POOLS = ((5, 5), (1, 0), (2, 0), (3, 0), (5, 0), (10, 0), (20, 0), (5, 15))
_WARM_UP_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Result:
    load: str
    pool: str
    per_second: float
    to_first: float
    p99_ms: float
    failures: int


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks sqlite pools", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a block")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    chosen = parser.parse_args(arguments)
    console = Console(width=130)
    results = []
    with tempfile.TemporaryDirectory(prefix="fastdb-benchmark-") as directory:
        for workload in (READ, INSERT):
            each = Load(workload, chosen.clients)
            path = Path(directory) / workload.name
            path.mkdir()
            found = asyncio.run(_measure(path, each, chosen.rounds, chosen.seconds))
            _print(found, console)
            results += found
    write_json(results, chosen.json)


async def _measure(directory: Path, each: Load, rounds: int, seconds: float) -> list[Result]:
    chance = random.Random(0)
    async with AsyncExitStack() as stack:
        calls: dict[str, Call] = {}
        for size, max_overflow in _POOLS:
            for order in ("fifo", "lifo"):
                name = f"size={size:<2} max_overflow={max_overflow:<2} {order}"
                path = directory / f"{len(calls)}.db"
                make_file(path)
                app = fastdb_session.make_app(
                    path,
                    pool=PoolOptions(size=size, max_overflow=max_overflow),
                    async_options={"pool_use_lifo": order == "lifo"},
                )
                await stack.enter_async_context(app.router.lifespan_context(app))
                calls[name] = caller(app, each.workload)
                await load(calls[name], clients=each.clients, seconds=_WARM_UP_SECONDS)
        blocks: dict[str, list[Block]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name in chance.sample(list(calls), len(calls)):
                block = await load(calls[name], clients=each.clients, seconds=seconds)
                blocks[name].append(block)
    return _compare(each, blocks)


def _compare(each: Load, blocks: Mapping[str, Sequence[Block]]) -> list[Result]:
    base = next(iter(blocks.values()))
    return [
        Result(
            each.name,
            name,
            per_second=median(block.per_second for block in mine),
            to_first=median(a.per_second / b.per_second for a, b in zip(mine, base, strict=True)),
            p99_ms=median(block.percentile(99) for block in mine) * 1000,
            failures=sum(block.failures for block in mine),
        )
        for name, mine in blocks.items()
    ]


def _print(results: Sequence[Result], console: Console) -> None:
    table = new_table(results[0].load, "pool", "req/s", "÷ first", "p99 ms", "failed")
    for result in results:
        table.add_row(
            result.pool,
            f"{result.per_second:.0f}",
            f"{result.to_first:.2f}",
            f"{result.p99_ms:.1f}",
            str(result.failures),
        )
    console.print(table)
