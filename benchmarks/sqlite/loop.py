"""What it costs the event loop that cheap reads run on its thread, with reads that turn out dear.

Each case is read again and again by one or several clients, with `inline_reads` and without. How
long SQLite held the loop's thread is measured around the one function that runs it there; how late
a heartbeat was tells what everything together does to the loop.
"""

import argparse
import asyncio
import os
import random
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from load import load
from rich.console import Console
from sqlalchemy import event, text

from fastdb import Database, SQLiteOptions
from fastdb.sqlite import accelerated
from sqlite.big import ROWS, make_big_file
from sqlite.report import new_table, write_json

_DEAR_EVERY = 50


@dataclass(frozen=True, slots=True)
class Case:
    """A statement, read again and again.

    Attributes:
        value: Returns the statement's parameter for the n-th read.
        cold: Nothing of the file is in memory when a read begins.
        grows: A row is added to the table `growing` after each read, by 200 at a time.
    """

    title: str
    statement: str
    value: Callable[[int], Any]
    cold: bool = False
    grows: bool = False


def _any_key(_number: int) -> int:
    return random.randint(1, ROWS)


def _dear_now_and_then(cheap: Any, dear: Any) -> Callable[[int], Any]:
    return lambda number: dear if number % _DEAR_EVERY == _DEAR_EVERY - 1 else cheap


_BY_KEY = "SELECT id, name, age FROM big WHERE id = :value"

_CASES = (
    Case("by key, warm", _BY_KEY, _any_key),
    Case("by key, cold", _BY_KEY, _any_key, cold=True),
    Case("20 rows from a key, warm", "SELECT * FROM big WHERE id > :value LIMIT 20", _any_key),
    Case("count(*)", "SELECT count(*) FROM big WHERE :value", lambda _: 1),
    Case(
        "LIKE '%…%'",
        "SELECT id FROM big WHERE name LIKE '%' || :value || '%' LIMIT 1",
        _dear_now_and_then("number", "nothing like it"),
    ),
    Case(
        "ORDER BY without an index",
        "SELECT id FROM big WHERE id > :value ORDER BY age LIMIT 10",
        _dear_now_and_then(ROWS - 10, ROWS // 2),
    ),
    Case(
        "a function in Python",
        "SELECT sometimes_slow(:value)",
        _dear_now_and_then(0, 1),
    ),
    Case(
        "a scan that finds little",
        "SELECT id FROM big WHERE id > :value AND age = 200",
        _dear_now_and_then(ROWS - 10, 0),
    ),
    Case(
        "a range that is large",
        "SELECT id, name FROM big WHERE id > :value",
        _dear_now_and_then(ROWS - 10, ROWS // 2),
    ),
    Case(
        "a row of 20 MB",
        "SELECT content FROM blobs WHERE id = :value",
        _dear_now_and_then(1, 2),
    ),
    Case(
        "a table that grows",
        "SELECT id FROM growing WHERE age = :value",
        lambda _: 200,
        grows=True,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
    """One case, with or without inline reads.

    Attributes:
        here: How many of the reads were tried on the loop's thread.
        held_p999_us: SQLite held the thread for at most this long in all but one of a thousand.
        held_percent: SQLite held the thread for this share of the time.
        stall_ms: The latest that the heartbeat was.
    """

    case: str
    inline_reads: bool
    reads: int
    here: int
    held_p999_us: float
    held_max_us: float
    held_percent: float
    stall_ms: float
    failures: int


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks sqlite loop", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    chosen = parser.parse_args(arguments)
    console = Console(width=130)
    with tempfile.TemporaryDirectory(prefix="fastdb-benchmark-") as directory:
        path = Path(directory) / "big.db"
        with console.status("making a million rows …"):
            make_big_file(path)
        results = [
            asyncio.run(_measure(path, case, inline_reads, chosen.seconds))
            for case in _CASES
            for inline_reads in (True, False)
        ]
    _print(results, console)
    write_json(results, chosen.json)


async def _measure(path: Path, case: Case, inline_reads: bool, seconds: float) -> Result:
    numbers = count()
    async with _database(path, inline_reads, small_cache=case.cold) as db:

        async def read() -> None:
            number = next(numbers)
            if case.cold and number >= _DEAR_EVERY:  # so that it has earned its place before
                await asyncio.to_thread(_drop_from_memory, path)
            async with db.read_session() as session:
                await session.execute(text(case.statement), {"value": case.value(number)})
            if case.grows and number % 200 == 0:
                await _grow(db)

        with _watching() as held:
            begun = perf_counter()
            block = await load(read, clients=1 if case.cold else 4, seconds=seconds)
            elapsed = perf_counter() - begun
        if case.grows:
            async with db.session() as session:
                await session.execute(text("DELETE FROM growing"))
    ordered = sorted(held) or [0.0]
    return Result(
        case.title,
        inline_reads,
        reads=block.all_answered,
        here=len(held),
        held_p999_us=ordered[int(len(ordered) * 0.999)] * 1e6,
        held_max_us=ordered[-1] * 1e6,
        held_percent=sum(ordered) / elapsed * 100,
        stall_ms=(block.stall or 0.0) * 1000,
        failures=block.failures,
    )


@asynccontextmanager
async def _database(
    path: Path, inline_reads: bool, *, small_cache: bool
) -> AsyncIterator[Database]:
    async with Database(f"sqlite:///{path}", sqlite=SQLiteOptions(inline_reads=inline_reads)) as db:

        def connected(connection: Any, _record: Any) -> None:
            connection.create_function("sometimes_slow", 1, lambda dear: sleep(0.02 * dear))
            if small_cache:
                connection.execute("PRAGMA cache_size = 1")

        event.listen(db.read_engine.sync_engine, "connect", connected)
        yield db


def _drop_from_memory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


async def _grow(db: Database) -> None:
    async with db.session() as session:
        await session.execute(text("INSERT INTO growing (age) SELECT age FROM big WHERE id <= 200"))


@contextmanager
def _watching() -> Iterator[list[float]]:
    """Give a list of how long SQLite held this thread, in seconds, for each read that ran on it."""
    held: list[float] = []
    thread = threading.get_ident()
    fetch_little = accelerated.fetch_little

    def watched(*arguments: Any, **options: Any) -> Any:
        if threading.get_ident() != thread:
            return fetch_little(*arguments, **options)
        begun = perf_counter()
        try:
            return fetch_little(*arguments, **options)
        finally:
            held.append(perf_counter() - begun)

    accelerated.fetch_little = watched
    try:
        yield held
    finally:
        accelerated.fetch_little = fetch_little


def _print(results: Sequence[Result], console: Console) -> None:
    headings = ("reads", "on the loop", "p99.9 µs", "max µs", "% of time", "loop late ms", "failed")
    table = new_table("reads on the event loop's thread", "case", "inline", *headings)
    for result in results:
        table.add_row(
            result.case if result.inline_reads else "",
            "yes" if result.inline_reads else "no",
            str(result.reads),
            str(result.here),
            f"{result.held_p999_us:.0f}",
            f"{result.held_max_us:.0f}",
            f"{result.held_percent:.2f}",
            f"{result.stall_ms:.1f}",
            str(result.failures),
            end_section=not result.inline_reads,
        )
    console.print(table)
