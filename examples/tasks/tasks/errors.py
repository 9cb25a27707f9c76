"""What can be wrong with a request, and how that is answered."""

import json
from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.orm.exc import StaleDataError


class NotFound(Exception):
    """What was asked for is not there."""

    def __init__(self, kind: str, number: int) -> None:
        super().__init__(f"There is no {kind} {number}.")


class Outdated(Exception):
    """It has changed since the client has seen it."""


def install(app: FastAPI) -> None:
    """Answer 404 and 409. Whatever raises rolls back, so nothing half-done stays."""
    app.add_exception_handler(NotFound, _not_found)
    app.add_exception_handler(Outdated, _outdated)
    # Found by the UPDATE itself: two clients had seen the same version, and both were right.
    app.add_exception_handler(StaleDataError, _outdated)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _not_found(request: Request, error: Exception) -> JSONResponse:
    return _problem(404, "Not Found", str(error))


async def _outdated(request: Request, error: Exception) -> JSONResponse:
    return _problem(409, "Conflict", "It was changed meanwhile: read it again.")


async def _invalid(request: Request, error: Exception) -> Response:
    """Leave out the value: FastAPI's own answer repeats it, and fails where that is no UTF-8."""
    errors = cast("RequestValidationError", error).errors()
    told = [{name: each[name] for name in ("type", "loc", "msg")} for each in errors]
    return Response(json.dumps({"detail": told}), 422, media_type="application/json")


def _problem(status: int, title: str, detail: str) -> JSONResponse:
    """Return problem details (RFC 9457), as fastdb's own handlers do."""
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail},
        status,
        media_type="application/problem+json",
    )
