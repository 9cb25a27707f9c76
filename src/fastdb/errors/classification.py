"""What an exception means, by the codes of the database: pure, for every driver."""

import socket
from collections.abc import Iterator
from typing import Any

from sqlalchemy import exc
from sqlalchemy.orm.exc import StaleDataError

from fastdb.errors.exceptions import CommitOutcomeUnknown, ConnectionRefused, FastdbError
from fastdb.errors.kinds import (
    MYSQL_ERRORS,
    SQLITE_CODES,
    SQLSTATE_CLASSES,
    SQLSTATES,
    ErrorKind,
)

_MYSQL_DRIVERS = frozenset({"aiomysql", "asyncmy", "pymysql"})

# Where there is no code: asyncpg lets errors of the system through, and drivers of SQLite and
# PostgreSQL refuse some values before the database sees them.
_UNREACHABLE = (ConnectionError, TimeoutError, socket.gaierror)
_UNUSABLE = (OverflowError, UnicodeError)


def classify(error: BaseException) -> ErrorKind:
    """Return what an exception that came out of a database call means.

    SQLAlchemy's exceptions and the drivers' own are looked into, and what caused them, until a code
    is found: SQLSTATE of PostgreSQL, MySQL's error number, SQLite's extended result code. The text
    of a message is never looked at.

    Returns:
        The kind; `ErrorKind.OTHER` where there is none, and for fastdb's own errors that tell of a
        mistake in the program.
    """
    chain = list(_chain(error))
    for each in chain:
        kind = _by_type(each) or _by_code(each)
        if kind is not None:
            return kind
    if any(getattr(each, "connection_invalidated", False) for each in chain):
        return ErrorKind.DISCONNECTED
    for each in chain:
        kind = _without_code(each)
        if kind is not None:
            return kind
    return ErrorKind.OTHER


def constraint_name(error: BaseException) -> str | None:
    """Return the name of the constraint that was violated.

    PostgreSQL's drivers tell it. Those of MySQL and SQLite have it in the text of the message
    only, among the user's values: None.
    """
    for each in _chain(error):
        told = getattr(each, "diag", each)
        name = getattr(told, "constraint_name", None)
        if isinstance(name, str):
            return name
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """List an exception, the driver's inside it, and what has caused them."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, exc.StatementError):
            waiting.append(each.orig)
        waiting.append(each.__cause__)


def _by_type(error: BaseException) -> ErrorKind | None:
    match error:
        case CommitOutcomeUnknown():
            return ErrorKind.DISCONNECTED
        case ConnectionRefused():
            return ErrorKind.UNAVAILABLE
        case FastdbError():
            return ErrorKind.OTHER  # whatever has caused it: the program is to be mended
        case StaleDataError():
            return ErrorKind.SERIALIZATION  # a version column: the row was changed meanwhile
        case exc.TimeoutError():
            return ErrorKind.POOL_EXHAUSTED
    return None


def _by_code(error: BaseException) -> ErrorKind | None:
    if type(error).__module__.partition(".")[0] in _MYSQL_DRIVERS:
        return MYSQL_ERRORS.get(error.args[0]) if error.args else None
    state: Any = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(state, str):
        return SQLSTATES.get(state) or SQLSTATE_CLASSES.get(state[:2])
    code: Any = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return SQLITE_CODES.get(code) or SQLITE_CODES.get(code & 0xFF)
    return None


def _without_code(error: BaseException) -> ErrorKind | None:
    if isinstance(error, _UNREACHABLE):
        return ErrorKind.UNAVAILABLE
    if isinstance(error, _UNUSABLE):
        return ErrorKind.BAD_VALUE
    if isinstance(error, exc.StatementError):
        return None  # what is inside says more
    # The names that every driver has for its exceptions (PEP 249).
    names = {each.__name__ for each in type(error).__mro__}
    if "DataError" in names:
        return ErrorKind.BAD_VALUE
    state = getattr(error, "sqlstate", getattr(error, "pgcode", "none"))
    if "OperationalError" in names and state is None:
        return ErrorKind.UNAVAILABLE  # libpq gives no code for a connection that failed
    return None
