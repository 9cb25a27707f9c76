"""What an exception means, by the codes of the database: pure, for every driver."""

import socket
from collections.abc import Iterator
from typing import Any

from sqlalchemy import exc
from sqlalchemy.orm.exc import StaleDataError

from fastdb.errors.exceptions import (
    CommitOutcomeUnknown,
    ConnectionRefused,
    FastdbError,
    PoolExhausted,
)
from fastdb.errors.kinds import (
    MYSQL_ERRORS,
    SQLITE_CODES,
    SQLSTATE_CLASSES,
    SQLSTATES,
    ErrorKind,
)
from fastdb.errors.values import (
    is_mysql,
    is_nested_too_deeply,
    names_no_column,
    owes_to_a_value,
)

# The first says only that a feature is not supported; the second, which function of the server's
# has refused: https://www.postgresql.org/docs/current/protocol-error-fields.html
_STALE_PLAN = ("0A000", "RevalidateCachedQuery")

# asyncpg's own, which have no code: of composite types, and where none of several hosts is such as
# `target_session_attrs` asks for, as during a fail-over.
_OF_ASYNCPG = {
    "OutdatedSchemaCacheError": ErrorKind.STALE_PLAN,
    "TargetServerAttributeNotMatched": ErrorKind.UNAVAILABLE,
}

# Where there is no code: asyncpg lets errors of the system through, and drivers of SQLite and
# PostgreSQL refuse some values before the database sees them.
_UNREACHABLE = (ConnectionError, TimeoutError, socket.gaierror)
_UNUSABLE = (OverflowError, UnicodeEncodeError)


def classify(error: BaseException) -> ErrorKind:
    """Return what an exception that came out of a database call means.

    SQLAlchemy's exceptions and the drivers' own are looked into, and what caused them, until a code
    is found: SQLSTATE of PostgreSQL, MySQL's error number, SQLite's extended result code. Where the
    code is that of wrong SQL, the statement's parameters are looked at, for values that no SQL can
    be written for. The text of a message is never looked at.

    Returns:
        The kind; `ErrorKind.OTHER` where there is none, and for fastdb's own errors that tell of a
        mistake in the program.
    """
    chain = list(causes(error))
    for each in chain:
        kind = _by_type(each) or _by_code(each)
        if kind is not None:
            return kind
    if any(getattr(each, "connection_invalidated", False) for each in chain):
        return ErrorKind.DISCONNECTED
    # What is there already and cannot be read is not the caller's value.
    reads = any(isinstance(each, exc.StatementError) and each.statement is None for each in chain)
    for each in chain:
        kind = _without_code(each)
        if kind is not None and not (reads and kind is ErrorKind.BAD_VALUE):
            return kind
    return ErrorKind.OTHER


def constraint_name(error: BaseException) -> str | None:
    """Return the name of the constraint that was violated.

    PostgreSQL's drivers tell it. Those of MySQL and SQLite have it in the text of the message
    only, among the user's values: None.
    """
    for each in causes(error):
        told = getattr(each, "diag", each)
        name = getattr(told, "constraint_name", None)
        if isinstance(name, str):
            return name
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, the driver's inside it, and what has caused them, each once."""
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
        case PoolExhausted():
            return ErrorKind.POOL_EXHAUSTED
        case FastdbError():
            return ErrorKind.OTHER  # whatever has caused it: the program is to be mended
        case StaleDataError():
            return ErrorKind.SERIALIZATION  # a version column: the row was changed meanwhile
        case exc.TimeoutError():
            return ErrorKind.POOL_EXHAUSTED
    return _OF_ASYNCPG.get(type(error).__name__)


def _by_code(error: BaseException) -> ErrorKind | None:
    if is_mysql(error):
        return MYSQL_ERRORS.get(error.args[0]) if error.args else None
    state: Any = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(state, str):
        if (state, _source_function(error)) == _STALE_PLAN:
            return ErrorKind.STALE_PLAN
        return SQLSTATES.get(state) or SQLSTATE_CLASSES.get(state[:2])
    code: Any = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return SQLITE_CODES.get(code) or SQLITE_CODES.get(code & 0xFF)
    return None


def _source_function(error: BaseException) -> Any:
    """Return which function of PostgreSQL's own code has raised an error: asyncpg's, psycopg's."""
    told = getattr(error, "diag", None)
    return getattr(error, "server_source_function", getattr(told, "source_function", None))


def _without_code(error: BaseException) -> ErrorKind | None:
    if isinstance(error, _UNREACHABLE):
        return ErrorKind.UNAVAILABLE
    if isinstance(error, _UNUSABLE) or is_nested_too_deeply(error) or names_no_column(error):
        return ErrorKind.BAD_VALUE
    if isinstance(error, exc.StatementError):  # if nothing, what is inside says more
        return ErrorKind.BAD_VALUE if owes_to_a_value(error) else None
    # The names that every driver has for its exceptions (PEP 249).
    names = {each.__name__ for each in type(error).__mro__}
    if "DataError" in names:
        return ErrorKind.BAD_VALUE
    state = getattr(error, "sqlstate", getattr(error, "pgcode", "none"))
    if "OperationalError" in names and state is None:
        return ErrorKind.UNAVAILABLE  # libpq gives no code for a connection that failed
    return None
