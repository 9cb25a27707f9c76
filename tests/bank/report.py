"""The figures of runs: as JSON that outlives them, and as a table in the documentation."""

import json
import os
import platform
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bank.judge import Outcome, Verdict
from bank.run import Record

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "reliability" / "bank.json"
PAGE = ROOT / "docs" / "reliability.md"
BLOCK = re.compile(r"(?<=<!-- bank -->\n).*?(?=<!-- /bank -->)", re.DOTALL)
PACKAGES = ("fastapi-fastdb", "fastapi", "sqlalchemy", "uvicorn")

Figures = Mapping[str, Any]


def figures(record: Record, verdict: Verdict) -> dict[str, Any]:
    """Return what a run has come to, in plain numbers."""
    outcomes = Counter(answer.outcome for answer in record.answers)
    in_ledger = {entry.id for entry in record.books.ledger}
    unknown = {each.transfer.id for each in record.answers if each.outcome is Outcome.UNKNOWN}
    longest: dict[str, float] = {}
    for outage, seconds in record.recoveries():
        kind = str(outage.fault.kind)
        longest[kind] = round(max(seconds, longest.get(kind, 0.0)), 2)
    return {
        "transfers": len(record.answers),
        "acknowledged": outcomes[Outcome.ACKNOWLEDGED],
        "refused": outcomes[Outcome.REFUSED],
        "unknown": outcomes[Outcome.UNKNOWN],
        "unknown_and_there": len(unknown & in_ledger),
        "lost": len(verdict.lost),
        "doubled": len(verdict.doubled),
        "kept_though_refused": len(verdict.kept_though_refused),
        "never_asked_for": len(verdict.never_asked_for),
        "wrong_balances": len(verdict.wrong_balances),
        "sum_changed_by": verdict.sum_changed_by,
        "faults": dict(Counter(str(outage.fault.kind) for outage in record.outages)),
        "longest_recovery_seconds": longest,
        "said": dict(Counter(answer.said for answer in record.answers).most_common()),
    }


def circumstances(driver: str, server: str) -> dict[str, Any]:
    """Return where figures come from: the machine, the versions, the day.

    Args:
        driver: The distribution's name.
        server: What the server says it is.
    """
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "server": server or f"SQLite {sqlite3.sqlite_version}",
        "versions": {name: version(name) for name in (*PACKAGES, driver)},
    }


def merge(old: Figures, runs: Mapping[str, Figures]) -> dict[str, Any]:
    """Return the figures with those of these databases in place of what they had before."""
    return {**old, **runs}


def render(runs: Figures) -> str:
    """Return the figures as Markdown: a table, and where each row comes from."""
    rows = [
        "| database | transfers | acknowledged | refused | unknown (of these done)"
        " | **lost** | **doubled** | faults | longest recovery |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
        *(_row(database, run) for database, run in sorted(runs.items())),
    ]
    told = [f"- {database}: {_origin(run)}" for database, run in sorted(runs.items())]
    return "\n".join([*rows, "", *told, ""])


def write(runs: Mapping[str, Figures]) -> None:
    """Keep the figures, and put the table into the page."""
    old = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    merged = merge(old, runs)
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(merged, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(in_page(PAGE.read_text(), render(merged)))


def in_page(page: str, block: str) -> str:
    """Return the page with this between its two markers.

    Raises:
        ValueError: The page has not exactly one such place.
    """
    changed, places = BLOCK.subn(lambda _: block, page)
    if places != 1:
        raise ValueError(f"the page has {places} places for the figures of the bank, not one")
    return changed


def _row(database: str, run: Figures) -> str:
    return (
        f"| {database} | {run['transfers']:,} | {run['acknowledged']:,} | {run['refused']:,}"
        f" | {run['unknown']:,} ({run['unknown_and_there']:,})"
        f" | {run['lost']} | {run['doubled']} | {sum(run['faults'].values())}"
        f" | {_recoveries(run['longest_recovery_seconds'])} |"
    )


def _recoveries(longest: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in sorted(longest.items()))


def _origin(run: Figures) -> str:
    versions = ", ".join(_versions(run["versions"].items()))
    return (
        f"{run['server']}, Python {run['python']}, {versions}; {run['cores']} cores,"
        f" {run['date']}, `{run['command']}`"
    )


def _versions(versions: Iterable[tuple[str, str]]) -> Iterable[str]:
    return (f"{name} {number}" for name, number in versions)
