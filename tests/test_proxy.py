"""The proxy of the tests of faults: what it does to who connects while it stops."""

import asyncio
import socket

from proxy import Proxy
from server_process import HOST


async def test_it_stops_whoever_is_just_connecting() -> None:
    """Wherever that is: accepted, or on its way to the server; or `stop` would wait for it."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), HOST, 0)
    async with server:
        _, port = server.sockets[0].getsockname()
        for steps in range(30):
            async with Proxy(HOST, port) as proxy:
                clients = [socket.socket() for _ in range(3)]
                for client in clients:
                    client.setblocking(False)
                    client.connect_ex((HOST, proxy.port))
                for _ in range(steps % 10):
                    await asyncio.sleep(0)
                await asyncio.wait_for(proxy.stop(), 5)
                for client in clients:
                    client.close()
