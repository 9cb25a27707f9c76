"""The app: `uvicorn portfolio.app:app`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from fastdb import install_error_handlers
from fastdb.migrations import upgrade
from portfolio.config import settings
from portfolio.database import db
from portfolio.ecb import ECB, RatesUnavailable
from portfolio.holdings import ImpossibleTrade, NotFound
from portfolio.rates import UnknownRate
from portfolio.routes import router


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database, and migrate it on the sync twin: of several workers, one does."""
    async with db.lifespan(app), httpx.AsyncClient(base_url=settings.ecb_url) as client:
        await upgrade(db)
        app.state.ecb = ECB(client)
        yield


async def _answer(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, _STATUSES[type(error)])


_STATUSES: dict[type[Exception], int] = {
    NotFound: 404,
    UnknownRate: 404,
    ImpossibleTrade: 409,
    RatesUnavailable: 502,
}

app = FastAPI(title="Portfolio", lifespan=lifespan)
app.include_router(router)
for kind in _STATUSES:
    app.add_exception_handler(kind, _answer)
install_error_handlers(app)


@app.exception_handler(RequestValidationError)
async def tell_what_was_wrong(_request: Request, error: RequestValidationError) -> Response:
    """Leave out the value: FastAPI's own answer repeats it, and fails where that is no UTF-8."""
    told = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return Response(json.dumps({"detail": told}), 422, media_type="application/json")
