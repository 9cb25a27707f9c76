"""What parts that let candidates take turns have in common."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from peers.figures import FIGURES, per_second, ratio, summarise
from peers.parts import Options
from peers.rounds import Rounds, Turn
from peers.variants import Variant, variants
from peers.worker import Trial
from peers.workers import Worker, open_workers
from peers.workloads import Load


def measure(
    options: Options,
    database: str,
    loads: Sequence[Load],
    *,
    limits: bool = True,
    reach: Callable[[str], str] = str,
    prepare: Callable[[Worker], Turn] | None = None,
    choose: Callable[[Variant], bool] = lambda _variant: True,
) -> dict[str, Any]:
    """Return what every candidate achieved under each load on a database.

    Args:
        options: Of the run.
        database: Its name.
        loads: What to ask for.
        limits: Whether the limits take part.
        reach: Returns the URL as candidates reach the database.
        prepare: Called with each worker that is open, returns how its turns are taken.
        choose: Which variants take part.
    """
    chosen, missing = variants(database, options.candidates, limits=limits)
    with open_workers(
        [each for each in chosen if choose(each)], options.databases, database, reach
    ) as (workers, lost):
        take = _prepared(workers, prepare) if prepare else None
        rounds = Rounds(workers, rounds=options.rounds, seconds=options.seconds, take=take)
        found = {}
        for load in loads:
            print(f"    {database}: {load}", flush=True)
            found[str(load)] = _describe(rounds.of(load), workers)
        return {
            "loads": found,
            "variants": {
                worker.variant.name: {"kind": worker.variant.kind, "tuned": worker.variant.tuned}
                for worker in workers
            },
            "not_given_back": rounds.checked_out(),
            "missing": missing,
            "lost": lost | rounds.lost | rounds.left_out,
        }


def _prepared(workers: Sequence[Worker], prepare: Callable[[Worker], Turn]) -> Turn:
    turns = {worker: prepare(worker) for worker in workers}

    def take(worker: Worker, load: Load, seconds: float) -> Trial:
        return turns[worker](worker, load, seconds)

    return take


def _describe(trials: dict[str, list[Trial]], workers: Sequence[Worker]) -> dict[str, Any]:
    here = [worker.variant for worker in workers if worker.variant.name in trials]
    return {
        "candidates": summarise(trials, [each.name for each in here if each.kind == "by hand"]),
        "best peers": {
            each.name: _compare_with_best(each, here, trials)
            for each in here
            if each.kind == "fastdb"
        },
    }


def _compare_with_best(
    mine: Variant, everybody: Sequence[Variant], trials: dict[str, list[Trial]]
) -> dict[str, Any] | None:
    """Return the ratios to the peer with the highest throughput that is configured likewise."""
    peers = [each.name for each in everybody if each.kind == "peer" and each.tuned == mine.tuned]
    if not peers:
        return None
    best = max(peers, key=lambda name: _median_throughput(trials[name]))
    return {
        "peer": best,
        "ratios": {
            name: ratio(trials[mine.name], trials[best], figure) for name, figure in FIGURES.items()
        },
    }


def _median_throughput(trials: Sequence[Trial]) -> float:
    return median(per_second(trial) or 0.0 for trial in trials)
