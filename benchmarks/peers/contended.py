"""Many who write the same row: what gets through, how long it takes, what fails, what is lost."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from peers.goals import Target
from peers.measuring import measure
from peers.parts import Chart, Goal, Options
from peers.speed import chart_of
from peers.tables import TITLES, database_tables
from peers.workloads import Load

NAME = "contended"
TITLE = "Contended writes"

_LONGER = 10  # who waits badly does so for seconds
_CLIENTS = (1, 16, 64, 256)
_CONTENDED = (Load("increment", 16), Load("increment", 64), Load("insert", 64))
_LOADS = {
    "sqlite": (*(Load("increment", n) for n in _CLIENTS), Load("insert", 64)),
    "postgresql": (
        *(Load("increment", n) for n in _CLIENTS),
        Load("locked", 16),
        Load("locked", 64),
    ),
    "mariadb": (*(Load("increment", n) for n in _CLIENTS), Load("locked", 16), Load("locked", 64)),
}


def run(options: Options) -> dict[str, Any]:
    longer = replace(options, seconds=options.seconds * _LONGER)
    return {
        "databases": {name: measure(longer, name, _LOADS[name]) for name in options.databases.names}
    }


def goals(found: Mapping[str, Any]) -> list[Goal]:
    measured = found["databases"].get("sqlite")
    if not measured:
        return []
    return [
        goal
        for load in _CONTENDED
        for target in (
            Target(str(load), "best peer", 1.6),
            Target(str(load), "best peer", 0.25, "≤", "p99"),
            Target(str(load), "by hand", 0.125, "≤", "p99"),
        )
        for goal in target.goals("sqlite", measured)
    ]


def render(found: Mapping[str, Any]) -> str:
    head = (
        "`increment` is a read-modify-write of one row, as each library's documentation writes it;"
        " `locked` reads it `FOR UPDATE`, which SQLite does not know. An increment that was"
        " acknowledged and is not in the database is *lost*, and does not count in req/s.\n\n"
    )
    return head + "\n".join(
        database_tables(database, measured, level=2)
        for database, measured in found["databases"].items()
    )


def charts(found: Mapping[str, Any]) -> list[Chart]:
    loads = ("increment@16", "increment@64", "locked@16", "locked@64", "insert@64")
    return [
        chart_of(f"{NAME}-{name}", f"{TITLES[name]}: contended writes that are kept", each, loads)
        for name, each in found["databases"].items()
    ]
