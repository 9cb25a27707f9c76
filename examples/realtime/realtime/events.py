"""What clients are told: over Socket.IO and over plain WebSockets, never before it is committed."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import socketio
from sqlalchemy.ext.asyncio import AsyncSession

from fastdb import on_commit

SUBSCRIBERS = "subscribers"
_WAITING_EVENTS = 1000

Event = dict[str, Any]


def room_of(user_id: int) -> str:
    """Return the room of a user, in which all his clients are."""
    return f"user {user_id}"


class Events:
    """Tells clients.

    Args:
        sio: The server of Socket.IO.
    """

    def __init__(self, sio: socketio.AsyncServer) -> None:
        self.sio = sio
        self._queues: dict[str, set[asyncio.Queue[Event]]] = defaultdict(set)

    def emit_later(self, session: AsyncSession, name: str, data: Event, room: str) -> None:
        """Tell a room when the session's transaction is committed; nobody, if it is rolled back."""
        on_commit(session, lambda: self._emit(name, data, room))

    async def _emit(self, name: str, data: Event, room: str) -> None:
        for queue in list(self._queues[room]):
            if not queue.full():  # who does not read is not waited for
                queue.put_nowait({"event": name, **data})
        await self.sio.emit(name, data, room=room)

    @contextmanager
    def listening(self, *rooms: str) -> Iterator["asyncio.Queue[Event]"]:
        """Collect what these rooms are told: for a plain WebSocket."""
        queue: asyncio.Queue[Event] = asyncio.Queue(_WAITING_EVENTS)
        for room in rooms:
            self._queues[room].add(queue)
        try:
            yield queue
        finally:
            for room in rooms:
                self._queues[room].discard(queue)
