"""The app: `uvicorn reports.app:app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from fastdb import install_error_handlers
from fastdb.migrations import upgrade
from reports import routes, sync_routes
from reports.config import LLMSettings
from reports.database import db
from reports.llm import Summarizer, SyncSummarizer


class State(TypedDict):
    summarizer: Summarizer
    sync_summarizer: SyncSummarizer


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[State]:
    settings = LLMSettings()
    async with db.lifespan(app), Summarizer(settings) as summarizer:
        await upgrade(db)
        with SyncSummarizer(settings) as sync_summarizer:
            yield {"summarizer": summarizer, "sync_summarizer": sync_summarizer}


app = FastAPI(title="Reports", lifespan=lifespan)
install_error_handlers(app)
app.include_router(routes.router)
app.include_router(sync_routes.router)


@app.exception_handler(RequestValidationError)
async def tell_what_is_wrong(_: Request, error: RequestValidationError) -> JSONResponse:
    """Answer as FastAPI does, without the refused value: NaN and half a surrogate are no JSON."""
    wrong = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return JSONResponse({"detail": wrong}, 422)
