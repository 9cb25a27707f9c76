"""Every workload at 1 to 256 clients, called in the candidate's process: nothing is between."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from peers.goals import Target
from peers.measuring import measure
from peers.parts import Chart, Goal, Options
from peers.tables import TITLES, database_tables
from peers.workloads import Load

NAME = "speed"
TITLE = "Requests without a server between"

_CLIENTS = (1, 16, 64, 256)
_WORKLOADS = ("read", "core", "list", "insert", "mixed")
_WRITE_FLOOR = 0.97
_TARGETS = {
    "sqlite": [
        Target("read@1", "by hand", 2.5),
        Target("read@1", "best peer", 2.3),
        Target("read@16", "best peer", 1.7),
    ],
    "postgresql": [Target("read@1", "best peer", 1.4), Target("read@16", "best peer", 1.1)],
    "mariadb": [Target("read@1", "best peer", 1.2), Target("read@16", "best peer", 1.1)],
}
_CHARTED = ("read@1", "read@16", "list@16", "insert@16", "mixed@16")


def run(options: Options) -> dict[str, Any]:
    loads = [Load(name, clients) for name, clients in product(_WORKLOADS, _CLIENTS)]
    return {"databases": {name: measure(options, name, loads) for name in options.databases.names}}


def goals(found: Mapping[str, Any]) -> list[Goal]:
    return [
        goal
        for database, measured in found["databases"].items()
        for target in [*_TARGETS[database], *_never_slower(measured)]
        for goal in target.goals(database, measured)
    ]


def _never_slower(measured: Mapping[str, Any]) -> list[Target]:
    loads = [load for load in measured["loads"] if load.startswith("insert")]
    return [Target(load, "by hand", _WRITE_FLOOR) for load in loads]


def render(found: Mapping[str, Any]) -> str:
    return "\n".join(
        database_tables(database, measured, level=2)
        for database, measured in found["databases"].items()
    )


def charts(found: Mapping[str, Any]) -> list[Chart]:
    return [
        chart_of(f"{NAME}-{database}", f"{TITLES[database]}: requests per second", measured)
        for database, measured in found["databases"].items()
    ]


def chart_of(
    name: str, title: str, measured: Mapping[str, Any], loads: tuple[str, ...] = _CHARTED
) -> Chart:
    """Return a chart of throughput: what is tuned, as ratios to what is tuned by hand."""
    shown = [
        candidate
        for candidate, variant in measured["variants"].items()
        if variant["tuned"] and variant["kind"] != "limit"
    ]
    groups = [load for load in loads if load in measured["loads"]]
    ratios = {
        candidate: [
            measured["loads"][load]["candidates"]
            .get(candidate, {"ratios": {}})["ratios"]
            .get("by hand, tuned", {})
            .get("throughput")
            for load in groups
        ]
        for candidate in shown
    }
    return Chart(
        name,
        title,
        "÷ by hand, tuned",
        groups,
        {name: [r and r["median"] for r in found] for name, found in ratios.items()},
        {name: [r and (r["low"], r["high"]) for r in found] for name, found in ratios.items()},
    )
