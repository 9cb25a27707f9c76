"""A thousand requests at once on few connections, of one candidate: run through `alone`."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workloads import Workload

from asgi import Ask, asker
from peers.candidates import CANDIDATES
from peers.crowd import Outcome, crowd, statuses
from peers.places import Place

SLACK_SECONDS = 1.0  # above the pool's timeout, within which everybody is to be answered
_HUNG_AFTER_SECONDS = 15.0  # above the pool's timeout
_PROBE_MS = 300
_OK = 200


@dataclass(frozen=True)
class Trial:
    """What is to be done.

    Attributes:
        candidate: A name in CANDIDATES.
        url: Of the database.
        requests: At the same time.
        milliseconds: That each one's query takes.
        leaving: The share of clients that go away before they are answered.
        pool_size: Connections at most.
        pool_timeout: Seconds that one may wait for a connection.
    """

    candidate: str
    url: str
    requests: int
    milliseconds: int
    leaving: float
    pool_size: int
    pool_timeout: float


def measure(**trial: Any) -> dict[str, Any]:
    return asyncio.run(_measure(Trial(**trial)))


async def _measure(trial: Trial) -> dict[str, Any]:
    place = Place(trial.url, tuned=True, pool_size=trial.pool_size, pool_timeout=trial.pool_timeout)
    app = CANDIDATES[trial.candidate].make_app(place)
    engines = getattr(app.state, "engines", None)
    async with app.router.lifespan_context(app):
        await crowd(asker(app, _sleep(1)), trial.pool_size, patience=trial.pool_timeout)
        outcomes = await crowd(
            asker(app, _sleep(trial.milliseconds)),
            trial.requests,
            patience=trial.pool_timeout + _HUNG_AFTER_SECONDS,
            leave_after=_departures(trial),
        )
        await asyncio.sleep(0.2)  # what ends in the background
        slots_lost = sum(e.pool.checkedout() for e in engines()) if engines else None
        usable = await _usable_slots(asker(app, _sleep(_PROBE_MS)), trial)
    return {**_summary(outcomes), "slots_lost": slots_lost, "slots_usable": usable}


def _sleep(milliseconds: int) -> Workload:
    return Workload("sleep", "a slow query", "/sleep/{milliseconds}", f"/sleep/{milliseconds}")


def _departures(trial: Trial) -> list[float]:
    """Return when clients go away: at any moment until the pool's timeout, the same each time."""
    chance = random.Random(0)
    leaving = round(trial.requests * trial.leaving)
    return [chance.uniform(0, trial.pool_timeout) for _ in range(leaving)]


async def _usable_slots(ask: Ask, trial: Trial) -> int:
    """Return how many requests are served at the same time afterwards; the others had to wait."""
    outcomes = await crowd(ask, trial.pool_size, patience=trial.pool_timeout)
    in_time = 1.7 * _PROBE_MS / 1000
    return sum(outcome.status == _OK and outcome.seconds < in_time for outcome in outcomes)


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    answered = [outcome for outcome in outcomes if outcome.end == "answered"]
    return {
        "ok": sum(outcome.status == _OK for outcome in answered),
        "statuses": statuses(answered),
        "left": sum(outcome.end == "left" for outcome in outcomes),
        "hung": sum(outcome.end == "hung" for outcome in outcomes),
        "no_answer": sum(outcome.status is None for outcome in answered),
        "last_answer": max((outcome.seconds for outcome in answered), default=None),
    }
