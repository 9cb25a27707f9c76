"""Overload: a thousand requests at once, each with a slow query, on a pool of ten."""

import random
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from peers.alone import alone
from peers.overload_trial import SLACK_SECONDS, Trial
from peers.parts import Goal, Options
from peers.tables import TITLES, table
from peers.variants import variants

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
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for database in options.databases.names:
        found, not_there = variants(database, options.candidates)
        missing |= not_there
        serving = list(dict.fromkeys(variant.candidate for variant in found))
        serving = [name for name in serving if name not in _WITHOUT_QUERIES]
        here: list[dict[str, Any]] = []
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
                here.append({"database": database, **asdict(trial), **_measure(trial)})
        rows += sorted(here, key=lambda row: serving.index(row["candidate"]))
    return {"rows": rows, "missing": missing}


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
        title = f"## {TITLES[database]}"
        if leaving:
            title += f", where {leaving:.0%} of the clients leave before they are answered"
        parts += [title, table(_COLUMNS, map(_cells, rows))]
    parts += [f"Not tried: {name} ({why})." for name, why in found["missing"].items()]
    return "\n\n".join(parts)


def goals(found: Mapping[str, Any]) -> list[Goal]:
    return [_goal(row) for row in found["rows"] if row["candidate"] == "fastdb"]


def _goal(row: Mapping[str, Any]) -> Goal:
    leaving = f", {row['leaving']:.0%} of the clients leave" if row["leaving"] else ""
    wanted = f"each in {row['pool_timeout'] + SLACK_SECONDS:.0f} s, no connection lost"
    what = f"{TITLES[row['database']]}, {row['requests']:,} requests at once{leaving}"
    if "failed" in row:
        return Goal(what, wanted, row["failed"], met=False)
    unanswered = row["hung"] + row["no_answer"]
    lost = max(row["slots_lost"], row["pool_size"] - row["slots_usable"])
    measured = f"the last in {row['last_answer']:.2f} s, {unanswered} never, {lost} lost"
    return Goal(what, wanted, measured, met=_all_in_time(row) and not lost)


def _where_clients_leave(options: Options) -> str:
    names = options.databases.names
    return "postgresql" if "postgresql" in names else names[0]


def _measure(trial: Trial) -> dict[str, Any]:
    return alone("peers.overload_trial:measure", asdict(trial), seconds=_PATIENCE_SECONDS)


def _all_in_time(row: Mapping[str, Any]) -> bool:
    if "failed" in row or row["hung"] or row["no_answer"] or row["last_answer"] is None:
        return False
    return bool(row["last_answer"] <= row["pool_timeout"] + SLACK_SECONDS)


def _cells(row: Mapping[str, Any]) -> list[str]:
    if "failed" in row:
        return [row["candidate"], f"failed: {row['failed']}"] + [""] * 7
    others = {status: n for status, n in row["statuses"].items() if status != "200"}
    unanswered = row["hung"] + row["no_answer"]
    lost = row["slots_lost"]
    return [
        row["candidate"],
        str(row["ok"]),
        ", ".join(f"{n} × {status}" for status, n in others.items()) or "none",  # noqa: RUF001
        str(unanswered),
        str(row["left"]),
        "none" if row["last_answer"] is None else f"{row['last_answer']:.2f} s",
        "yes" if _all_in_time(row) else "**no**",
        "not counted" if lost is None else f"**{lost}**" if lost else "0",
        f"{row['slots_usable']} of {row['pool_size']}",
    ]
