"""What a run was made with: the machine, the versions, the command and the date."""

import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from peers.candidates import CANDIDATES
from peers.databases import Databases

_MORE_PACKAGES = (
    "aiosqlite", "asyncpg", "psycopg", "aiomysql", "asyncmy", "PyMySQL", "starlette", "pydantic",
    "anyio", "greenlet", "uvicorn", "httptools",
)  # fmt: skip


def describe_run(databases: Databases, arguments: Sequence[str], options: Any) -> dict[str, Any]:
    packages = {candidate.package for candidate in CANDIDATES.values()} | {*_MORE_PACKAGES}
    found = {name: _version(name) for name in sorted(packages, key=str.lower)}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python", "benchmarks", "peers", *arguments]),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "load_average": os.getloadavg()[0],
        },
        "versions": {
            "Python": f"{platform.python_version()} ({sys.implementation.name})",
            "SQLite": sqlite3.sqlite_version,
            **databases.versions(),
            **{name: number for name, number in found.items() if number},
        },
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
