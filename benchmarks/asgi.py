"""Requests to an app without a server or a client, so that nothing but the app is measured."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from workloads import Workload

Call = Callable[[], Awaitable[None]]
Ask = Callable[[], Awaitable["Answer"]]


class WrongAnswer(Exception):
    """A candidate did not answer as the workload demands."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: None where the app ended without an answer.
        error: The type of the exception that went through the app to the server, if any.
    """

    status: int | None
    error: str | None = None


def caller(app: FastAPI, workload: Workload) -> Call:
    """Return a function that sends the workload's request to `app` once."""
    fixed, body = _request(workload)

    async def call() -> None:
        statuses: list[int] = []

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await app({**fixed, "state": {}}, _receiver(body), send)  # type: ignore[arg-type]
        if statuses != [workload.status]:
            raise WrongAnswer(f"{workload.method} {workload.path}: {statuses}")

    return call


def asker(app: FastAPI, workload: Workload) -> Ask:
    """Return a function that does the same, and takes any answer for one, as clients have to."""
    fixed, body = _request(workload)

    async def ask() -> Answer:
        statuses: list[int] = []

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        error = None
        try:
            await app({**fixed, "state": {}}, _receiver(body), send)  # type: ignore[arg-type]
        except Exception as raised:  # noqa: BLE001 - Starlette answers 500 and lets it go on
            error = type(raised).__name__
        return Answer(statuses[0] if statuses else None, error)

    return ask


def _request(workload: Workload) -> tuple[dict[str, Any], dict[str, Any]]:
    fixed: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": workload.method,
        "path": workload.path,
        "raw_path": workload.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"host", b"benchmark"),
            (b"accept", b"*/*"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(workload.body)).encode()),
        ],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8000),
    }
    return fixed, {"type": "http.request", "body": workload.body, "more_body": False}


def _receiver(body: dict[str, Any]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Return what a server gives its app: the body, and nothing more while the client stays."""
    given = False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:  # some ask again and again whether the client has left
            await asyncio.get_running_loop().create_future()
        given = True
        return body

    return receive
