"""Markdown tables, and the table of a load that all parts with turns have."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peers.goals import text_of

TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}
_HEADINGS = (
    "candidate",
    "req/s ÷ by hand",
    "÷ by hand, tuned",
    "CPU ÷ by hand",
    "p99 ÷ by hand",
    "failed",
    "lost",
    "req/s",
    "CPU µs",
    "p50 ms",
    "p99 ms",
)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; all columns but the first hold figures."""
    lines = [_line(headings), _line(["---", *["---:"] * (len(headings) - 1)])]
    return "\n".join([*lines, *map(_line, rows)]) + "\n"


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def database_tables(database: str, measured: Mapping[str, Any], *, level: int = 3) -> str:
    """Return a section for a database: a table for each load, and who is not in it."""
    parts = []
    for load, found in measured["loads"].items():
        parts.append(f"{'#' * level} {TITLES[database]}, {load}\n")
        parts.append(table(_HEADINGS, _rows(found["candidates"])))
        parts += [_failures(found["candidates"])]
    parts.append(notes(measured))
    return "\n".join(part for part in parts if part)


def _rows(candidates: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    for name, mine in candidates.items():
        ratios = mine["ratios"].get("by hand", {})
        tuned = mine["ratios"].get("by hand, tuned", {})
        median = mine["median"]
        yield (
            name,
            text_of(ratios.get("throughput")),
            text_of(tuned.get("throughput")),
            text_of(ratios.get("cpu")),
            text_of(ratios.get("p99")),
            share(mine["failures"], mine["failures"] + mine["answered"]),
            "" if mine["lost"] is None else share(mine["lost"], mine["answered"]),
            *(number(median[figure]) for figure in ("throughput", "cpu", "p50", "p99")),
        )


def share(part: int, whole: int) -> str:
    """Return a count, and what share of the whole it is."""
    if not part:
        return "0"
    return f"**{part}** ({part / whole:.1%})" if whole else f"**{part}**"


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _failures(candidates: Mapping[str, Any]) -> str:
    told = []
    for name, mine in candidates.items():
        if mine["errors"]:
            counts = (f"{count} times `{error}`" for error, count in mine["errors"].items())
            told.append(f"{name}: {', '.join(counts)}")
    return f"What failed: {'; '.join(told)}.\n" if told else ""


def notes(measured: Mapping[str, Any]) -> str:
    """Return who is not in the tables, and the connections that were not given back."""
    told = [f"Not compared: {name} ({why})." for name, why in measured["missing"].items()]
    told += [f"Left out: {name} ({why})." for name, why in measured["lost"].items()]
    kept = {name: n for name, n in measured["not_given_back"].items() if n is not None}
    leaked = ", ".join(f"{name}: **{n}**" for name, n in kept.items() if n)
    told.append(
        f"Connections not given back after the run, of {len(kept)} candidates with a pool:"
        f" {leaked or 'none'}."
    )
    return "\n".join(told) + "\n"
