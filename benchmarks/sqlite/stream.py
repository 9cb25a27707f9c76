"""How much memory it takes to stream a million rows, each candidate in a process of its own."""

import argparse
import asyncio
import multiprocessing
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from memory import highest_bytes, resident_bytes
from rich.console import Console
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from fastdb import Database
from sqlite.big import make_big_file
from sqlite.report import new_table, write_json


class Base(DeclarativeBase):
    pass


class Big(Base):
    __tablename__ = "big"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    age: Mapped[int]


@asynccontextmanager
async def _fastdb(url: str) -> AsyncIterator[AsyncSession]:
    async with Database(url) as db, db.read_session() as session:
        yield session


@asynccontextmanager
async def _by_hand(url: str) -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(url)
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


_COLUMNS = select(Big.id, Big.name, Big.age)


async def _rows(session: AsyncSession) -> int:
    return await _count(await session.stream(_COLUMNS.execution_options(yield_per=1000)))


async def _core_rows(session: AsyncSession) -> int:
    return await _count(await session.stream(select(Big.__table__)))


async def _objects(session: AsyncSession) -> int:
    return await _count(await session.stream_scalars(select(Big).execution_options(yield_per=1000)))


async def _without_yield_per(session: AsyncSession) -> int:
    # For a statement of the ORM, SQLAlchemy fetches all rows at once then.
    return await _count(await session.stream(_COLUMNS))


async def _count(answers: AsyncIterator[object]) -> int:
    total = 0
    async for _ in answers:
        total += 1
    return total


async def _all_at_once(session: AsyncSession) -> int:
    return len((await session.execute(_COLUMNS)).all())


_Open = Callable[[str], AbstractAsyncContextManager[AsyncSession]]
_Read = Callable[[AsyncSession], Awaitable[int]]
CANDIDATES: dict[str, tuple[_Open, _Read]] = {
    "fastdb, rows": (_fastdb, _rows),
    "fastdb, rows of a table": (_fastdb, _core_rows),
    "fastdb, objects": (_fastdb, _objects),
    "by hand, rows": (_by_hand, _rows),
    "by hand, objects": (_by_hand, _objects),
    "fastdb, stream() without yield_per": (_fastdb, _without_yield_per),
    "fastdb, execute()": (_fastdb, _all_at_once),
}


@dataclass(frozen=True, slots=True)
class Result:
    """One candidate.

    Attributes:
        more_mb: The highest resident set size, above that of the start.
    """

    candidate: str
    rows: int
    more_mb: float
    rows_per_second: float


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks sqlite stream", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    chosen = parser.parse_args(arguments)
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="fastdb-benchmark-") as directory,
        ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes,
    ):
        path = Path(directory) / "big.db"
        make_big_file(path)
        url = f"sqlite+aiosqlite:///{path}"
        results = list(processes.map(measure, CANDIDATES, [url] * len(CANDIDATES)))
    table = new_table("a million rows", "candidate", "more memory, MB", "rows/s")
    for result in results:
        table.add_row(result.candidate, f"{result.more_mb:.1f}", f"{result.rows_per_second:.0f}")
    Console(width=130).print(table)
    write_json(results, chosen.json)


def measure(name: str, url: str) -> Result:
    """Read all rows in this process.

    Args:
        name: In CANDIDATES.
        url: Of a database with the table, with the name of an async driver.
    """
    return asyncio.run(_measure(name, url))


async def _measure(name: str, url: str) -> Result:
    open_session, read = CANDIDATES[name]
    async with open_session(url) as session:
        before = resident_bytes()
        begun = perf_counter()
        rows = await read(session)
        seconds = perf_counter() - begun
    return Result(name, rows, (highest_bytes() - before) / 1e6, rows / seconds)
