"""Send the plan to the app, many requests at a time."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import httpx

from fastdb.demo.app import Summary
from fastdb.demo.plan import Answer, Request, first_requests, plan
from fastdb.errors import FastdbError

REQUEST_SECONDS = 15
RUN_SECONDS = 60

# Nothing here is encrypted; without it, each client would read the system's certificates.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class NotAnswered(FastdbError):
    """The app did not answer as it must for the demo to go on."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the app has answered.

    Args:
        answers: One for each request, in the order in which they came.
        rows_before: Rows that were there before those requests.
        summary: What the app says afterwards that there is.
        seconds: How long it took.
    """

    answers: list[Answer]
    rows_before: int
    summary: Summary
    seconds: float


async def drive(
    base_url: str, *, requests: int, concurrency: int, answered: Callable[[], None]
) -> Outcome:
    """Send so many requests, and then ask what there is.

    Args:
        base_url: Where the app listens.
        requests: How many in all.
        concurrency: How many at a time.
        answered: Called after each.

    Raises:
        NotAnswered: The app gave no counter or no account to begin with, or no summary.
    """
    async with _client(base_url) as client:
        counter_id, account_id = [await _create(client, one) for one in first_requests()]
        planned = plan(requests, counter_id=counter_id, account_id=account_id)
        begun = perf_counter()
        answers = await _send_all(base_url, planned, concurrency, answered)
        seconds = perf_counter() - begun
        return Outcome(answers, 1, await _summary(client), seconds)


async def _send_all(
    base_url: str, planned: Iterator[Request], concurrency: int, answered: Callable[[], None]
) -> list[Answer]:
    answers: list[Answer] = []

    async def send_some() -> None:
        # Each a client of its own: one for all would spend more time on choosing a connection
        # than the app on answering.
        async with _client(base_url) as client:
            for request in planned:  # all take from the same ones
                answers.append(await _send(client, request))
                answered()

    try:
        async with asyncio.timeout(RUN_SECONDS), asyncio.TaskGroup() as senders:
            for _ in range(concurrency):
                senders.create_task(send_some())
    except TimeoutError:
        pass  # what has no answer by now is missing from them, and the checks count them
    return answers


def _client(base_url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=REQUEST_SECONDS,
        trust_env=False,  # a proxy is for the world outside, not for this machine
        verify=_NO_TLS,
    )


async def _send(client: httpx.AsyncClient, request: Request) -> Answer:
    begun = perf_counter()
    try:
        response = await client.request(request.method, request.path, json=request.body)
    except httpx.HTTPError:
        return Answer(request.kind, None, perf_counter() - begun)
    return Answer(request.kind, response.status_code, perf_counter() - begun)


async def _create(client: httpx.AsyncClient, request: Request) -> int:
    return int((await _ask(client, request.method, request.path, request.body)).json()["id"])


async def _summary(client: httpx.AsyncClient) -> Summary:
    return Summary.model_validate((await _ask(client, "GET", "/summary", None)).json())


async def _ask(client: httpx.AsyncClient, method: str, path: str, body: object) -> httpx.Response:
    try:
        response = await client.request(method, path, json=body)
    except httpx.HTTPError as error:
        raise NotAnswered(f"{method} {path} got no answer ({type(error).__name__}).") from error
    if not response.is_success:
        raise NotAnswered(f"{method} {path} was answered with {response.status_code}.")
    return response
