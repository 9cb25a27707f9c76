"""Rounds: in each, every candidate has one turn, in an order that chance decides.

A machine is never as quick as it was a second ago. What counts is therefore the ratio of two
turns of the same round.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random

from peers.databases import counted
from peers.worker import Trial
from peers.workers import Worker, WorkerLost
from peers.workloads import COUNTING, Load

Turn = Callable[[Worker, Load, float], Trial]

_WARM_UP_SECONDS = 0.1
_SECONDS_FOR_EACH_CLIENT = 0.004
_PATIENCE_SECONDS = 15


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
        self.left_out: dict[str, str] = {}

    def of(self, load: Load) -> dict[str, list[Trial]]:
        """Return the trials of a load by the variant's name, one for each round."""
        patient = [worker for worker in list(self._workers) if self._warm_up(worker, load)]
        trials: dict[str, list[Trial]] = {worker.variant.name: [] for worker in patient}
        for _ in range(self._rounds):
            for worker in self._chance.sample(patient, len(patient)):
                if worker not in self._workers:
                    continue
                trial = self._turn(worker, load, self._seconds_of(load), self._take)
                if trial is not None:
                    trials[worker.variant.name].append(trial)
        return {name: found for name, found in trials.items() if len(found) == self._rounds}

    def _seconds_of(self, load: Load) -> float:
        """Return how long a turn takes: where many wait, each is to be answered several times."""
        return max(self._seconds, load.clients * _SECONDS_FOR_EACH_CLIENT)

    def checked_out(self) -> dict[str, int | None]:
        """Return the connections that each has not given back."""
        return {worker.variant.name: worker.checked_out() for worker in self._workers}

    def _warm_up(self, worker: Worker, load: Load) -> bool:
        """Fill pools and caches; return whether the candidate is to take part under this load."""
        seconds = min(_WARM_UP_SECONDS, self._seconds)
        begun = time.monotonic()
        trial = self._turn(worker, load, seconds, Worker.load)
        took = time.monotonic() - begun
        if trial is not None and took > _PATIENCE_SECONDS:
            self.left_out[f"{worker.variant.name}, {load}"] = (
                f"{trial.answered} requests of {seconds:g} s were answered and {trial.failures}"
                f" failed, which took {took:.0f} s"
            )
            return False
        return trial is not None

    def _turn(self, worker: Worker, load: Load, seconds: float, take: Turn) -> Trial | None:
        counting = load.workload in COUNTING and worker.variant.candidate != "no database"
        before = counted(worker.url) if counting else 0
        try:
            trial = take(worker, load, seconds)
        except WorkerLost as error:
            self.lost[worker.variant.name] = f"{load}: {error}"
            self._workers.remove(worker)
            worker.close()
            return None
        if not counting:
            return trial
        done = counted(worker.url) - before
        return replace(trial, lost=max(0, trial.answered - done))
