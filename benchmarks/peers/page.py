"""The pages of the report, written from whatever results are there."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peers.charts import THEMES, draw
from peers.parts import Goal, Part
from peers.tables import table

_HEAD = """\
# Benchmarks

fastdb beside other libraries, the session that one writes by hand, and the limits of what can be
had. Everything ran on one machine, the candidates in turns and in a random order, so that what
slows the machine down hits all alike. What counts are the ratios of turns of the same round: their
median, and in brackets the middle half. Absolute figures belong to the machine they are from.

`read@16` is the workload and the number of clients, each of which sends a request, and the next
one when it has its answer. *tuned* is the same candidate with a pool of ten connections and, on
SQLite, with WAL, `synchronous = NORMAL`, foreign keys and a busy timeout of five seconds; without
the word it is configured as its own documentation has it. `benchmarks/README.md` says how each is
configured and why, and how to run all of this: `nox -s bench`.
"""


def write_pages(directory: Path, parts: Sequence[Part]) -> None:
    """Write a page for each part that has been measured, and the first page."""
    measured = [
        (part, json.loads(path.read_text()))
        for part in parts
        if (path := directory / f"{part.NAME}.json").exists()
    ]
    for part, found in measured:
        (directory / f"{part.NAME}.md").write_text(_page_of(part, found, directory))
    (directory / "index.md").write_text(_first_page(measured))


def _page_of(part: Part, found: Mapping[str, Any], directory: Path) -> str:
    charts = part.charts(found) if hasattr(part, "charts") else []
    pictures = [_picture(draw(chart, directory), chart.title) for chart in charts if chart.groups]
    return "\n".join(
        [f"# {part.TITLE}\n", _run_line(found["run"]), *pictures, part.render(found).rstrip(), ""]
    )


def _picture(names: Mapping[str, str], title: str) -> str:
    return "\n".join(
        f"```{{image}} {names[theme]}\n:alt: {title}\n:class: only-{theme}\n```\n"
        for theme in THEMES
    )


def _run_line(run: Mapping[str, Any]) -> str:
    return (
        f"Measured {run['date']} with `{run['command']}`, {run['rounds']} rounds of"
        f" {run['seconds']:g} s for each candidate and load.\n"
    )


def _first_page(measured: Sequence[tuple[Part, Mapping[str, Any]]]) -> str:
    goals = [
        (part, goal)
        for part, found in measured
        if hasattr(part, "goals")
        for goal in part.goals(found)
    ]
    if not measured:
        return f"{_HEAD}\nNothing has been measured yet.\n"
    parts = [_HEAD, "## Targets\n", _goals(goals)]
    parts += ["## What was measured, and with what\n", _runs(measured)]
    pages = "\n".join(part.NAME for part, _ in measured)
    parts.append(f"```{{toctree}}\n:hidden:\n\n{pages}\n```\n")
    return "\n".join(parts)


def _goals(goals: Iterable[tuple[Part, Goal]]) -> str:
    rows = [
        (
            goal.what,
            goal.wanted,
            goal.measured,
            {True: "met", False: "**missed**", None: ""}[goal.met],
        )
        for _, goal in goals
    ]
    return table(("target", "wanted", "measured", ""), rows)


def _runs(measured: Sequence[tuple[Part, Mapping[str, Any]]]) -> str:
    rows = [
        (
            f"[{part.TITLE}]({part.NAME}.md)",
            found["run"]["date"],
            f"{found['run']['rounds']} × {found['run']['seconds']:g} s",  # noqa: RUF001
            f"`{found['run']['command']}`",
        )
        for part, found in measured
    ]
    text = table(("part", "when", "rounds", "command"), rows) + "\n"
    machines: dict[str, list[str]] = {}
    for part, found in measured:
        machines.setdefault(_machine(found["run"]), []).append(part.TITLE)
    for machine, titles in machines.items():
        text += (f"{', '.join(titles)}: " if len(machines) > 1 else "") + machine + "\n"
    return text


def _machine(run: Mapping[str, Any]) -> str:
    machine = run["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}. The private"
        " servers do not wait for their disks and speak no TLS: both would add the same to all,"
        f" and pull the ratios towards 1.\n\n{versions}.\n"
    )
