"""Values that are refused by an error which has the code of a mistake in the program, or none.

What tells them apart is the statement that SQLAlchemy's exception holds, and its parameters:

- MySQL's drivers write parameters into the statement. SQL has no literal for NaN and infinity, so
  that they come out as names of columns, or the driver refuses them without a number; and LIMIT
  and OFFSET are followed by what the parser takes for no number of rows.
- PostgreSQL says of what is too long for an index, and of JSON that is nested too deeply, what it
  also says of functions that call themselves too often.
- SQLite refuses a long pattern of LIKE with the code that wrong SQL has.
- SQLAlchemy looks for a name in ORDER BY, given as a string, among the statement's columns.
- What is nested too deeply ends Python's encoder of JSON.
"""

import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from sqlalchemy import exc

_MYSQL_DRIVERS = frozenset({"aiomysql", "asyncmy", "pymysql"})

_UNKNOWN_COLUMN = 1054
_SYNTAX_ERROR = 1064
_ROW_COUNTS = range(2**64)

# https://www.sqlite.org/limits.html: 50000 bytes by default, some of which are wildcards that the
# statement adds to the parameter.
_LONG_PATTERN = 49_000


# https://www.postgresql.org/docs/current/errcodes-appendix.html: program limit exceeded, statement
# too complex. A key of an index may have a third of a page, about 2700 bytes.
_LIMITS_OF_POSTGRESQL = frozenset({"54000", "54001"})
_LONG_VALUE = 2000


def is_mysql(error: BaseException | None) -> bool:
    """Return whether an exception is one of MySQL's drivers."""
    return type(error).__module__.partition(".")[0] in _MYSQL_DRIVERS


def owes_to_a_value(error: exc.StatementError) -> bool:
    """Return whether a statement failed for one of its parameters, whatever the code says."""
    if is_mysql(error.orig):
        return _mysql_has_no_literal(error) or _mysql_has_no_such_row_count(error)
    if (
        getattr(error.orig, "sqlstate", getattr(error.orig, "pgcode", None))
        in _LIMITS_OF_POSTGRESQL
    ):
        return any(_is_long(value, _LONG_VALUE) for value in _values(error.params))
    if isinstance(error.orig, ValueError):  # float() of a signalling NaN, for SQLite
        return any(map(_is_not_finite, _values(error.params)))
    if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
        return _has(error, "LIKE") and any(
            _is_long(value, _LONG_PATTERN) for value in _values(error.params)
        )
    return False


def names_no_column(error: BaseException) -> bool:
    """Return whether a string in ORDER BY or GROUP BY is the name of none of the columns."""
    # It is looked up in a dict. The subclasses tell of SQL that a database does not have, and other
    # lookups of what the program itself has written.
    cause = error.__cause__
    if type(error) is not exc.CompileError or not isinstance(cause, KeyError):
        return False
    traceback = cause.__traceback__
    return traceback is not None and "label_reference" in traceback.tb_frame.f_code.co_name


def is_nested_too_deeply(error: BaseException) -> bool:
    """Return whether the encoder of JSON was ended by Python's limit of recursion."""
    if not isinstance(error, RecursionError):
        return False
    module, traceback = "", error.__traceback__
    while traceback is not None:
        module, traceback = str(traceback.tb_frame.f_globals.get("__name__")), traceback.tb_next
    return module.partition(".")[0] == "json"


def _mysql_has_no_literal(error: exc.StatementError) -> bool:
    number = _mysql_number(error.orig)
    if number is None and "ProgrammingError" not in {
        each.__name__ for each in type(error.orig).__mro__
    }:
        return False
    return number in {None, _UNKNOWN_COLUMN, _SYNTAX_ERROR} and any(
        map(_is_not_finite, _values(error.params))
    )


def _mysql_has_no_such_row_count(error: exc.StatementError) -> bool:
    return (
        _mysql_number(error.orig) == _SYNTAX_ERROR
        and _has(error, "LIMIT")
        and any(isinstance(each, int) and each not in _ROW_COUNTS for each in _values(error.params))
    )


def _mysql_number(error: BaseException | None) -> int | None:
    first = error.args[0] if error is not None and error.args else None
    return first if isinstance(first, int) else None


def _has(error: exc.StatementError, word: str) -> bool:
    return word in (error.statement or "").upper().split()


def _is_not_finite(value: Any) -> bool:
    if isinstance(value, Decimal):
        return not value.is_finite()
    return isinstance(value, float) and not math.isfinite(value)


def _is_long(value: Any, length: int) -> bool:
    return isinstance(value, str) and len(value.encode(errors="replace")) > length


def _values(parameters: Any) -> Iterator[Any]:
    """List the parameters: those of one execution or of many, by position or by name."""
    many = isinstance(parameters, list | tuple) and all(
        isinstance(each, Mapping | tuple) for each in parameters
    )
    for each in parameters if many else [parameters]:
        values: Iterable[Any] = each.values() if isinstance(each, Mapping) else each or ()
        yield from values
