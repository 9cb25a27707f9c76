"""The same over a network: each round trip takes longer, and their number counts."""

from collections.abc import Mapping
from typing import Any

from peers.goals import Target
from peers.measuring import measure
from peers.parts import Chart, Goal, Options
from peers.proxy_process import delaying
from peers.speed import chart_of
from peers.tables import TITLES, database_tables
from peers.workloads import Load

NAME = "delayed"
TITLE = "With a network between"

_DELAYS_MS = (1, 5)
_LOADS = (
    Load("read", 1), Load("read", 16), Load("list", 1), Load("insert", 1), Load("insert", 16),
    Load("locked", 1),
)  # fmt: skip
_CHARTED = ("read@1", "read@16", "list@1", "insert@1", "insert@16")
_TARGETS = {
    "postgresql": Target("read@1", "best peer", 2.3),
    "mariadb": Target("read@1", "best peer", 1.7),
}


def run(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"databases": {}}
    for name in options.databases.names:
        if name == "sqlite":
            continue
        found["databases"][name] = {}
        for delay in _DELAYS_MS:
            with delaying(delay / 1000) as reach:
                print(f"    {name}: {delay} ms", flush=True)
                measured = measure(options, name, _LOADS, reach=reach)
            found["databases"][name][str(delay)] = measured
    return found


def goals(found: Mapping[str, Any]) -> list[Goal]:
    return [
        goal
        for database, delays in found["databases"].items()
        if "1" in delays
        for goal in _TARGETS[database].goals(database, delays["1"], " with 1 ms")
    ]


def render(found: Mapping[str, Any]) -> str:
    head = (
        "A proxy in a process of its own gives each answer of the server to the client that much"
        " later.\n"
    )
    parts = [head]
    for database, delays in found["databases"].items():
        for delay, measured in delays.items():
            parts.append(f"## {TITLES[database]}, {delay} ms\n")
            parts.append(database_tables(database, measured, level=3))
    return "\n".join(parts)


def charts(found: Mapping[str, Any]) -> list[Chart]:
    return [
        chart_of(
            f"{NAME}-{database}-{delay}ms",
            f"{TITLES[database]}, {delay} ms more for each round trip: requests per second",
            measured,
            _CHARTED,
        )
        for database, delays in found["databases"].items()
        for delay, measured in delays.items()
    ]
