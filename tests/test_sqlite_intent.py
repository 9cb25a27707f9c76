"""What a statement asks for, by its text: no database."""

import pytest

from fastdb.sqlite.intent import begin_for, is_begin, is_read, is_write, may_be_read, only_begins

WRITES = (
    "INSERT INTO hero (name) VALUES ('a')",
    "  update hero set name = 'b'",
    "DELETE FROM hero",
    "REPLACE INTO hero (name) VALUES ('a')",
    "CREATE TABLE team (id INTEGER)",
    "/* from a report */ INSERT INTO hero (name) VALUES ('a')",
    "-- a note\n/* and\nanother */\n\tUPDATE hero SET name = 'c'",
    "WITH one AS (SELECT 1) INSERT INTO hero (name) SELECT * FROM one",
    "BEGIN IMMEDIATE",
    "begin  exclusive",
)
READS = (
    "SELECT 1",
    "\nselect name from hero",
    "VALUES (1)",
    "/* INSERT */ SELECT 1",
    "--\nSELECT 1",
)
NEITHER = (
    "PRAGMA user_version",
    "SAVEPOINT one",
    "BEGIN",
    "BEGIN DEFERRED",
    "",
    "/* INSERT",
    "-- INSERT",
    "inserted",
)


@pytest.mark.parametrize("statement", WRITES)
def test_a_write_takes_the_lock(statement: str) -> None:
    """Whatever the transaction is for, it begins immediate where it begins with a write."""
    assert is_write(statement)
    assert not is_read(statement)
    assert begin_for(statement, "deferred") == "BEGIN IMMEDIATE"


@pytest.mark.parametrize("statement", READS)
def test_a_read_takes_no_lock(statement: str) -> None:
    """Unless the transaction means to write later."""
    assert is_read(statement)
    assert may_be_read(statement)
    assert not is_write(statement)
    assert begin_for(statement, "deferred") == "BEGIN DEFERRED"
    assert begin_for(statement, "immediate") == "BEGIN IMMEDIATE"


@pytest.mark.parametrize("statement", NEITHER)
def test_what_is_not_known_is_neither(statement: str) -> None:
    """It takes no lock by itself, and its transaction is ended in the connection's thread."""
    assert not is_write(statement)
    assert not is_read(statement)


def test_a_common_table_expression_may_read() -> None:
    """Its text tells; a word in a string is taken for a write, which does no harm."""
    assert may_be_read("WITH one AS (SELECT 1) SELECT * FROM one")
    assert not is_write("WITH one AS (SELECT 1) SELECT * FROM one")
    assert is_write("WITH one AS (SELECT 'delete') SELECT * FROM one")


def test_what_only_begins_leaves_the_file_unread() -> None:
    """The user's own BEGIN, and a savepoint."""
    assert is_begin("/* ours */ BEGIN")
    assert not is_begin("SAVEPOINT one")
    assert only_begins("SAVEPOINT one")
    assert not only_begins("RELEASE SAVEPOINT one")
