"""Those who move money, and note for each transfer what they were told."""

import asyncio
import time
from collections.abc import Sequence
from itertools import count
from random import Random

import httpx

from bank.judge import Answer, Outcome, Transfer, understand

WAYS = ("once", "again", "sync")
PATIENCE_SECONDS = 2.0
# After anything but a success, a client holds back this long: it would only count refusals.
PAUSE_SECONDS = 0.02
# Of each client's transfers, one in so many asks for more than there is: of the first one's, the
# very first.
OVERDRAFT_IN = 25


class Clients:
    """Clients that move money, one transfer at a time each, until they are told to stop.

    No transfer is sent a second time.

    Args:
        urls: Of the app's processes; each client keeps to one.
        accounts: Between which the money goes.
        number: Of clients.
        seed: From which all that they want comes.
        ways: The app's paths that they choose from.
    """

    def __init__(
        self,
        urls: Sequence[str],
        accounts: range,
        *,
        number: int,
        seed: int,
        ways: Sequence[str] = WAYS,
    ) -> None:
        self._urls = urls
        self._accounts = accounts
        self._number = number
        self._seed = seed
        self._ways = ways
        self._stopped = False
        self._success = asyncio.Event()
        self.answers: list[Answer] = []

    async def run(self) -> None:
        """Move money until `stop`."""
        async with (
            httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for number in range(self._number):
                tasks.create_task(self._work(http, number))

    def stop(self) -> None:
        """Let what is on its way be answered, and send nothing more."""
        self._stopped = True

    async def served(self, seconds: float) -> None:
        """Wait until the next transfer is acknowledged.

        Raises:
            TimeoutError: There was none for so long.
        """
        self._success.clear()
        async with asyncio.timeout(seconds):
            await self._success.wait()

    async def _work(self, http: httpx.AsyncClient, number: int) -> None:
        random = Random(f"{self._seed}-{number}")  # noqa: S311 - it is to be foreseen
        url = self._urls[number % len(self._urls)]
        for each in count():
            if self._stopped:
                return
            source, target = random.sample(self._accounts, 2)
            too_much = each % OVERDRAFT_IN == number % OVERDRAFT_IN
            amount = 10**6 if too_much else random.randint(1, 10)
            transfer = Transfer(f"{number}-{each}", source, target, amount)
            outcome, said = await self._send(http, f"{url}/{random.choice(self._ways)}", transfer)
            self.answers.append(Answer(transfer, outcome, said, time.monotonic()))
            if outcome is Outcome.ACKNOWLEDGED:
                self._success.set()
            else:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _send(
        self, http: httpx.AsyncClient, url: str, transfer: Transfer
    ) -> tuple[Outcome, str]:
        try:
            answer = await http.post(url, json=as_order(transfer))
        except httpx.TransportError as error:
            # What could not even connect was not heard; anything else may have been.
            heard = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            return Outcome.UNKNOWN if heard else Outcome.REFUSED, type(error).__name__
        try:
            body = answer.json()
        except ValueError:
            body = None
        kind = body.get("kind", "") if isinstance(body, dict) else ""
        return understand(answer.status_code, body), f"{answer.status_code} {kind}".strip()


def as_order(transfer: Transfer) -> dict[str, str | int]:
    """Return the body of a request for this transfer."""
    return {
        "transfer": transfer.id,
        "source": transfer.source,
        "target": transfer.target,
        "amount": transfer.amount,
    }
