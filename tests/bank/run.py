"""One run: money is moved, things break and are mended, and in the end the books are read."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bank.clients import Clients
from bank.judge import Answer, Books, Outcome, longest_gap
from bank.place import Place
from bank.plan import Fault, schedule
from bank.tables import open_accounts, read_books

ACCOUNTS = range(1, 21)
BALANCE = 1000
# Far beyond what it takes: a run that needs it has shown that the app does not recover.
RECOVERY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Outage:
    """A fault that has happened, and its moments in seconds of a clock that only goes forward."""

    fault: Fault
    began: float
    healed: float


@dataclass(frozen=True, slots=True)
class Record:
    """What has happened in a run.

    Attributes:
        opening: What each account held in the beginning.
        answers: What clients were told.
        books: What was there in the end.
        outages: What had happened meanwhile, in order.
        ended: When the clients stopped.
        exit_codes: How the processes of the app ended when they were told to.
        still_connected: Sessions that they left on the server.
        written: What they wrote to their logs.
    """

    opening: Mapping[int, int]
    answers: Sequence[Answer]
    books: Books
    outages: Sequence[Outage]
    ended: float
    exit_codes: Sequence[int | None]
    still_connected: Sequence[Any]
    written: str

    def recoveries(self) -> list[tuple[Outage, float]]:
        """Return each fault with the longest time that went by without a success afterwards."""
        successes = [each.at for each in self.answers if each.outcome is Outcome.ACKNOWLEDGED]
        ends = [*(outage.began for outage in self.outages[1:]), self.ended]
        return [
            (outage, longest_gap(successes, outage.healed, end))
            for outage, end in zip(self.outages, ends, strict=True)
        ]


async def run(place: Place, *, seconds: float, seed: int, clients: int) -> Record:
    """Move money for some time, while what the seed says breaks.

    Args:
        place: Where.
        seconds: How long; what it takes to mend things comes on top.
        seed: What happens, and what clients want.
        clients: How many.

    Raises:
        TimeoutError: After a fault, nothing was acknowledged any more.
    """
    await asyncio.to_thread(open_accounts, place.url, ACCOUNTS, BALANCE)
    for app in place.apps:
        await app.start()
    crowd = Clients([app.url for app in place.apps], ACCOUNTS, number=clients, seed=seed)
    outages: list[Outage] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(crowd.run())
        await crowd.served(RECOVERY_SECONDS)
        for fault in schedule(place.kinds, seconds=seconds, seed=seed):
            outages.append(await _suffer(fault, place))
            await _recover(fault, crowd)
        await asyncio.sleep(outages[-1].fault.after_seconds)  # so that later gaps are seen, too
        crowd.stop()
    ended = time.monotonic()
    # Who has lost patience has left a request behind: it ends before the process does.
    exit_codes = [await app.stop() for app in place.apps]
    still_connected = await place.wait_until_left()
    return Record(
        opening=dict.fromkeys(ACCOUNTS, BALANCE),
        answers=crowd.answers,
        books=await asyncio.to_thread(read_books, place.url),
        outages=outages,
        ended=ended,
        exit_codes=exit_codes,
        still_connected=still_connected,
        written="".join([await app.written() for app in place.apps]),
    )


async def _suffer(fault: Fault, place: Place) -> Outage:
    await asyncio.sleep(fault.after_seconds)
    began = time.monotonic()
    await place.strike(fault)
    try:
        await asyncio.sleep(fault.lasts_seconds)
    finally:
        await place.heal(fault)
    return Outage(fault, began, time.monotonic())


async def _recover(fault: Fault, crowd: Clients) -> None:
    try:
        await crowd.served(RECOVERY_SECONDS)
    except TimeoutError:
        said = ", ".join(sorted({answer.said for answer in crowd.answers[-100:]}))
        raise TimeoutError(
            f"nothing was acknowledged for {RECOVERY_SECONDS} s after {fault}; last said: {said}"
        ) from None
