"""The kinds of database errors, and the codes of each database that mean them."""

import sqlite3
from enum import StrEnum


class ErrorKind(StrEnum):
    """What a database error means for the application, whichever driver has raised it."""

    UNIQUE = "unique"
    """A row with this key is there already; or PostgreSQL's exclusion constraint was violated."""
    FOREIGN_KEY = "foreign_key"
    """The row that is referred to is missing, or is still referred to."""
    NOT_NULL = "not_null"
    """A column that needs a value got none."""
    CHECK = "check"
    """A CHECK constraint was violated."""
    BAD_VALUE = "bad_value"
    """The database takes no such value: too long, too large, not of its type, no column's name."""
    DEADLOCK = "deadlock"
    """Transactions waited for each other, and this one was chosen to be rolled back."""
    SERIALIZATION = "serialization"
    """Another transaction has changed what this one has read, so that it has to begin anew."""
    STALE_PLAN = "stale_plan"
    """A table has changed since PostgreSQL prepared the statement: the next attempt will do."""
    LOCK_TIMEOUT = "lock_timeout"
    """A lock was not free in time."""
    STATEMENT_TIMEOUT = "statement_timeout"
    """A statement was interrupted, by a time limit or by an administrator."""
    READ_ONLY = "read_only"
    """The session, the transaction or the server takes no writes."""
    DISCONNECTED = "disconnected"
    """The connection was lost. CommitOutcomeUnknown, too, is of this kind."""
    UNAVAILABLE = "unavailable"
    """The database cannot be reached, refuses to be connected to, or has no room left."""
    TOO_MANY_CONNECTIONS = "too_many_connections"
    """The server takes no more connections."""
    POOL_EXHAUSTED = "pool_exhausted"
    """No connection of the pool was free in time."""
    OTHER = "other"
    """None of these: a mistake in the statement, or no error of a database at all."""


_K = ErrorKind

# https://www.postgresql.org/docs/current/errcodes-appendix.html
SQLSTATES = {
    "23505": _K.UNIQUE,
    "23P01": _K.UNIQUE,
    "23503": _K.FOREIGN_KEY,
    "23001": _K.FOREIGN_KEY,
    "23502": _K.NOT_NULL,
    "23514": _K.CHECK,
    "40P01": _K.DEADLOCK,
    "40001": _K.SERIALIZATION,
    "55P03": _K.LOCK_TIMEOUT,
    "57014": _K.STATEMENT_TIMEOUT,
    "25P04": _K.STATEMENT_TIMEOUT,
    "25006": _K.READ_ONLY,
    "08000": _K.DISCONNECTED,
    "08003": _K.DISCONNECTED,
    "08006": _K.DISCONNECTED,
    "25P03": _K.DISCONNECTED,
    "57P01": _K.DISCONNECTED,
    "57P02": _K.DISCONNECTED,
    "57P05": _K.DISCONNECTED,
    "08001": _K.UNAVAILABLE,
    "08004": _K.UNAVAILABLE,
    "3D000": _K.UNAVAILABLE,
    "57P03": _K.UNAVAILABLE,
    "57P04": _K.UNAVAILABLE,
    "53300": _K.TOO_MANY_CONNECTIONS,
}

SQLSTATE_CLASSES = {
    "22": _K.BAD_VALUE,  # data exception
    "28": _K.UNAVAILABLE,  # invalid authorization specification
    "53": _K.UNAVAILABLE,  # insufficient resources
}

# https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html, the client's own in
# https://dev.mysql.com/doc/mysql-errors/8.4/en/client-error-reference.html, and MariaDB's in
# https://mariadb.com/docs/server/reference/error-codes. SQLSTATE says less: 23000 for most.
MYSQL_ERRORS = {
    number: kind
    for kind, numbers in {
        _K.UNIQUE: (1022, 1062, 1169, 1586, 1859),
        _K.FOREIGN_KEY: (1216, 1217, 1451, 1452, 1557, 1761, 1762),
        _K.NOT_NULL: (1048, 1364, 1566),
        _K.CHECK: (3819, 4025),
        _K.BAD_VALUE: (
            1153, 1264, 1265, 1292, 1300, 1365, 1366, 1367, 1406, 1411, 1416, 1441, 1690, 3140,
            3141, 3157, 3988, 4038,
        ),
        _K.DEADLOCK: (1213, 1614),
        _K.SERIALIZATION: (1020,),
        _K.LOCK_TIMEOUT: (1205, 3572),
        _K.STATEMENT_TIMEOUT: (1317, 1969, 3024),
        _K.READ_ONLY: (1290, 1792, 1836),
        _K.DISCONNECTED: (1053, 1158, 1159, 1160, 1161, 1927, 2006, 2013, 2055, 4031),
        _K.UNAVAILABLE: (
            1021, 1037, 1041, 1044, 1045, 1049, 1114, 1129, 1130, 1251, 1698, 2002, 2003, 2005,
            2059, 2061,
        ),
        _K.TOO_MANY_CONNECTIONS: (1040, 1203, 1226),
    }.items()
    for number in numbers
}  # fmt: skip

# https://www.sqlite.org/rescode.html: extended codes first, then the primary ones they belong to.
SQLITE_CODES = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: _K.UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: _K.UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_ROWID: _K.UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: _K.FOREIGN_KEY,
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: _K.NOT_NULL,
    sqlite3.SQLITE_CONSTRAINT_CHECK: _K.CHECK,
    3091: _K.BAD_VALUE,  # SQLITE_CONSTRAINT_DATATYPE, of STRICT tables
    sqlite3.SQLITE_BUSY_SNAPSHOT: _K.SERIALIZATION,
    sqlite3.SQLITE_BUSY: _K.LOCK_TIMEOUT,
    sqlite3.SQLITE_LOCKED: _K.LOCK_TIMEOUT,
    sqlite3.SQLITE_INTERRUPT: _K.STATEMENT_TIMEOUT,
    sqlite3.SQLITE_READONLY: _K.READ_ONLY,
    sqlite3.SQLITE_TOOBIG: _K.BAD_VALUE,
    sqlite3.SQLITE_MISMATCH: _K.BAD_VALUE,
    sqlite3.SQLITE_CANTOPEN: _K.UNAVAILABLE,
    sqlite3.SQLITE_CORRUPT: _K.UNAVAILABLE,
    sqlite3.SQLITE_FULL: _K.UNAVAILABLE,
    sqlite3.SQLITE_IOERR: _K.UNAVAILABLE,
    sqlite3.SQLITE_NOMEM: _K.UNAVAILABLE,
    sqlite3.SQLITE_NOTADB: _K.UNAVAILABLE,
}
