"""Answers for database errors: the right status, and a body that gives nothing away.

    install_error_handlers(app)

Problem details as RFC 9457 has them (https://www.rfc-editor.org/rfc/rfc9457).
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, cast

from fastapi import FastAPI, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from fastdb.errors import (
    CommitOutcomeUnknown,
    ConfigurationError,
    ConnectionRefused,
    ErrorKind,
    classify,
)
from fastdb.errors.classification import causes
from fastdb.options import is_count
from fastdb.route_names import route_path

logger = logging.getLogger("fastdb.handlers")

# What a database call may raise. The last four are not SQLAlchemy's: asyncpg lets errors of the
# system through, drivers refuse some values before the database sees them, psycopg encodes JSON.
_RAISED: tuple[type[Exception], ...] = (
    SQLAlchemyError,
    CommitOutcomeUnknown,
    ConnectionRefused,
    OSError,
    OverflowError,
    UnicodeError,
    RecursionError,
)

# Which of them anything else may raise, too.
_COMMON = (OSError, OverflowError, UnicodeError, RecursionError)

_MEDIA_TYPE = "application/problem+json"

_TITLES = {
    409: "Conflict",
    422: "Unprocessable Content",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    detail: str


_BUSY = _Answer(503, "The database is busy. Please try again.")
_UNREACHABLE = _Answer(503, "The database cannot be reached. Please try again later.")
_MISSING_OR_WRONG = _Answer(422, "A value is missing, or is not allowed.")

# A kind of its own to a client, whom `Retry-After` would let do it twice.
_COMMIT_OUTCOME_UNKNOWN = "commit_outcome_unknown"

_ANSWERS: dict[str, _Answer] = {
    ErrorKind.UNIQUE: _Answer(409, "This exists already."),
    ErrorKind.FOREIGN_KEY: _Answer(
        409, "This refers to something that does not exist, or something still refers to it."
    ),
    ErrorKind.BAD_VALUE: _Answer(422, "The database takes no such value."),
    ErrorKind.NOT_NULL: _MISSING_OR_WRONG,
    ErrorKind.CHECK: _MISSING_OR_WRONG,
    ErrorKind.DEADLOCK: _BUSY,
    ErrorKind.SERIALIZATION: _BUSY,
    ErrorKind.STALE_PLAN: _Answer(503, "The database was just changed. Please try again."),
    ErrorKind.LOCK_TIMEOUT: _BUSY,
    ErrorKind.POOL_EXHAUSTED: _BUSY,
    ErrorKind.TOO_MANY_CONNECTIONS: _BUSY,
    ErrorKind.READ_ONLY: _Answer(503, "The database takes no changes. Please try again later."),
    ErrorKind.DISCONNECTED: _UNREACHABLE,
    ErrorKind.UNAVAILABLE: _UNREACHABLE,
    ErrorKind.STATEMENT_TIMEOUT: _Answer(504, "The database took too long."),
    _COMMIT_OUTCOME_UNKNOWN: _Answer(
        500, "It is not known whether this was saved. Look before you send it again."
    ),
}

_RESPONSES = {
    409: "It conflicts with what is there already.",
    422: "A value is missing, not allowed, or none that the database takes.",
    503: "The database is busy or cannot be reached; `Retry-After` says when to try again.",
    504: "The database took too long.",
}


def install_error_handlers(app: FastAPI, *, retry_after: int = 1) -> None:
    """Answer database errors with the status that they mean, and with problem details.

    409 for what conflicts with other rows, 422 for values that the database does not take, 503 with
    `Retry-After` for a database that is busy or cannot be reached, 504 for a time limit, 500
    without it where nobody knows whether COMMIT came through. Errors of other kinds go on, as do
    those that did not come out of a database call. What is answered with 5xx is logged to
    `fastdb.handlers` by its route, with its traceback but for a full pool.

    A handler of the app's own goes before, for a narrower class of exceptions whenever it was
    added, for the same class if it was added first or replaces this one.

    Args:
        app: The app; each one that is mounted in it has handlers of its own.
        retry_after: Seconds after which to try again. Default 1.

    Raises:
        ConfigurationError: `retry_after` is not a whole number, 0 or more.
    """
    if not is_count(retry_after) or retry_after < 0:
        raise ConfigurationError(
            f"install_error_handlers(retry_after={retry_after!r}): must be a whole number of"
            " seconds, 0 or more."
        )
    handle = _Handler(retry_after)
    for each in (*_RAISED, *_raised_by_asyncpg()):
        if each not in app.exception_handlers:
            app.add_exception_handler(each, handle)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI is to say of these answers: `responses=error_responses(409, 503)`.

    For a route, a router, or the app. With 422, FastAPI leaves out its own schema of validation
    errors for that route.

    Args:
        statuses: 409, 422, 503, 504. Default: all but 422.

    Raises:
        ConfigurationError: A status is none of these.
    """
    for status in statuses:
        if status not in _RESPONSES:
            raise ConfigurationError(
                f"error_responses({status!r}): must be one of {', '.join(map(str, _RESPONSES))}."
            )
    return {
        status: {
            "description": _RESPONSES[status],
            "content": {_MEDIA_TYPE: {"schema": _schema(status)}},
        }
        for status in statuses or (409, 503, 504)
    }


