"""What `await upgrade(db)` costs a worker whose database is at head already.

Each round opens a Database anew, as a worker does when it starts: once it only pings, which opens
the connection that the first request would open; once it upgrades. In turns, so that what slows
the machine down hits both alike.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import event
from targets import TESTS, Target, private_servers, sqlite

from fastdb import Database
from fastdb.migrations import upgrade

Start = Callable[[Database], Awaitable[None]]


def run(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks migrations")
    parser.add_argument("--servers", action="store_true", help="start private servers, as tests do")
    parser.add_argument("--rounds", type=int, default=50, help="default 50")
    chosen = parser.parse_args(arguments)
    sys.path.append(str(TESTS))
    from shop_project import make_project

    table = Table("database", "ping, ms", "upgrade, ms", "more, ms", "statements", "connections")
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastdb-benchmark-"))
        os.chdir(make_project(Path(directory) / "project"))
        targets = [stack.enter_context(sqlite())]
        if chosen.servers:
            targets += stack.enter_context(private_servers())
        for target in targets:
            table.add_row(*asyncio.run(_measure(target, chosen.rounds)))
    Console(width=110).print(table)


async def _measure(target: Target, rounds: int) -> list[str]:
    url = target.new_url()
    async with Database(url) as db:
        await upgrade(db)
    pings, upgrades = [], []
    for _ in range(rounds):
        pings.append(await _milliseconds(url, Database.ping))
        upgrades.append(await _milliseconds(url, upgrade))
    more = statistics.median(after - before for before, after in zip(pings, upgrades, strict=True))
    statements, connections = await _count(url)
    medians = [statistics.median(figures) for figures in (pings, upgrades)]
    return [target.name, *(f"{figure:.1f}" for figure in (*medians, more)), statements, connections]


async def _milliseconds(url: str, start: Start) -> float:
    async with Database(url) as db:
        begun = time.perf_counter()
        await start(db)
        return (time.perf_counter() - begun) * 1000


async def _count(url: str) -> tuple[str, str]:
    """Count what an upgrade sends, beyond what every first connection is asked."""
    counts = []
    for start in (Database.ping, upgrade):
        statements: list[str] = []
        connections: list[object] = []
        async with Database(url) as db:
            for engine in (db.engine.sync_engine, db.read_engine.sync_engine):
                event.listen(
                    engine,
                    "before_cursor_execute",
                    lambda _c, _u, statement, *_, to=statements: to.append(statement),
                )
                event.listen(engine, "connect", lambda c, _, to=connections: to.append(c))
            await start(db)
        counts.append((len(statements), len(connections)))
    (of_ping, _), (of_upgrade, connected) = counts
    # The ping itself is one statement.
    return str(of_upgrade - (of_ping - 1)), str(connected)
