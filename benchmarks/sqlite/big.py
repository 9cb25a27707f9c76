"""A table of a million rows, built where nobody measures."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

ROWS = 1_000_000

_MAKE = f"""
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = OFF;
    CREATE TABLE big (id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INTEGER NOT NULL);
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})
    INSERT INTO big SELECT n, 'the hero with the number ' || n, n * 7919 % 100 FROM numbers;
    CREATE TABLE growing (id INTEGER PRIMARY KEY, age INTEGER NOT NULL);
    CREATE TABLE blobs (id INTEGER PRIMARY KEY, content BLOB NOT NULL);
    INSERT INTO blobs VALUES (1, x'00'), (2, zeroblob(20000000));
    PRAGMA wal_checkpoint(TRUNCATE);
"""


def make_big_file(path: Path) -> None:
    """Make the table, some 60 MB, in a file that is all on the disk afterwards."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(_MAKE)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
