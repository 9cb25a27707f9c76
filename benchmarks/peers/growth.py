"""What grows: latency and memory with the number of clients, memory with rows and with requests."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import text
from sqlite.big import ROWS

from peers.alone import alone
from peers.candidates import BASELINE
from peers.engines import make_sync_engine
from peers.growth_trial import Trial
from peers.parts import Chart, Options
from peers.places import Place
from peers.tables import TITLES, table
from peers.variants import variants

NAME = "growth"
TITLE = "Growth"

_DATABASES = ("sqlite", "postgresql")
_CLIENTS = (1, 10, 100, 1000)
_CHURN = 10_000
_STREAMS = {
    "sqlite": ("fastdb, rows", "by hand, rows", "fastdb, objects", "by hand, objects"),
    "postgresql": ("fastdb, rows", "by hand, rows"),
}
_PATIENCE_SECONDS = 120.0
_FLAT_MB = 3.0  # what Python's own allocator may give or take

_BIG = (
    "DROP TABLE IF EXISTS big",
    "CREATE TABLE big (id INTEGER PRIMARY KEY, name VARCHAR(60) NOT NULL, age INTEGER NOT NULL)",
)
_FILL_BIG = {
    "sqlite": "WITH RECURSIVE numbers (n) AS"
    f" (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})"
    " INSERT INTO big SELECT n, 'the hero with the number ' || n, n * 7919 % 100 FROM numbers",
    "postgresql": "INSERT INTO big SELECT n, 'the hero with the number ' || n,"
    f" n::bigint * 7919 % 100 FROM generate_series(1, {ROWS}) AS numbers (n)",
}


def run(options: Options) -> dict[str, Any]:
    chance = random.Random(0)
    databases = [name for name in options.databases.names if name in _DATABASES]
    return {
        "load": [row for name in databases for row in _load(options, name, chance)],
        "streams": [row for name in databases for row in _streams(options, name, chance)],
    }


def render(found: Mapping[str, Any]) -> str:
    levels, churn = (
        {database: [row for row in found["load"] if row["database"] == database and key in row]
         for database in dict.fromkeys(row["database"] for row in found["load"])}
        for key in ("levels", "churn")
    )  # fmt: skip
    parts = [
        "Reads by key, by 1 to 1,000 clients at once, on a pool of 10 connections: the time that"
        " half of the requests took at most, that 99 of 100 did, and the most memory that the"
        f" process had until then. Ratios are to *{BASELINE}*.",
    ]
    for database, rows in levels.items():
        parts += [f"## Clients, {TITLES[database]}", _levels(rows)]
    parts.append(
        f"After 1,000 requests to warm up, {_CHURN:,} more, of which one in ten writes. Memory is"
        f" flat where it has changed by no more than {_FLAT_MB:.0f} MB."
    )
    for database, rows in churn.items():
        parts += [f"## Churn, {TITLES[database]}", _churn(rows)]
    parts += [
        f"## {ROWS:,} rows streamed",
        "`session.stream()` with `yield_per=1000`; the memory is what the process needed more at"
        " most than before.",
        _stream_table(found["streams"]),
    ]
    failed = [row for key in ("load", "streams") for row in found[key] if "failed" in row]
    parts += [f"{row['candidate']}, {row['database']}: {row['failed']}" for row in failed]
    return "\n\n".join(parts)


def charts(found: Mapping[str, Any]) -> list[Chart]:
    drawn = []
    for database in dict.fromkeys(row["database"] for row in found["load"]):
        mine = [r for r in found["load"] if r["database"] == database and "levels" in r]
        base = next((row["levels"] for row in mine if row["candidate"] == BASELINE), [])
        bars: dict[str, list[float | None]] = {
            row["candidate"]: [
                level["p50_ms"] / by_hand["p50_ms"]
                for level, by_hand in zip(row["levels"], base, strict=False)
            ]
            for row in mine
        }
        title = f"{TITLES[database]}: the median read by key, as clients become more"
        groups = [f"{level['clients']} at once" for level in base]
        drawn.append(Chart(f"growth-{database}", title, f"p50 ÷ {BASELINE}", groups, bars))
    return drawn


def _load(options: Options, database: str, chance: random.Random) -> Iterable[dict[str, Any]]:
    # What the limits need is not for anybody to choose.
    found, _ = variants(database, options.candidates, limits=False)
    serving = list(dict.fromkeys(variant.candidate for variant in found))
    rows = []
    for name in chance.sample(serving, len(serving)):
        url = options.databases.new_url(database)
        trial = Trial(name, url, _CLIENTS, min(0.5, options.seconds), _CHURN)
        measured = alone("peers.growth_trial:measure", asdict(trial), seconds=_PATIENCE_SECONDS)
        rows.append({"database": database, "candidate": name, **measured})
    return sorted(rows, key=lambda row: serving.index(row["candidate"]))


def _streams(options: Options, database: str, chance: random.Random) -> Iterable[dict[str, Any]]:
    url = options.databases.new_url(database)
    _make_big(Place(url))
    names = _STREAMS[database]
    rows = []
    for name in chance.sample(names, len(names)):
        found = alone(
            "peers.growth_trial:measure_stream",
            {"name": name, "url": url},
            seconds=_PATIENCE_SECONDS,
        )
        rows.append({"database": database, "candidate": name, **found})
    return sorted(rows, key=lambda row: names.index(row["candidate"]))


def _make_big(place: Place) -> None:
    engine = make_sync_engine(place)
    with engine.begin() as connection:
        for statement in (*_BIG, _FILL_BIG[place.database]):
            connection.execute(text(statement))
    engine.dispose()


def _levels(rows: Sequence[Mapping[str, Any]]) -> str:
    base = {level["clients"]: level for row in rows if row["candidate"] == BASELINE
            for level in row["levels"]}  # fmt: skip
    headings = [f"{clients} at once: p50, p99, MB" for clients in _CLIENTS]

    def cell(level: Mapping[str, Any]) -> str:
        failed = f", **{level['failures']} failed**" if level["failures"] else ""
        ratios = ""
        if level["clients"] in base:
            by_hand = base[level["clients"]]
            ratios = (
                f" ({level['p50_ms'] / by_hand['p50_ms']:.2f},"
                f" {level['p99_ms'] / by_hand['p99_ms']:.2f})"
            )
        return (
            f"{level['p50_ms']:.1f} ms, {level['p99_ms']:.1f} ms{ratios},"
            f" {level['mb']:.0f} MB{failed}"
        )

    return table(
        ("candidate", *headings),
        ([row["candidate"], *map(cell, row["levels"])] for row in rows),
    )


def _churn(rows: Sequence[Mapping[str, Any]]) -> str:
    def cells(row: Mapping[str, Any]) -> list[str]:
        churn = row["churn"]
        more = churn["after_mb"] - churn["before_mb"]
        return [
            row["candidate"],
            f"{churn['before_mb']:.1f} MB",
            f"{churn['after_mb']:.1f} MB",
            f"{more:+.1f} MB",
            "yes" if abs(more) <= _FLAT_MB else "**no**",
            str(churn["failures"]),
        ]

    headings = ("candidate", "before", "after", "change", "flat", "failed")
    return table(headings, map(cells, rows))


def _stream_table(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("candidate", "database", "rows read", "more memory", "rows per second"),
        (
            (
                row["candidate"],
                TITLES[row["database"]],
                f"{row['rows']:,}",
                f"{row['more_mb']:.1f} MB",
                f"{row['rows_per_second']:,.0f}",
            )
            for row in rows
            if "rows" in row
        ),
    )