class _Handler:
    """An exception handler of Starlette's."""

    def __init__(self, retry_after: int) -> None:
        self._retry_after = str(retry_after)

    async def __call__(self, request: Request, error: Exception) -> Response:
        kind = _kind_of(error)
        answer = _ANSWERS.get(kind)
        if answer is None or request.scope["type"] != "http" or not _from_database(error):
            return await _pass_on(request, error)
        if answer.status >= 500:
            # A full pool is met by many at once, and always in the same place.
            told = None if kind == ErrorKind.POOL_EXHAUSTED else error
            where = (request.method, route_path(request.scope))
            logger.error("%s %s: %s, %s", *where, answer.status, kind, exc_info=told)
        return JSONResponse(
            {
                "type": "about:blank",
                "title": _TITLES[answer.status],
                "status": answer.status,
                "detail": answer.detail,
                "kind": kind,
            },
            answer.status,
            {"Retry-After": self._retry_after} if answer.status == 503 else None,
            _MEDIA_TYPE,
        )


def _kind_of(error: Exception) -> str:
    if any(isinstance(each, CommitOutcomeUnknown) for each in causes(error)):
        return _COMMIT_OUTCOME_UNKNOWN
    return classify(error).value


async def _pass_on(request: Request, error: Exception) -> Response:
    """Answer as if there were no handlers of ours, which stand before those of base classes.

    Raises:
        Exception: The error, if the app has no handler for it.
    """
    handlers = request.scope["app"].exception_handlers
    for kind in type(error).__mro__:
        handler = handlers.get(kind)
        if handler is None or isinstance(handler, _Handler) or kind is Exception:
            continue
        if iscoroutinefunction(handler):
            return cast("Response", await handler(request, error))
        return cast("Response", await run_in_threadpool(handler, request, error))
    raise error


def _raised_by_asyncpg() -> list[type[Exception]]:
    """SQLAlchemy 2.0 lets through what PostgreSQL answers to a new connection.

    And that no host is such as `target_session_attrs` asks for.
    """
    try:
        from asyncpg import PostgresError, TargetServerAttributeNotMatched
    except ImportError:
        return []
    return [PostgresError, TargetServerAttributeNotMatched]


def _from_database(error: Exception) -> bool:
    """Return whether an exception is a database's, or was raised beneath SQLAlchemy."""
    if not isinstance(error, _COMMON):
        return True
    return any(name.startswith("sqlalchemy.") for name in _modules(error))


def _modules(error: BaseException) -> Iterator[str]:
    traceback = error.__traceback__
    while traceback is not None:
        yield str(traceback.tb_frame.f_globals.get("__name__"))
        traceback = traceback.tb_next


def _schema(status: int) -> dict[str, Any]:
    kinds = sorted(str(kind) for kind, answer in _ANSWERS.items() if answer.status == status)
    return {
        "title": "Problem",
        "type": "object",
        "required": ["type", "title", "status", "detail", "kind"],
        "properties": {
            "type": {"type": "string", "const": "about:blank"},
            "title": {"type": "string", "const": _TITLES[status]},
            "status": {"type": "integer", "const": status},
            "detail": {"type": "string"},
            "kind": {"type": "string", "enum": kinds},
        },
    }
