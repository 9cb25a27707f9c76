"""Overload: a thousand requests at once, each with a slow query, on a pool of ten."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from peers.alone import alone
from peers.candidates import CANDIDATES
from peers.overload_trial import SLACK_SECONDS, Trial
from peers.parts import Options

NAME = "overload"
TITLE = "Overload"

_REQUESTS = 1000
_QUERY_MS = 100
_POOL_SIZE = 10
_POOL_TIMEOUT = 3.0
_LEAVING = 0.3
_PATIENCE_SECONDS = 60.0
_WITHOUT_QUERIES = ("no database", "sync inline")  # the latter stops the loop for 100 seconds

_COLUMNS = (
    "candidate", "answered 200", "other answers", "never answered", "left", "last answer",
    "all within the limit", "connections not given back", "slots usable afterwards",
)  # fmt: skip


def run(options: Options) -> dict[str, Any]:
    chance = random.Random(0)
    rows = []
    for database in options.databases.names:
        serving = list(_serving(options.candidates, database))
        # Clients that leave are tried on one database: what they meet is the session, not it.
        for leaving in (0.0, _LEAVING) if database == _where_clients_leave(options) else (0.0,):
            for name in chance.sample(serving, len(serving)):
                trial = Trial(
                    candidate=name,
                    url=options.databases.new_url(database),
                    requests=_REQUESTS,
                    milliseconds=_QUERY_MS,
                    leaving=leaving,
                    pool_size=_POOL_SIZE,
                    pool_timeout=_POOL_TIMEOUT,
                )
                found = alone(
                    "peers.overload_trial:measure", asdict(trial), seconds=_PATIENCE_SECONDS
                )
                rows.append({**asdict(trial), "database": database, **found})
    order = list(options.candidates)
    return {"rows": sorted(rows, key=lambda row: order.index(row["candidate"]))}


def render(found: Mapping[str, Any]) -> str:
    limit = _POOL_TIMEOUT + SLACK_SECONDS
    parts = [
        f"{_REQUESTS} requests at the same moment, each with a query of {_QUERY_MS} ms, on a pool"
        f" of {_POOL_SIZE} connections. Who waits for one longer than {_POOL_TIMEOUT:.0f} s is to"
        f" be told so: the last answer is due after {limit:.0f} s. Afterwards nothing runs any"
        f" more: no connection may be missing from the pool, and {_POOL_SIZE} requests must be"
        " served at the same time. All candidates have the same pool; each runs in a process of"
        " its own. A client leaves by having its request cancelled, as timeouts and some servers"
        " do it; uvicorn does not."
    ]
    for database, leaving in dict.fromkeys((r["database"], r["leaving"]) for r in found["rows"]):
        rows = [r for r in found["rows"] if (r["database"], r["leaving"]) == (database, leaving)]
        title = f"### {database}"
        if leaving:
            title += f", where {leaving:.0%} of the clients leave before they are answered"
        parts += [title, _table(rows)]
    return "\n\n".join(parts)


def _serving(names: Iterable[str], database: str) -> Iterable[str]:
    for name in names:
        candidate = CANDIDATES[name]
        if candidate.version and database in candidate.databases and name not in _WITHOUT_QUERIES:
            yield name


def _where_clients_leave(options: Options) -> str:
    names = options.databases.names
    return "postgresql" if "postgresql" in names else names[0]


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(row))} |" for row in rows)])


def _cells(row: Mapping[str, Any]) -> list[str]:
    if "failed" in row:
        return [row["candidate"], f"failed: {row['failed']}"] + [""] * 7
    others = {status: n for status, n in row["statuses"].items() if status != "200"}
    unanswered = row["hung"] + row["no_answer"]
    in_time = not unanswered and row["last_answer"] <= row["pool_timeout"] + SLACK_SECONDS
    lost = row["slots_lost"]
    return [
        row["candidate"],
        str(row["ok"]),
        ", ".join(f"{n} × {status}" for status, n in others.items()) or "none",  # noqa: RUF001
        str(unanswered),
        str(row["left"]),
        "none" if row["last_answer"] is None else f"{row['last_answer']:.2f} s",
        "yes" if in_time else "**no**",
        "not counted" if lost is None else f"**{lost}**" if lost else "0",
        f"{row['slots_usable']} of {row['pool_size']}",
    ]
