"""Results for people, as tables, and for programs, as JSON."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from results import Result
from rich.console import Console
from rich.table import Table
from workloads import WORKLOADS

_PACKAGES = (
    "fastapi", "sqlalchemy", "aiosqlite", "asyncpg", "psycopg", "aiomysql", "asyncmy",
)  # fmt: skip
_TITLES = {workload.name: workload.title for workload in WORKLOADS}


def print_tables(results: Sequence[Result], console: Console) -> None:
    for backend, group in groupby(results, key=lambda result: result.backend):
        table = Table(title=backend, title_justify="left", title_style="bold")
        table.add_column("workload")
        table.add_column("candidate")
        for heading in ("CPU µs", "÷ by hand", "wall µs", "÷ by hand", "round trips"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, lines in groupby(group, key=lambda result: result.workload):
            for number, line in enumerate(lines):
                table.add_row(
                    _TITLES[name] if number == 0 else "",
                    line.candidate,
                    f"{line.cpu_us:.0f}",
                    str(line.cpu_ratio),
                    f"{line.wall_us:.0f}",
                    str(line.wall_ratio),
                    "" if line.round_trips is None else str(line.round_trips),
                )
            table.add_section()
        console.print(table)


def write_json(results: Sequence[Result], path: Path) -> None:
    content = {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "results": [asdict(result) for result in results],
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
