"""Results for people, as tables, and for programs, as JSON."""

import json
import platform
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sqlite.results import Result

_PACKAGES = ("fastapi", "sqlalchemy", "aiosqlite", "uvicorn")
_HEADINGS = (
    "req/s", "÷ by hand", "÷ sync inline", "p50 ms", "p99 ms", "p99 ÷ by hand", "failed", "lost",
    "loop late ms",
)  # fmt: skip


def print_results(results: Sequence[Result], console: Console) -> None:
    for (way, load), group in groupby(results, key=lambda result: (result.way, result.load)):
        table = new_table(f"{way}: {load}", "candidate", *_HEADINGS)
        for result in group:
            table.add_row(
                result.candidate,
                f"{result.per_second:.0f}",
                f"{result.to_by_hand:.2f}",
                f"{result.to_floor:.2f}",
                f"{result.p50_ms:.2f}",
                f"{result.p99_ms:.2f}",
                f"{result.p99_to_by_hand:.3f}",
                str(result.failures),
                "" if result.lost is None else str(result.lost),
                "" if result.stall_ms is None else f"{result.stall_ms:.1f}",
            )
        console.print(table)


def new_table(title: str, first: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def write_json(results: Sequence[Any], path: Path | None, **more: Mapping[str, Any]) -> None:
    """Write dataclasses, and with what they were measured, if there is a path to write to."""
    if path is None:
        return
    content = {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: version(name) for name in _PACKAGES},
        **more,
        "results": [asdict(result) for result in results],
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
