"""Throughput and latency of all candidates, side by side."""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sqlite import in_process, over_http
from sqlite.candidates import BASELINE, CANDIDATES, FLOOR
from sqlite.report import print_results, write_json
from sqlite.results import Result
from sqlite.workloads import LOADS, SERVER_LOADS

_WAYS = {"asgi": (in_process, LOADS), "uvicorn": (over_http, SERVER_LOADS)}


def main(arguments: Sequence[str]) -> None:
    chosen = _parser().parse_args(arguments)
    console = Console(width=130)
    names = [n for n in CANDIDATES if n in {BASELINE, FLOOR, *chosen.candidate}]
    results: list[Result] = []

    async def measure(way: str, directory: Path) -> None:
        module, loads = _WAYS[way]
        loads = [each for each in loads if not chosen.load or each.name in chosen.load]
        async for found in module.measure(
            directory, loads, names, rounds=chosen.rounds, seconds=chosen.seconds
        ):
            print_results(found, console)
            results.extend(found)

    for way in chosen.way:
        with tempfile.TemporaryDirectory(prefix="fastdb-benchmark-") as directory:
            asyncio.run(measure(way, Path(directory)))
    write_json(results, chosen.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks sqlite", description=__doc__)
    parser.add_argument("--way", nargs="+", choices=_WAYS, default=["asgi"])
    parser.add_argument("--candidate", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--load", nargs="+", help="such as read@1 insert@50; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.15, help="of a block that reads")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser
