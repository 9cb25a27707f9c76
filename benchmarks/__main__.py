"""Measure fastdb against the session dependency that one writes by hand.

`python benchmarks peers` compares with other libraries too, see `peers/`; `quick` is its short
form. `python benchmarks sqlite` goes further for SQLite, with many clients at once: see `sqlite/`.
`python benchmarks migrations` measures what `await upgrade(db)` adds to the start of a worker, and
`python benchmarks testkit` what a test's rollback costs. `python benchmarks reports` measures how
many requests that wait for a language model a few connections carry.
See README.md beside this file for how to run them and how to read what they say.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from apps import calls_of, open_apps
from candidates import BASELINE
from measure import measure
from report import print_tables, write_json
from results import Result, compare
from rich.console import Console
from round_trips import count_round_trips
from targets import Target, given, private_servers, sqlite
from workloads import WORKLOADS, Workload


def main() -> None:
    command, arguments = sys.argv[1:2], sys.argv[2:]
    if command == ["sqlite"]:
        from sqlite.commands import run

        return run(arguments)
    if command == ["peers"]:
        from peers.commands import run

        return run(arguments)
    if command == ["migrations"]:
        from migrations import run

        return run(arguments)
    if command == ["testkit"]:
        from testkit import run

        return run(arguments)
    if command == ["reports"]:
        from reports import run

        return run(arguments)
    if command == ["quick"]:
        from quick import run

        return run(arguments)
    return _compare_with_by_hand()


def _compare_with_by_hand() -> None:
    arguments = _parser().parse_args()
    console = Console(width=130)
    workloads = [w for w in WORKLOADS if w.name in arguments.workload]
    results: list[Result] = []
    with ExitStack() as stack:
        targets = [] if arguments.no_sqlite else [stack.enter_context(sqlite())]
        targets += [given(url) for url in arguments.url]
        if arguments.servers:
            targets += stack.enter_context(private_servers())
        for target in targets:
            with console.status(f"measuring {target.name} …"):
                found = asyncio.run(_measure(target, workloads, arguments.seconds))
            print_tables(found, console)
            results += found
    if arguments.json:
        write_json(results, arguments.json)


def _parser() -> argparse.ArgumentParser:
    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--no-sqlite", action="store_true", help="leave SQLite out")
    parser.add_argument("--servers", action="store_true", help="start private servers, as tests do")
    parser.add_argument("--url", action="append", default=[], help="a database of yours (repeat)")
    parser.add_argument("--workload", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure, default 1")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser


async def _measure(target: Target, workloads: Sequence[Workload], seconds: float) -> list[Result]:
    round_trips = await count_round_trips(target, workloads)
    results: list[Result] = []
    async with open_apps(target) as apps:
        for workload in workloads:
            blocks = await measure(calls_of(workload, apps), seconds=seconds)
            results += compare(
                target.name,
                workload.name,
                blocks,
                baseline=BASELINE.name,
                round_trips=round_trips,
            )
    return results


if __name__ == "__main__":
    main()
