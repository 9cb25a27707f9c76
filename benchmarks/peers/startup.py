"""Start-up: what an import takes, and how long it is until the first request is answered."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from time import monotonic
from typing import Any, TypeVar

from results import Spread

from peers.alone import alone
from peers.candidates import BASELINE, CANDIDATES
from peers.parts import Options
from peers.tables import TITLES, table
from peers.variants import variants

NAME = "startup"
TITLE = "Start-up"

_Found = TypeVar("_Found")
_DATABASES = ("sqlite", "postgresql")
_PATIENCE_SECONDS = 60.0
_LEAST_ROUNDS = 5

# What an application has to import; the packages of CANDIDATES.
_MODULES = {
    "fastapi-fastdb": "fastdb",
    "FastSQLA": "fastsqla",
    "fastapi-async-sqlalchemy": "fastapi_async_sqlalchemy",
    "context-async-sqlalchemy": "context_async_sqlalchemy",
    "advanced-alchemy": "advanced_alchemy.extensions.fastapi",
    "fastapi-sqla": "fastapi_sqla",
}
_IMPORT = """
from time import perf_counter
begun = perf_counter()
import fastapi, sqlalchemy.ext.asyncio
there = perf_counter()
import {module}
print(there - begun, perf_counter() - there)
"""


def run(options: Options) -> dict[str, Any]:
    chance = random.Random(0)
    rounds = max(_LEAST_ROUNDS, options.rounds)
    databases = [name for name in options.databases.names if name in _DATABASES]
    return {
        "imports": _imports(options.candidates, rounds, chance),
        "first_answers": [
            row for name in databases for row in _first_answers(options, name, rounds, chance)
        ],
    }


def render(found: Mapping[str, Any]) -> str:
    imports = [
        [
            row["package"],
            f"{Spread.of(row['ratios'])}",
            f"{median(row['seconds']) * 1000:.0f} ms",
        ]
        for row in found["imports"]
    ]
    answers = [
        [
            row["candidate"],
            TITLES[row["database"]],
            row.get("failed") or f"{Spread.of(row['ratios'])}",
            f"{median(row['seconds']):.2f} s" if row["seconds"] else "",
        ]
        for row in found["first_answers"]
    ]
    return "\n\n".join(
        [
            "What an import takes in a new process that has imported fastapi and"
            " sqlalchemy.ext.asyncio already, as a ratio to what those two take.",
            table(("package", "÷ fastapi and sqlalchemy", "time"), imports),
            "From the start of the process until the first read by key is answered: Python, the"
            " imports, the app's start and the first connection.",
            table(("candidate", "database", f"÷ {BASELINE}", "time"), answers),
            "Each in a new process, in turns and in random order; medians, and in brackets the"
            " middle half of the rounds.",
        ]
    )


def _imports(candidates: Iterable[str], rounds: int, chance: random.Random) -> list[dict[str, Any]]:
    packages = [
        package
        for package in dict.fromkeys(CANDIDATES[name].package for name in candidates)
        if package in _MODULES and _is_installed(package)
    ]
    for package in packages:
        _import(package)  # writes the byte code
    found = _in_turns(packages, rounds, chance, _import)
    return [
        {
            "package": package,
            "module": _MODULES[package],
            "seconds": [own for _, own in times],
            "ratios": [own / base for base, own in times],
        }
        for package, times in found.items()
    ]


def _import(package: str) -> tuple[float, float]:
    """Return the seconds for fastapi and sqlalchemy, and then for the package."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT.format(module=_MODULES[package])],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    base, own = map(float, done.stdout.split())
    return base, own


def _is_installed(package: str) -> bool:
    return any(c.version is not None for c in CANDIDATES.values() if c.package == package)


def _first_answers(
    options: Options, database: str, rounds: int, chance: random.Random
) -> list[dict[str, Any]]:
    serving, _ = variants(database, options.candidates)
    names = list(dict.fromkeys(variant.candidate for variant in serving))
    urls = {name: options.databases.new_url(database) for name in names}
    failed: dict[str, str] = {}

    def first_answer(name: str) -> float:
        begun = monotonic()
        found = alone(
            "peers.startup_trial:first_answer",
            {"candidate": name, "url": urls[name]},
            seconds=_PATIENCE_SECONDS,
        )
        if "failed" in found:
            failed[name] = found["failed"]
            return float("nan")
        return float(found["answered"]) - begun

    for name in names:
        first_answer(name)  # writes the byte code, and SQLite's journal mode into the file
    found = _in_turns([name for name in names if name not in failed], rounds, chance, first_answer)
    base = found.get(BASELINE)
    return [
        {
            "candidate": name,
            "database": database,
            "seconds": found.get(name, []),
            "ratios": [a / b for a, b in zip(found.get(name, []), base or (), strict=False)],
            **({"failed": failed[name]} if name in failed else {}),
        }
        for name in names
    ]


def _in_turns(
    names: Sequence[str], rounds: int, chance: random.Random, measure: Callable[[str], _Found]
) -> dict[str, list[_Found]]:
    found: dict[str, list[_Found]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in chance.sample(names, len(names)):
            found[name].append(measure(name))
    return found
