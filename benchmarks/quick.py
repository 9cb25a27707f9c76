"""Has a change made fastdb slower? An answer in less than three minutes, as ratios.

    python benchmarks quick             # exit status 1 where it is slower than on record
    python benchmarks quick --record    # from now on, compare with this run

fastdb is measured beside the session written by hand, on the same pool, and on SQLite with the
same pragmas. Since both take turns, the ratio of the two can be compared with that of another day.
"""

import argparse
import asyncio
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import measure
from peers.candidates import BASELINE, CANDIDATES
from peers.databases import NAMES, Databases, open_databases
from peers.places import Place
from results import Spread, compare
from rich.console import Console
from rich.table import Table
from workloads import INSERT, READ, Workload

from asgi import caller

_RECORD = Path(__file__).parent.parent / "docs" / "benchmarks" / "quick.json"
_INCREMENT = Workload(
    "increment", "read-modify-write", "/increment-locked", "/increment-locked", method="POST"
)
_LOADS = tuple((workload, n) for workload in (READ, INSERT, _INCREMENT) for n in (1, 16))
_FASTDB = "fastdb"
_POOL_SIZE, _MAX_OVERFLOW = 10, 0  # fastdb's own default
_BLOCK_SECONDS = 0.05
_TOLERANCE = 1.1  # beyond the spread: what another build of Python or another kernel may bring
_PACKAGES = ("fastapi", "sqlalchemy", "aiosqlite", "asyncpg", "aiomysql")

_Ratios = dict[str, Spread]  # by the load and what is compared


@dataclass(frozen=True, slots=True)
class Verdict:
    """One ratio beside the one on record.

    Attributes:
        slower: The middle halves of both runs do not overlap, and this one is above.
        alarming: Nor would they if the record were a tenth slower.
    """

    name: str
    now: Spread
    then: Spread | None

    @property
    def slower(self) -> bool:
        return self.then is not None and self.now.low > self.then.high

    @property
    def alarming(self) -> bool:
        return self.then is not None and self.now.low > self.then.high * _TOLERANCE

    @property
    def faster(self) -> bool:
        return self.then is not None and self.now.high < self.then.low

    @property
    def words(self) -> str:
        if self.then is None:
            return "not on record"
        if self.alarming:
            return "SLOWER"
        if self.slower:
            return "slower, within the tolerance"
        return "faster" if self.faster else "as on record"


def run(arguments: Sequence[str]) -> None:
    chosen = _parser().parse_args(arguments)
    console = Console(width=130)
    recorded = _read(chosen.recorded)
    _tell_differences(recorded.get("with", {}), console)
    ratios: _Ratios = {}
    alarms: list[str] = []
    with open_databases(chosen.database) as databases:
        for name in chosen.database:
            found = asyncio.run(_measure_all(databases, name, chosen.seconds, recorded, console))
            ratios |= {verdict.name: verdict.now for verdict in found}
            alarms += [verdict.name for verdict in found if verdict.alarming]
            console.print(_table(name, found))
    if chosen.record:
        _write(chosen.recorded, recorded, ratios)
    elif alarms:
        sys.exit(f"slower than on record, in two measurements: {', '.join(alarms)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks quick", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--database", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each load and candidate")
    parser.add_argument("--record", action="store_true", help="write the ratios to the record")
    parser.add_argument("--recorded", type=Path, default=_RECORD, help="the record")
    return parser


async def _measure_all(
    databases: Databases, name: str, seconds: float, recorded: Mapping[str, Any], console: Console
) -> list[Verdict]:
    """Measure all loads on one database; those that look slow once more."""
    then = {key: Spread(**spread) for key, spread in recorded.get("ratios", {}).items()}
    verdicts = []
    async with AsyncExitStack() as stack:
        apps = {}
        for candidate in (BASELINE, _FASTDB):
            place = Place(databases.new_url(name), True, _POOL_SIZE, _MAX_OVERFLOW)
            apps[candidate] = CANDIDATES[candidate].make_app(place)
            await stack.enter_async_context(
                apps[candidate].router.lifespan_context(apps[candidate])
            )
        for workload, clients in _LOADS:
            calls = {each: caller(app, workload) for each, app in apps.items()}
            load = f"{name} {workload.name}@{clients}"
            with console.status(f"measuring {load} …"):
                found = await _measure(load, calls, clients, seconds, then)
                if any(verdict.alarming for verdict in found):
                    again = await _measure(load, calls, clients, seconds, then)
                    found = list(map(_better, found, again))
            verdicts += found
    return verdicts


async def _measure(
    load: str, calls: Mapping[str, Any], clients: int, seconds: float, then: _Ratios
) -> list[Verdict]:
    blocks = await measure(calls, seconds=seconds, clients=clients, block_seconds=_BLOCK_SECONDS)
    results = compare("", load, blocks, baseline=BASELINE, round_trips={})
    (mine,) = (result for result in results if result.candidate == _FASTDB)
    return [
        Verdict(name, now, then.get(name))
        for name, now in ((f"{load} CPU", mine.cpu_ratio), (f"{load} wall", mine.wall_ratio))
    ]


def _better(first: Verdict, second: Verdict) -> Verdict:
    # What is slow by chance is so once; a change for the worse is there both times.
    return min(first, second, key=lambda verdict: verdict.now.low)


def _table(database: str, verdicts: Sequence[Verdict]) -> Table:
    table = Table(title=f"{database}: fastdb ÷ by hand", title_justify="left", title_style="bold")
    table.add_column("load", no_wrap=True)
    for heading in ("now", "on record", "fastdb is"):
        table.add_column(heading, justify="right", no_wrap=True)
    for verdict in verdicts:
        table.add_row(
            verdict.name.removeprefix(f"{database} "),
            str(verdict.now),
            str(verdict.then or ""),
            verdict.words,
        )
    return table


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content


def _write(path: Path, recorded: Mapping[str, Any], ratios: _Ratios) -> None:
    """Write the ratios; of databases that were not measured now, those on record stay."""
    new = {name: asdict(spread) for name, spread in ratios.items()}
    content = {"with": _versions(), "ratios": {**recorded.get("ratios", {}), **new}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "machine": platform.machine(), **packages}


def _tell_differences(then: Mapping[str, str], console: Console) -> None:
    changed = [
        f"{name} {then[name]}, now {now}"
        for name, now in _versions().items()
        if name in then and then[name] != now
    ]
    if changed:
        console.print(f"The record was made with {'; '.join(changed)}.")
