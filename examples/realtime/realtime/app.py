"""The app: `uvicorn realtime.app:app`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import socketio
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse

from fastdb import install_error_handlers
from realtime import users
from realtime.config import settings
from realtime.database import db
from realtime.events import SUBSCRIBERS, Events, room_of
from realtime.models import Base
from realtime.operations import Operations
from realtime.routes import router

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "static" / "index.html"
CLIENT = ROOT / "node_modules" / "socket.io-client" / "dist" / "socket.io.min.js"

# Not by long polling: such a request is held open until there is something to tell, and uvicorn,
# told by SIGTERM to end, waits for it. WebSockets it closes.
sio = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database, and be ready to carry out operations."""
    async with db.lifespan(app):
        await db.create_all(Base.metadata)
        if settings.demo_token is not None:
            token = settings.demo_token.get_secret_value()
            async with db.session() as session:
                await session.run_sync(users.add, "demo", token)
        app.state.events = Events(sio)
        async with Operations(
            db, app.state.events, settings.files, settings.parallel
        ) as app.state.operations:
            yield


async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
    """Let a client in that shows a token, to what its user and to what all are told."""
    token = auth.get("token") if isinstance(auth, dict) else None
    async with db.read_session() as session:
        user = await users.find(session, token) if isinstance(token, str) else None
    if user is None:
        raise socketio.exceptions.ConnectionRefusedError("The token is unknown.")
    await sio.enter_room(sid, room_of(user.id))
    await sio.enter_room(sid, SUBSCRIBERS)


sio.on("connect", connect)

app = FastAPI(title="Realtime", lifespan=lifespan)
app.include_router(router)
app.mount("/socket.io", socketio.ASGIApp(sio, socketio_path=""))
install_error_handlers(app)


@app.exception_handler(RequestValidationError)
async def tell_what_was_wrong(_request: Request, error: RequestValidationError) -> Response:
    """Leave out the value: FastAPI's own answer repeats it, and fails where that is no UTF-8."""
    told = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return Response(json.dumps({"detail": told}), 422, media_type="application/json")


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Return the page."""
    return FileResponse(PAGE)


@app.get("/socket.io.min.js", include_in_schema=False)
async def client() -> FileResponse:
    """Return the JavaScript client of Socket.IO."""
    if not CLIENT.exists():
        raise HTTPException(503, f"Socket.IO's client is missing: `npm install` in {ROOT.name}.")
    return FileResponse(CLIENT)
