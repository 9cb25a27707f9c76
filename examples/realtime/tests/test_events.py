"""Events: after COMMIT and not without it, to whom they are for."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import socketio
from waiting import ended, start
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from conftest import ANN, NAMES
from fastdb import Database
from fastdb.testing import fail_commit

pytestmark = [pytest.mark.fastdb(isolation="database"), pytest.mark.usefixtures("people")]

Told = list[tuple[str, dict[str, Any]]]


@asynccontextmanager
async def listening(url: str, token: str) -> AsyncIterator[tuple[Told, asyncio.Event]]:
    """Collect what a client of Socket.IO is told; the event is set by "operation_complete"."""
    told: Told = []
    complete = asyncio.Event()
    client = socketio.AsyncClient(reconnection=False)

    async def any_event(name: str, data: dict[str, Any]) -> None:
        told.append((name, data))
        if name == "operation_complete":
            complete.set()

    client.on("*", any_event)
    await client.connect(url, auth={"token": token}, transports=["websocket"])
    try:
        yield told, complete
    finally:
        await client.disconnect()


async def test_progress_is_told(live_server: str, client: httpx.AsyncClient) -> None:
    """Each step once, and then that it is complete."""
    async with listening(live_server, "token of ann") as (told, complete):
        operation = await start(client, ANN, *NAMES)
        async with asyncio.timeout(30):
            await complete.wait()
        await ended(client, ANN, operation)
        assert Counter(name for name, _ in told) == {
            "log_entry": 16,  # added, and looked at
            "progress_update": 8,
            "operation_complete": 1,
        }
        steps = [data["done"] for name, data in told if name == "progress_update"]
        assert sorted(steps) == [*range(1, 9)]


async def test_events_are_for_their_user(live_server: str, client: httpx.AsyncClient) -> None:
    """Others hear that an operation is complete, and not of its files."""
    async with listening(live_server, "token of bob") as (told, complete):
        operation = await start(client, ANN, *NAMES)
        async with asyncio.timeout(30):
            await complete.wait()
        await ended(client, ANN, operation)
        assert told == [("operation_complete", {"operation": operation})]


async def test_what_is_told_is_committed(live_server: str, client: httpx.AsyncClient) -> None:
    """Whoever looks when he is told, finds it: at each of many events."""
    seen: list[tuple[int, int]] = []
    sio = socketio.AsyncClient(reconnection=False)
    complete = asyncio.Event()

    async def look(data: dict[str, int]) -> None:
        listed = (await client.get("/operations", headers=ANN)).json()
        seen.append((data["done"], listed[0]["done"]))

    async def end(data: dict[str, int]) -> None:
        complete.set()

    sio.on("progress_update", look)
    sio.on("operation_complete", end)
    await sio.connect(live_server, auth={"token": "token of ann"}, transports=["websocket"])
    try:
        operation = await start(client, ANN, *NAMES)
        async with asyncio.timeout(30):
            await complete.wait()
            while len(seen) < len(NAMES):  # noqa: ASYNC110 - they are still being looked at
                await asyncio.sleep(0.01)
        await ended(client, ANN, operation)
    finally:
        await sio.disconnect()
    assert [told for told, there in seen if there < told] == []


async def test_nothing_is_told_of_what_is_rolled_back(
    live_server: str, client: httpx.AsyncClient, db: Database
) -> None:
    """Where COMMIT fails, no log entry, no progress, and no operation."""
    async with listening(live_server, "token of ann") as (told, complete):
        with fail_commit(db, "serialization"):
            answer = await client.post("/operations", json={"files": NAMES}, headers=ANN)
        assert answer.status_code == 503
        operation = await start(client, ANN, "file_1.txt")
        async with asyncio.timeout(30):
            await complete.wait()
        await ended(client, ANN, operation)
        assert sorted(data.get("text", name) for name, data in told) == [
            "file_1.txt is added",
            "file_1.txt: 1 bytes",
            "operation_complete",
            "progress_update",
        ]


async def test_events_follow_savepoints(live_server: str, client: httpx.AsyncClient) -> None:
    """What is undone inside of a request takes its events along; what is said after it stays."""
    async with listening(live_server, "token of ann") as (told, complete):
        operation = await start(client, ANN, "file_1.txt", "file_1.txt")
        async with asyncio.timeout(30):
            await complete.wait()
        await ended(client, ANN, operation)
        texts = [data["text"] for name, data in told if name == "log_entry"]
        assert texts == [
            "file_1.txt is added",
            "file_1.txt is there already",
            "file_1.txt: 1 bytes",
        ]


@pytest.mark.parametrize("token", ["nobody's", "", "\ud800"])
async def test_client_without_a_token(token: str, live_server: str) -> None:
    """It is not let in."""
    client = socketio.AsyncClient(reconnection=False)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(live_server, auth={"token": token}, transports=["websocket"])


def socket_of(live_server: str, user: str) -> connect:
    headers = {"Authorization": f"Bearer token of {user}"}
    return connect(f"{live_server.replace('http', 'ws')}/events", additional_headers=headers)


async def receive(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(30):
        received: dict[str, Any] = json.loads(await socket.recv())
        return received


async def test_plain_web_socket(live_server: str, client: httpx.AsyncClient) -> None:
    """It is told the same, and is answered what it asks."""
    async with socket_of(live_server, "ann") as socket:
        operation = await start(client, ANN, "file_1.txt")
        told = [(await receive(socket))["event"] for _ in range(4)]
        assert sorted(told) == ["log_entry", "log_entry", "operation_complete", "progress_update"]
        await ended(client, ANN, operation)
        await socket.send(json.dumps({"operation": operation}))
        state = {"id": operation, "status": "done", "total": 1, "done": 1}
        assert await receive(socket) == {"event": "state", **state}


@pytest.mark.parametrize("message", ["nonsense", "{}", '{"operation": 1e9999}', '{"operation": 1}'])
async def test_question_that_is_refused(
    message: str, live_server: str, client: httpx.AsyncClient
) -> None:
    """The socket stays open; somebody else's operation is refused like one that is none."""
    operation = await start(client, ANN, "file_1.txt")
    await ended(client, ANN, operation)
    async with socket_of(live_server, "bob") as socket:
        await socket.send(message.replace("1}", f"{operation}}}"))
        assert await receive(socket) == {"event": "refused"}
        await socket.send(message)
        assert await receive(socket) == {"event": "refused"}


async def test_web_socket_without_a_token(live_server: str) -> None:
    """It is refused before it is opened."""
    with pytest.raises(InvalidStatus, match="403"):
        async with socket_of(live_server, "nobody"):
            pytest.fail("it was opened")
