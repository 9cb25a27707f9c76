"""What the guards and the time limits cost: fastdb as it comes beside fastdb without them."""

from collections.abc import Mapping, Sequence
from typing import Any

from peers.figures import FIGURES, ratio
from peers.goals import text_of
from peers.parts import Goal, Options
from peers.rounds import Rounds
from peers.tables import TITLES, notes, table
from peers.variants import variants
from peers.worker import Trial
from peers.workers import open_workers
from peers.workloads import Load

NAME = "guards"
TITLE = "Guards and time limits"

_WITH = "fastdb"
_WITHOUT = "fastdb without guards"
_LOADS = (Load("read", 1), Load("read", 16), Load("core", 1), Load("insert", 1))
# A few in a hundred are to be told apart: more turns than where twice is asked for.
_MORE_ROUNDS = 10
_MOST = 1.03


def run(options: Options) -> dict[str, Any]:
    return {"databases": {name: _measure(options, name) for name in options.databases.names}}


def _measure(options: Options, database: str) -> dict[str, Any]:
    chosen, missing = variants(database, (_WITH, _WITHOUT), limits=False, unguarded=True)
    both = [each for each in chosen if each.candidate in (_WITH, _WITHOUT) and not each.tuned]
    with open_workers(both, options.databases, database) as (workers, lost):
        rounds = Rounds(workers, rounds=options.rounds * _MORE_ROUNDS, seconds=options.seconds)
        loads = {}
        for load in _LOADS:
            print(f"    {database}: {load}", flush=True)
            loads[str(load)] = _compare(rounds.of(load))
        return {
            "loads": loads,
            "not_given_back": rounds.checked_out(),
            "missing": missing,
            "lost": lost | rounds.lost,
        }


def _compare(trials: Mapping[str, Sequence[Trial]]) -> dict[str, Any]:
    return {
        "cpu": ratio(trials[_WITH], trials[_WITHOUT], FIGURES["cpu"]),
        "p50": ratio(trials[_WITH], trials[_WITHOUT], FIGURES["p50"]),
        "failures": sum(trial.failures for each in trials.values() for trial in each),
    }


def goals(found: Mapping[str, Any]) -> list[Goal]:
    return [
        Goal(
            f"{TITLES[database]}, {load}: CPU with guards and time limits ÷ without",
            f"≤ {_MOST}",
            text_of(each["cpu"]),
            each["cpu"]["median"] <= _MOST,
        )
        for database, measured in found["databases"].items()
        for load, each in measured["loads"].items()
    ]


def render(found: Mapping[str, Any]) -> str:
    head = (
        "With everything that is on by default: time limits for statements and idle transactions,"
        " who holds which connection, one task at a time, refused COMMITs of failed transactions,"
        " stale plans. Without: what of it can be turned off, and the rest taken out of the"
        " process.\n\n"
    )
    rows = [
        (TITLES[database], load, text_of(each["cpu"]), text_of(each["p50"]), each["failures"])
        for database, measured in found["databases"].items()
        for load, each in measured["loads"].items()
    ]
    headings = ("database", "load", "CPU with ÷ without", "p50 with ÷ without", "failed")
    rest = "\n".join(map(notes, found["databases"].values()))
    return head + table(headings, rows) + "\n" + rest
