"""Events: after COMMIT and not without it, to whom they are for."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Concatenate

import httpx
import pytest
import socketio
from sqlalchemy.ext.asyncio import AsyncSession
from waiting import ended, start
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from conftest import ANN, NAMES
from fastdb import Database
from fastdb.errors import CommitOutcomeUnknown
from fastdb.testing import fail_commit, time_out_query
from realtime import operations
from realtime.events import Events, room_of
from realtime.models import Operation, User

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
        end = {"operation": operation, "status": "done"}
        assert told == [("operation_complete", end)]


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


async def test_nothing_is_told_before_commit(
    live_server: str, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an operation that is written and not committed, though its user's client listens."""
    begin, may_commit = operations.begin, threading.Event()  # the app has a loop of its own

    async def begin_and_wait(
        session: AsyncSession, events: Events, user: User, *others: Any
    ) -> Operation:
        operation = await begin(session, events, user, *others)
        # What a client is told comes in order: anything told before this is there before this.
        await events.sio.emit("marker", {}, room=room_of(user.id))
        await asyncio.to_thread(may_commit.wait, 30)
        return operation

    monkeypatch.setattr(operations, "begin", begin_and_wait)
    async with listening(live_server, "token of ann") as (told, complete):
        posting = asyncio.create_task(start(client, ANN, "file_1.txt"))
        try:
            async with asyncio.timeout(20):
                while ("marker", {}) not in told:  # noqa: ASYNC110 - the client goes on collecting
                    await asyncio.sleep(0.01)
            assert told == [("marker", {})]
            assert not posting.done()
        finally:
            may_commit.set()
            operation = await posting
        async with asyncio.timeout(30):
            await complete.wait()
        await ended(client, ANN, operation)
        assert Counter(name for name, _ in told) == {
            "marker": 1,
            "log_entry": 2,
            "progress_update": 1,
            "operation_complete": 1,
        }


async def test_end_of_an_operation_that_fails(
    live_server: str, client: httpx.AsyncClient, db: Database
) -> None:
    """It is "interrupted": that is stored, and told to all."""
    async with listening(live_server, "token of bob") as (told, complete):
        with time_out_query(db, matching="UPDATE files"):
            operation = await start(client, ANN, *NAMES)
            async with asyncio.timeout(30):
                await complete.wait()
        end = {"operation": operation, "status": "interrupted"}
        assert told == [("operation_complete", end)]
        assert (await ended(client, ANN, operation))["status"] == "interrupted"


async def test_end_whose_commit_is_not_answered(
    live_server: str, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is committed nevertheless: the operation stays "done"."""
    run = Database.run

    async def run_and_lose_the_answer(
        db: Database, unit: Callable[Concatenate[AsyncSession, ...], Awaitable[Any]], *args: Any
    ) -> None:
        await run(db, unit, *args)
        monkeypatch.setattr(Database, "run", run)
        raise CommitOutcomeUnknown

    monkeypatch.setattr(Database, "run", run_and_lose_the_answer)
    async with listening(live_server, "token of ann") as (told, _):
        operation = await start(client, ANN, "file_1.txt")
        async with asyncio.timeout(30):
            while Counter(name for name, _ in told)["operation_complete"] < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert told[-1] == ("operation_complete", {"operation": operation, "status": "done"})
        assert (await ended(client, ANN, operation))["status"] == "done"


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


async def test_long_polling_is_refused(client: httpx.AsyncClient) -> None:
    """It would hold up the end of the process."""
    answer = await client.get("/socket.io/?EIO=4&transport=polling")
    assert (answer.status_code, answer.json()) == (400, "Invalid transport")


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


@pytest.mark.parametrize("message", [b"nonsense", b"\xff", b""])
async def test_binary_message_that_is_refused(
    message: bytes, live_server: str, client: httpx.AsyncClient
) -> None:
    """As one of text; and the socket still answers, in binary too."""
    operation = await start(client, ANN, "file_1.txt")
    found = await ended(client, ANN, operation)
    async with socket_of(live_server, "ann") as socket:
        await socket.send(message)
        assert await receive(socket) == {"event": "refused"}
        for question in (json.dumps({"operation": operation}), b'{"operation": %d}' % operation):
            await socket.send(question)
            assert await receive(socket) == {"event": "state", **found}


async def test_web_socket_without_a_token(live_server: str) -> None:
    """It is refused before it is opened."""
    with pytest.raises(InvalidStatus, match="403"):
        async with socket_of(live_server, "nobody"):
            pytest.fail("it was opened")
