"""Many requests at one moment: who is answered, with what, and when."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from asgi import Ask

_LEAVING_SECONDS = 5.0  # for what is cancelled in the end to come to its end


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of one request.

    Attributes:
        status: Of the answer; None where there was none.
        error: The type of the exception that the app let through, if any.
        seconds: Until the end, whatever it was.
        end: `answered`, `left` (the client went away first) or `hung`.
    """

    status: int | None
    error: str | None
    seconds: float
    end: str


async def crowd(
    ask: Ask, requests: int, *, patience: float, leave_after: Sequence[float] = ()
) -> list[Outcome]:
    """Send all requests at once; return what has become of each.

    Args:
        ask: Sends one request.
        requests: How many.
        patience: Seconds after which what is not answered counts as hung.
        leave_after: For the first of the requests, the seconds after which their clients leave:
            the task is cancelled, as servers and timeouts do it.
    """
    stays = requests - len(leave_after)
    begun = perf_counter()
    tasks = [
        asyncio.create_task(_one(ask, begun, seconds))
        for seconds in (*leave_after, *[None] * stays)
    ]
    _, hung = await asyncio.wait(tasks, timeout=patience)
    for task in hung:
        task.cancel()
    if hung:
        await asyncio.wait(hung, timeout=_LEAVING_SECONDS)
    waited = perf_counter() - begun
    return [
        Outcome(None, None, waited, "hung") if task in hung else task.result() for task in tasks
    ]


async def _one(ask: Ask, begun: float, leave_after: float | None) -> Outcome:
    request = asyncio.create_task(ask())
    try:
        done, _ = await asyncio.wait([request], timeout=leave_after)
    finally:
        request.cancel()
    if not done:
        await asyncio.wait([request])
        return Outcome(None, None, perf_counter() - begun, "left")
    answer = request.result()
    return Outcome(answer.status, answer.error, perf_counter() - begun, "answered")


def statuses(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return how often each status was the answer, and each exception behind those of 500."""
    found = Counter(
        f"{outcome.status} {outcome.error}" if outcome.error else str(outcome.status)
        for outcome in outcomes
        if outcome.end == "answered"
    )
    return dict(sorted(found.items()))
