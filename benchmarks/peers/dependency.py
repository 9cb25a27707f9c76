"""What the dependency alone costs: an endpoint that takes a session and asks nothing of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from peers.figures import spread
from peers.goals import text_of
from peers.parts import Goal, Options
from peers.rounds import Rounds
from peers.tables import notes, number, table
from peers.variants import variants
from peers.worker import Trial
from peers.workers import open_workers
from peers.workloads import Load

NAME = "dependency"
TITLE = "The dependency alone"

_FLOOR = "no database"
_BASE = "by hand"
_MORE_ROUNDS = 3
_MOST = 0.6


def run(options: Options) -> dict[str, Any]:
    database = options.databases.names[0]  # none is asked
    chosen, missing = variants(database, {*options.candidates, _FLOOR})
    alike = [
        each
        for each in chosen
        if each.candidate == _FLOOR or (each.kind != "limit" and not each.tuned)
    ]
    with open_workers(alike, options.databases, database) as (workers, lost):
        rounds = Rounds(workers, rounds=options.rounds * _MORE_ROUNDS, seconds=options.seconds)
        trials = rounds.of(Load("nothing", 1))
        return {
            "candidates": {
                name: _describe(mine, trials) for name, mine in trials.items() if name != _FLOOR
            },
            "not_given_back": rounds.checked_out(),
            "missing": missing,
            "lost": lost | rounds.lost,
        }


def _describe(mine: Sequence[Trial], trials: Mapping[str, Sequence[Trial]]) -> dict[str, Any]:
    """Return the processor's time above that of the same endpoint without a dependency."""
    floor, base = trials[_FLOOR], trials[_BASE]
    above = [a.cpu_us - f.cpu_us for a, f in zip(mine, floor, strict=True) if a.cpu_us and f.cpu_us]
    others = [
        b.cpu_us - f.cpu_us for b, f in zip(base, floor, strict=True) if b.cpu_us and f.cpu_us
    ]
    return {
        "us": spread(above),
        "ratio": spread([a / b for a, b in zip(above, others, strict=False) if b > 0]),
        "failures": sum(trial.failures for trial in mine),
    }


def goals(found: Mapping[str, Any]) -> list[Goal]:
    ratio = found["candidates"].get("fastdb", {}).get("ratio")
    met = ratio["median"] <= _MOST if ratio else None
    what = "the dependency alone: CPU of fastdb ÷ by hand"
    return [Goal(what, f"≤ {_MOST}", text_of(ratio), met)]


def render(found: Mapping[str, Any]) -> str:
    head = (
        "The processor's time of a request whose endpoint takes a session and does nothing with it,"
        " less that of the same request without a session.\n\n"
    )
    rows = [
        (
            name,
            text_of(mine["ratio"]),
            number(mine["us"] and mine["us"]["median"]),
            mine["failures"],
        )
        for name, mine in found["candidates"].items()
    ]
    return head + table(("candidate", "CPU ÷ by hand", "µs", "failed"), rows) + "\n" + notes(found)
