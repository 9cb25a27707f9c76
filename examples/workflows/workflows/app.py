"""The app: `uvicorn workflows.app:app`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from openai import OpenAI
from sqlmodel import SQLModel

from fastdb import install_error_handlers
from workflows.ai import AI
from workflows.config import settings
from workflows.database import db
from workflows.routes import router
from workflows.runner import Runner


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database, make its tables, and be ready to carry out runs."""
    with _client() as client:
        ai = AI(client, settings.ai_model)
        async with db.lifespan(app):
            await db.create_all(SQLModel.metadata)
            async with Runner(
                db, ai, parallel=settings.parallel, lease_seconds=settings.lease_seconds
            ) as app.state.runner:
                yield


def _client() -> OpenAI:
    return OpenAI(
        base_url=settings.ai_url,
        api_key=settings.ai_key.get_secret_value(),
        timeout=settings.ai_seconds,
        max_retries=0,
    )


app = FastAPI(title="Workflows", lifespan=lifespan)
app.include_router(router)
install_error_handlers(app)


@app.exception_handler(RequestValidationError)
async def tell_what_was_wrong(_request: Request, error: RequestValidationError) -> Response:
    """Leave out the value: FastAPI's own answer repeats it, and fails where that is no UTF-8."""
    told = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return Response(json.dumps({"detail": told}), 422, media_type="application/json")
