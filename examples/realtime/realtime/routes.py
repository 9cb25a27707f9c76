"""The routes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import (
    APIRouter,
    Depends,
    Header,
    HTTPException,
    Path,
    Request,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from sqlalchemy import select

from fastdb import Database, DatabaseDep, SessionDep, on_commit
from realtime import operations, users
from realtime.config import settings
from realtime.events import SUBSCRIBERS, Events, room_of
from realtime.models import File, Operation
from realtime.operations import Operations
from realtime.users import UserDep

router = APIRouter()

FileName = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]{0,99}$")]
Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
POLICY_VIOLATION = 1008


def _events(request: Request) -> Events:
    events: Events = request.app.state.events
    return events


def _operations(request: Request) -> Operations:
    running: Operations = request.app.state.operations
    return running


EventsDep = Annotated[Events, Depends(_events)]
OperationsDep = Annotated[Operations, Depends(_operations)]


class OperationIn(BaseModel):
    """The files to look at."""

    files: list[FileName] = Field(min_length=1, max_length=1000)


class OperationOut(BaseModel):
    """How far an operation is."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    status: str
    total: int
    done: int


class FileOut(BaseModel):
    """What was found in a file."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    size: int | None
    sha256: str | None
    error: str | None


_REFUSED: dict[int | str, dict[str, Any]] = {401: {"description": "The token is unknown."}}


@router.post(
    "/operations",
    status_code=202,
    response_model=OperationOut,
    responses={**_REFUSED, 429: {"description": "Too many; `Retry-After` says when again."}},
)
async def start_operation(
    new: OperationIn,
    user: UserDep,
    session: SessionDep,
    events: EventsDep,
    running: OperationsDep,
) -> Operation:
    try:
        operation = await operations.begin(session, events, user, new.files, settings.per_minute)
    except operations.TooMany as error:
        headers = {"Retry-After": str(error.retry_after)}
        raise HTTPException(429, str(error), headers) from None
    operation_id, user_id = operation.id, user.id
    on_commit(session, lambda: running.start(operation_id, user_id))
    return operation


@router.get("/operations", response_model=list[OperationOut], responses=_REFUSED)
async def list_operations(user: UserDep, session: SessionDep) -> Any:
    query = select(Operation).where(Operation.user_id == user.id).order_by(Operation.id.desc())
    return (await session.scalars(query.limit(100))).all()


@router.get(
    "/operations/{operation_id}/files",
    response_model=list[FileOut],
    responses={**_REFUSED, 404: {"description": "It is not there, or somebody else's."}},
)
async def list_files(operation_id: Id, user: UserDep, session: SessionDep) -> Any:
    operation = await session.get(Operation, operation_id)
    if operation is None or operation.user_id != user.id:
        raise HTTPException(404)
    query = select(File).where(File.operation_id == operation_id).order_by(File.name)
    return (await session.scalars(query)).all()


class Question(BaseModel):
    """What a client may ask over its WebSocket."""

    operation: int = Field(ge=1, le=2**31 - 1)


@router.websocket("/events")
async def follow_events(
    socket: WebSocket, db: DatabaseDep, authorization: Annotated[str, Header(max_length=300)] = ""
) -> None:
    """Tell what happens, and answer what is asked: a session for each message, and none between.

    The token comes in a header, as over HTTP: what is in a URL ends up in logs.
    """
    async with db.read_session() as session:
        user = await users.find(session, authorization.removeprefix("Bearer "))
    if user is None:
        raise WebSocketException(POLICY_VIOLATION, "The token is unknown.")
    events: Events = socket.app.state.events
    with events.listening(room_of(user.id), SUBSCRIBERS) as queue:
        await socket.accept()
        telling = asyncio.create_task(_tell(socket, queue))
        try:
            await _answer(socket, db, user.id)
        except WebSocketDisconnect:
            pass
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)


async def _tell(socket: WebSocket, queue: "asyncio.Queue[dict[str, Any]]") -> None:
    while True:
        await socket.send_json(await queue.get())


async def _messages(socket: WebSocket) -> AsyncIterator[str | bytes]:
    """Yield what the client sends until it leaves; whether as text or not is its choice."""
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        text: str | None = message.get("text")
        yield message["bytes"] if text is None else text


async def _answer(socket: WebSocket, db: Database, user_id: int) -> None:
    async for message in _messages(socket):
        try:
            question = Question.model_validate_json(message)
        except ValidationError:
            await socket.send_json({"event": "refused"})
            continue
        async with db.read_session() as session:
            operation = await session.get(Operation, question.operation)
        if operation is None or operation.user_id != user_id:
            await socket.send_json({"event": "refused"})
        else:
            state = OperationOut.model_validate(operation).model_dump()
            await socket.send_json({"event": "state", **state})
