"""The unit of work: a session that ends well, whatever happens to the one who uses it.

Every fastdb session is of a class made here from the user's own, so that committing, rolling
back and ending are the same for `db.session()`, for the dependencies and for the synchronous
twin.
"""

from fastdb.session.async_unit import AsyncUnitSession, async_unit_session_class
from fastdb.session.blocks import atomic, on_commit
from fastdb.session.capture import Captured, capturing
from fastdb.session.ending import (
    abandon,
    abandon_sync,
    complete,
    complete_sync,
    finish_reading,
    finish_reading_sync,
)
from fastdb.session.twin import TwinSession, twin_session_class
from fastdb.session.unit import SESSION_OPTIONS, UnitSession

__all__ = [
    "SESSION_OPTIONS",
    "AsyncUnitSession",
    "Captured",
    "TwinSession",
    "UnitSession",
    "abandon",
    "abandon_sync",
    "async_unit_session_class",
    "atomic",
    "capturing",
    "complete",
    "complete_sync",
    "finish_reading",
    "finish_reading_sync",
    "on_commit",
    "twin_session_class",
]
