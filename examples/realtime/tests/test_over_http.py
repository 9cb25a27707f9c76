"""The app as its users have it: in a process of its own, over HTTP and WebSockets."""

import asyncio
import json

import httpx
import pytest
import socketio
from waiting import ended, start
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from conftest import NAMES
from fastdb.testing.servers import AppServer

pytestmark = pytest.mark.fastdb(isolation="database")

DEMO = {"Authorization": "Bearer demo"}


def socket_of(server: AppServer) -> connect:
    return connect(f"{server.url.replace('http', 'ws')}/events", additional_headers=DEMO)


async def test_operation_is_followed(server: AppServer) -> None:
    """Started over HTTP, told over a WebSocket until its end, and found over HTTP."""
    async with httpx.AsyncClient(base_url=server.url) as client, socket_of(server) as socket:
        operation = await start(client, DEMO, *NAMES)
        told: list[dict[str, object]] = []
        async with asyncio.timeout(30):
            while not told or told[-1]["event"] != "operation_complete":
                told.append(json.loads(await socket.recv()))
        assert told[-1] == {"event": "operation_complete", "operation": operation, "status": "done"}
        found = await ended(client, DEMO, operation)
        assert found == {"id": operation, "status": "done", "total": 8, "done": 8}
        files = (await client.get(f"/operations/{operation}/files", headers=DEMO)).json()
        assert [file["size"] for file in files] == [*range(8)]


async def test_sigterm_with_clients(server: AppServer) -> None:
    """The process ends, and well: clients that are connected do not hold it up."""
    left = asyncio.Event()
    client = socketio.AsyncClient(reconnection=False)
    client.on("disconnect", left.set)
    await client.connect(server.url, auth={"token": "demo"}, transports=["websocket"])
    async with socket_of(server) as socket:
        await asyncio.to_thread(server.stop)  # raises where it does not end, or badly
        async with asyncio.timeout(30):
            await left.wait()
        with pytest.raises(ConnectionClosed):
            await socket.recv()
