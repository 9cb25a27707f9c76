"""What is compared: each candidate is a small file that gives an app.

To add one, write a function that takes the path of the database file and returns a FastAPI app
with the routes of `by_hand`, and list it below. The app's lifespan closes what it opened.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from fastapi import FastAPI

from fastdb import ReadSessionDep, SQLiteOptions
from sqlite.candidates import (
    by_hand,
    by_hand_tuned,
    fastdb_session,
    no_database,
    raw_aiosqlite,
    sync_inline,
    sync_threads,
)

BASELINE = "by hand"
FLOOR = "sync inline"

CANDIDATES: dict[str, Callable[[Path], FastAPI]] = {
    "no database": no_database.make_app,
    "raw aiosqlite": raw_aiosqlite.make_app,
    FLOOR: sync_inline.make_app,
    "sync threads": sync_threads.make_app,
    BASELINE: by_hand.make_app,
    "by hand, tuned": by_hand_tuned.make_app,
    "fastdb": fastdb_session.make_app,
    "fastdb, ReadSessionDep": partial(fastdb_session.make_app, read_dep=ReadSessionDep),
    "fastdb, no inline reads": partial(
        fastdb_session.make_app, sqlite=SQLiteOptions(inline_reads=False)
    ),
    "fastdb, not accelerated": partial(
        fastdb_session.make_app, sqlite=SQLiteOptions(accelerate=False)
    ),
}

# What they write with is another candidate's.
READERS = frozenset({"fastdb, ReadSessionDep"})
