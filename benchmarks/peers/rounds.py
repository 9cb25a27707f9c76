"""Rounds: in each, every candidate has one turn, in an order that chance decides.

A machine is never as quick as it was a second ago. What counts is therefore the ratio of two
turns of the same round.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random

from peers.databases import counted
from peers.worker import Trial
from peers.workers import Worker, WorkerLost
from peers.workloads import Load

Turn = Callable[[Worker, Load, float], Trial]

_WARM_UP_SECONDS = 0.1
COUNTING = frozenset({"increment", "locked"})


class Rounds:
    """Takes turns, and remembers who was lost on the way.

    Args:
        workers: Who takes part.
        rounds: How often.
        seconds: Of a turn.
        take: What is done in a turn; by default, a load within the worker's process.
    """

    def __init__(
        self, workers: Iterable[Worker], *, rounds: int, seconds: float, take: Turn | None = None
    ) -> None:
        self._workers = list(workers)
        self._rounds = rounds
        self._seconds = seconds
        self._take = take or Worker.load
        self._chance = Random(0)
        self.lost: dict[str, str] = {}

    def of(self, load: Load) -> dict[str, list[Trial]]:
        """Return the trials of a load by the variant's name, one for each round."""
        for worker in list(self._workers):
            self._turn(worker, load, min(_WARM_UP_SECONDS, self._seconds))
        trials: dict[str, list[Trial]] = {worker.variant.name: [] for worker in self._workers}
        for _ in range(self._rounds):
            for worker in self._chance.sample(self._workers, len(self._workers)):
                trial = self._turn(worker, load, self._seconds)
                if trial is not None:
                    trials[worker.variant.name].append(trial)
        return {name: found for name, found in trials.items() if name not in self.lost}

    def checked_out(self) -> dict[str, int | None]:
        """Return the connections that each has not given back."""
        return {worker.variant.name: worker.checked_out() for worker in self._workers}

    def _turn(self, worker: Worker, load: Load, seconds: float) -> Trial | None:
        counting = load.workload in COUNTING and worker.variant.candidate != "no database"
        before = counted(worker.url) if counting else 0
        try:
            trial = self._take(worker, load, seconds)
        except WorkerLost as error:
            self.lost[worker.variant.name] = f"{load}: {error}"
            self._workers.remove(worker)
            return None
        if not counting:
            return trial
        done = counted(worker.url) - before
        return replace(trial, lost=max(0, trial.answered - done))
