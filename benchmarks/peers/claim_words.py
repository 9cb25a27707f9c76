"""What was measured beside what is claimed, and why: every sentence follows from the figures."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from peers.tables import TITLES

_NEAR = 1.25  # a claim holds where it is missed by a quarter at most
_HEAD = "| claim | database | {ways} | holds? | why |"


def at_once(way: str, pool: int, threads: int, requests: int) -> int:
    """Return how many requests can wait for the database at the same time."""
    if way == "blocking-in-async":
        return 1
    if way == "synchronous":
        return min(pool, threads, requests)
    return min(pool, requests)


def table(claims: Sequence[Mapping[str, Any]], rows: Sequence[Any], ways: Sequence[str]) -> str:
    lines = [_HEAD.format(ways=" | ".join(ways)), "|---|---|" + "---|" * (len(ways) + 2)]
    for claim in claims:
        for database in dict.fromkeys(row["database"] for row in rows):
            mine = [
                row for row in rows if (row["claim"], row["database"]) == (claim["name"], database)
            ]
            cells = ["<br>".join(map(_cell, _of(mine, way))) for way in ways]
            holds, why = _verdict(claim, mine)
            lines.append(
                " | ".join(["| " + claim["text"], TITLES[database], *cells, holds, f"{why} |"])
            )
    return "\n".join([*lines, "", _LEGEND])


_LEGEND = (
    "In each cell: the time until the last of the requests was answered (median of the bursts),"
    " the median request, requests per second, and the most memory that the process had. A pool of"
    " n has n connections at most; *threads* are FastAPI's, in which `def` endpoints run."
    f" A figure that misses a claim by {_NEAR - 1:.0%} or less counts as holding."
)


def _cell(row: Mapping[str, Any]) -> str:
    setup = f"pool {row['pool']}"
    if row["way"] == "synchronous":
        setup += f", {row['threads']} threads"
    if "failed" in row and isinstance(row["failed"], str):
        return f"{setup}: {row['failed']}"
    total = f"**{_total(row):.2f} s**, " if row["seconds"] else ""
    failed = f", **{row['failed']:.0f} failed**" if row["failed"] else ""
    return (
        f"{setup}: {total}p50 {row['p50'] * 1000:.0f} ms, {row['per_second']:.0f}/s,"
        f" {row['mb']:.0f} MB{failed}"
    )


def _verdict(claim: Mapping[str, Any], rows: Sequence[Any]) -> tuple[str, str]:
    if claim["again"]:
        return _compare_throughput(rows)
    measured = [row for row in rows if row.get("seconds")]
    mine, threads, blocking = (
        _of(measured, way) for way in ("fastdb", "synchronous", "blocking-in-async")
    )
    if not (mine and threads and blocking):
        return "not measured", ""
    if claim["path"] == "/compute":
        return "no", _nothing_gained(claim, _best(mine), _best(threads))
    fast = _total(_best(mine)) <= claim["fast"] * _NEAR
    slow = _is_slow(claim, _best(threads))
    sentences = [
        _fast_half(claim, _best(mine), holds=fast),
        *_smaller_pools(claim, mine),
        _slow_half(claim, threads, blocking[0]),
    ]
    in_part = fast or any(_is_slow(claim, row) for row in (*threads, *blocking))
    return "yes" if fast and slow else "in part" if in_part else "no", " ".join(sentences)


def _is_slow(claim: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return bool(claim["slow"] / _NEAR <= _total(row) <= claim["slow"] * _NEAR)


def _nothing_gained(
    claim: Mapping[str, Any], mine: Mapping[str, Any], threads: Mapping[str, Any]
) -> str:
    return (
        f"Nothing is gained: {_total(mine):.2f} s asynchronous, {_total(threads):.2f} s in threads."
        f" One interpreter does {claim['requests']} times {claim['busy']} s one after the other,"
        " whoever waits for it. More processes help."
    )


def _fast_half(claim: Mapping[str, Any], row: Mapping[str, Any], *, holds: bool) -> str:
    total, ideal = _total(row), _ideal(claim, row)
    return (
        f"Asynchronous, {total:.2f} s {'holds' if holds else 'misses'} the {claim['fast']} s, with"
        f" a pool of {row['pool']}: {_waves(claim, row)} takes {ideal:.2f} s, and the processor's"
        f" work on {claim['requests']} requests the other {(total - ideal) * 1000:.0f} ms."
    )


def _smaller_pools(claim: Mapping[str, Any], rows: Sequence[Any]) -> Iterable[str]:
    for row in rows:
        if row is not _best(rows):
            yield (
                f"With a pool of {row['pool']} it is {_total(row):.2f} s, since"
                f" {_waves(claim, row)} take {_ideal(claim, row):.2f} s."
            )


def _slow_half(
    claim: Mapping[str, Any], threads: Sequence[Any], blocking: Mapping[str, Any]
) -> str:
    best = _best(threads)
    if _is_slow(claim, best):
        return f"Synchronous, {_total(best):.2f} s bears out the {claim['slow']} s."
    said = (
        f"Synchronous, it is not {claim['slow']} s but {_total(best):.2f} s, with"
        f" {best['threads']} threads and a pool of {best['pool']} ({_waves(claim, best)})."
    )
    like = [row for row in threads if _is_slow(claim, row)]
    if like:
        return (
            f"{said} {_total(like[0]):.2f} s are those of a pool of {like[0]['pool']},"
            " asynchronous or not."
        )
    in_line = f"one after the other, {claim['requests']} times {claim['busy']} s"
    if _is_slow(claim, blocking):
        return (
            f"{said} So long it takes where synchronous calls block the event loop:"
            f" {_total(blocking):.2f} s, {in_line}."
        )
    return (
        f"{said} Where the calls block the event loop, it is {_total(blocking):.2f} s, {in_line}."
    )


def _compare_throughput(rows: Sequence[Any]) -> tuple[str, str]:
    by_way = {row["way"]: row for row in rows if "per_second" in row}
    if len(by_way) < len({row["way"] for row in rows}):
        return "not measured", ""
    mine, threads, blocking = (
        by_way[way] for way in ("fastdb", "synchronous", "blocking-in-async")
    )
    to_threads = mine["per_second"] / threads["per_second"]
    to_blocking = mine["per_second"] / blocking["per_second"]
    memory = 1 - mine["mb"] / threads["mb"]
    parts = [to_threads >= 5 / _NEAR, mine["p50"] <= 0.05 * _NEAR, memory >= 0.3 / _NEAR]
    said = (
        f"{to_threads:.2f} times the throughput of threads, {to_blocking:.1f} times that of calls"
        f" that block the event loop. The median is {mine['p50'] * 1000:.0f} ms, of which 40 ms are"
        f" the other service; {threads['p50'] * 1000:.0f} ms in threads,"
        f" {blocking['p50'] * 1000:.0f} ms where the loop is blocked. Memory: {_more(memory)} than"
        f" in threads. {mine['mb_idle']:.0f} of {mine['mb']:.0f} MB were there before the first"
        f" request, and {threads['mb_idle']:.0f} of {threads['mb']:.0f} MB with threads: what can"
        " be saved is the rest."
    )
    holds = all(parts)
    if holds:
        return "yes", said
    in_part = any(parts) or to_blocking >= 5 / _NEAR
    return ("in part" if in_part else "no"), said


def _more(saved: float) -> str:
    return f"{abs(saved):.0%} {'less' if saved > 0 else 'more'}"


def _waves(claim: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    parallel = at_once(row["way"], row["pool"], row["threads"], claim["requests"])
    waves = -(-claim["requests"] // parallel)
    return f"{waves} {'wave' if waves == 1 else 'waves'} of {parallel}"


def _ideal(claim: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    parallel = at_once(row["way"], row["pool"], row["threads"], claim["requests"])
    return float(claim["busy"] * -(-claim["requests"] // parallel))


def _of(rows: Iterable[Any], way: str) -> list[Any]:
    found = [row for row in rows if row["way"] == way]
    return sorted(found, key=lambda row: (row["pool"], row["threads"]))


def _best(rows: Sequence[Any]) -> Any:
    return min(rows, key=lambda row: (row["failed"], _total(row)))


def _total(row: Mapping[str, Any]) -> float:
    return median(row["seconds"])
