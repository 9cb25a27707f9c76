"""Operations: started by a request, carried out in the background."""

import asyncio
import logging
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import file_digest
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Update, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from fastdb import Database, atomic
from realtime.events import SUBSCRIBERS, Events, room_of
from realtime.models import File, Operation, User

logger = logging.getLogger("realtime")

MINUTE = timedelta(minutes=1)


class TooMany(Exception):
    """A user starts more than he may.

    Attributes:
        retry_after: In so many seconds he may again.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Try again in {retry_after} s.")
        self.retry_after = retry_after


async def begin(
    session: AsyncSession, events: Events, user: User, names: Sequence[str], per_minute: int
) -> Operation:
    """Write down an operation, with each file once.

    Raises:
        TooMany: The user has started as many in the last minute.
    """
    await _limit(session, user, per_minute)
    operation = Operation(user_id=user.id, started=datetime.now(UTC), done=0)
    session.add(operation)
    await session.flush()
    room = room_of(user.id)
    for name in names:
        try:
            async with atomic(session):  # what is undone in here takes its event along
                _log(session, events, operation, room, f"{name} is added")
                session.add(File(operation_id=operation.id, name=name))
        except IntegrityError:
            _log(session, events, operation, room, f"{name} is there already")
        else:
            operation.total += 1
    return operation


async def _limit(session: AsyncSession, user: User, per_minute: int) -> None:
    """Count under the user's lock: two requests at once would both find room for one.

    On SQLite the session has the write lock, which does the same.
    """
    await session.refresh(user, with_for_update=True)
    recent = select(Operation.started).where(
        Operation.user_id == user.id, Operation.started > datetime.now(UTC) - MINUTE
    )
    times = sorted((await session.scalars(recent)).all())
    if len(times) >= per_minute:
        free = times[-per_minute].replace(tzinfo=UTC) + MINUTE  # SQLite keeps no time zone
        # Rounded up: who waits for so long is let in.
        raise TooMany(max(1, math.ceil((free - datetime.now(UTC)).total_seconds())))


class Operations:
    """Carries out operations, each in a task, for as long as its block lasts.

    Args:
        db: Where they are kept.
        events: Who tells clients.
        files: The directory of the files.
        parallel: How many files are looked at at the same time, of all operations.
    """

    def __init__(self, db: Database, events: Events, files: Path, parallel: int) -> None:
        self._db = db
        self._events = events
        self._files = files
        self._at_once = asyncio.Semaphore(parallel)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Own up to those that an earlier process has left behind."""
        async with self._db.session() as session:
            await session.execute(_interrupt_running())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop those that run."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            async with self._db.session() as session:
                await session.execute(_interrupt_running())

    def start(self, operation_id: int, user_id: int) -> None:
        """Carry out an operation that is committed."""
        task = asyncio.create_task(self._carry_out(operation_id, user_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, operation_id: int, user_id: int) -> None:
        try:
            await self._look_at_all(operation_id, user_id)
        except Exception:  # nobody awaits this task
            logger.exception("Operation %d was interrupted", operation_id)
            await self._give_up(operation_id)

    async def _look_at_all(self, operation_id: int, user_id: int) -> None:
        async with self._db.read_session() as session:
            query = select(File.name).where(File.operation_id == operation_id)
            names = (await session.scalars(query)).all()
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._look_at(operation_id, user_id, name))

    async def _look_at(self, operation_id: int, user_id: int, name: str) -> None:
        """Look at a file in a thread, with no connection; then note it, in a unit of its own."""
        async with self._at_once:
            found = await asyncio.to_thread(examine, self._files / name)
            await self._db.run(self._note, operation_id, user_id, name, found)

    async def _note(
        self, session: AsyncSession, operation_id: int, user_id: int, name: str, found: "Found"
    ) -> None:
        size, digest, error = found
        file = await session.get_one(File, (operation_id, name))
        file.size, file.sha256, file.error = size, digest, error
        row = await session.execute(
            update(Operation)
            .where(Operation.id == operation_id)
            .values(done=Operation.done + 1)
            .returning(Operation.done, Operation.total)
        )
        done, total = row.one()
        room, operation = room_of(user_id), {"operation": operation_id}
        text = f"{name}: {error or f'{size} bytes'}"
        self._events.emit_later(session, "log_entry", {**operation, "text": text}, room)
        progress = {**operation, "done": done, "total": total}
        self._events.emit_later(session, "progress_update", progress, room)
        if done == total:
            operation_row = await session.get_one(Operation, operation_id)
            operation_row.status = "done"
            self._tell_end(session, operation_row)

    async def _give_up(self, operation_id: int) -> None:
        """Own up to an operation that has failed; where that fails too, the next start does it."""
        try:
            await self._db.run(self._interrupt, operation_id)
        except Exception:
            logger.exception("Operation %d counts as running until the next start", operation_id)

    async def _interrupt(self, session: AsyncSession, operation_id: int) -> None:
        operation = await session.get_one(Operation, operation_id)
        if operation.status == "running":  # "done", if just the answer to its last COMMIT was lost
            operation.status = "interrupted"
        self._tell_end(session, operation)

    def _tell_end(self, session: AsyncSession, operation: Operation) -> None:
        end = {"operation": operation.id, "status": operation.status}
        self._events.emit_later(session, "operation_complete", end, SUBSCRIBERS)


Found = tuple[int | None, str | None, str | None]


def examine(path: Path) -> Found:
    """Read a file; return its size and its digest, or why that cannot be done."""
    try:
        with path.open("rb") as file:
            digest = file_digest(file, "sha256")
            return file.tell(), digest.hexdigest(), None
    except OSError as error:
        return None, None, type(error).__name__


def _log(session: AsyncSession, events: Events, operation: Operation, room: str, text: str) -> None:
    events.emit_later(session, "log_entry", {"operation": operation.id, "text": text}, room)


def _interrupt_running() -> Update:
    return update(Operation).where(Operation.status == "running").values(status="interrupted")
