"""What a transaction is begun with: pure, from what it is for and from its first statement.

Python's `sqlite3` begins before a write only: a second SELECT sees other commits, savepoints and
DDL escape the rollback, and a read-modify-write loses updates. Here the driver is told to begin
nothing (`isolation_level=None`) and BEGIN is sent with the first statement: IMMEDIATE where the
transaction means to write, so that it waits for other writers before it reads; DEFERRED where it
means to read.
"""

import re
import sqlite3
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from fastdb.options import BeginIntent

BEGIN_OPTION = "fastdb_begin"
"""Execution option of an engine or connection: "immediate" or "deferred"."""

Begin = Literal["BEGIN IMMEDIATE", "BEGIN DEFERRED"]


class Terms(NamedTuple):
    """On what terms a statement runs.

    Attributes:
        intent: Of a transaction that it begins.
        statement_seconds: How long it may run; None for no limit.
        lock_seconds: How long it may wait for a lock; None for as long as its connection says.
    """

    intent: BeginIntent = "deferred"
    statement_seconds: float | None = None
    lock_seconds: float | None = None


def _beginning(words: str) -> re.Pattern[str]:
    """Match statements that begin with one of these words, after comments."""
    return re.compile(
        rf"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*(?:{words})\b", re.IGNORECASE | re.DOTALL
    )


# SQLite's own words for what writes, PRAGMA, ATTACH and the like left out: they do so rarely, and
# what is missed waits as everything would without this.
_WRITES = _beginning(
    r"INSERT|UPDATE|DELETE|REPLACE|CREATE|DROP|ALTER|REINDEX|ANALYZE|BEGIN\s+(?:IMMEDIATE|EXCLUSIVE)"
)
_BEGINS = _beginning("BEGIN")
_READS = _beginning("SELECT|VALUES")
_ONLY_BEGINS = _beginning("BEGIN|SAVEPOINT")
_WITH = _beginning("WITH")
_WRITES_SOMEWHERE = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)


# An application has few statements, and asks often.
_remembered = lru_cache(maxsize=1024)


@_remembered
def is_write(statement: str) -> bool:
    """Return whether the statement needs the write lock, as far as its text tells."""
    if _WITH.match(statement):
        # A word in a string or a name takes the lock for nothing, which does no harm.
        return _WRITES_SOMEWHERE.search(statement) is not None
    return _WRITES.match(statement) is not None


@_remembered
def is_read(statement: str) -> bool:
    """Return whether the statement certainly leaves the database as it is."""
    return _READS.match(statement) is not None


@_remembered
def may_be_read(statement: str) -> bool:
    """Return whether the statement can be a read; EXPLAIN has no effect on these."""
    return is_read(statement) or _WITH.match(statement) is not None


@_remembered
def is_begin(statement: str) -> bool:
    """Return whether this is the user's own BEGIN."""
    return _BEGINS.match(statement) is not None


@_remembered
def only_begins(statement: str) -> bool:
    """Return whether the statement leaves the file unread, so that its state is still open."""
    return _ONLY_BEGINS.match(statement) is not None


def begin_for(statement: str, intent: BeginIntent) -> Begin:
    """Return what to send before the first statement of a transaction."""
    if intent == "immediate" or is_write(statement):
        return "BEGIN IMMEDIATE"
    return "BEGIN DEFERRED"


def rolled_back_by_sqlite() -> sqlite3.OperationalError:
    """Return the error for a transaction that SQLite itself has ended, and nobody else.

    An interrupted write makes it do so, a full disk, ON CONFLICT ROLLBACK. What comes next would
    be committed statement by statement, and what came before is gone.
    """
    return sqlite3.OperationalError(
        "SQLite has rolled back this transaction because of an earlier error: roll back, and begin"
        " again"
    )


def intent_of(compiled: Any, options: Any, default: BeginIntent) -> BeginIntent:
    """Return what a transaction is for: what its first statement says, or its options say."""
    if getattr(compiled, "takes_write_lock", False):
        return "immediate"
    intent: BeginIntent = options.get(BEGIN_OPTION, default)
    return intent
