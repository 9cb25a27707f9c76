"""What a command hands to the `run()` of env.py, in `Config.attributes`."""

from dataclasses import dataclass, field
from threading import Event
from typing import Any

from sqlalchemy import MetaData

from fastdb.database import Database

ATTRIBUTE = "fastdb"
"""The key in `Config.attributes`."""


@dataclass(slots=True)
class Question:
    """Asks env.py how it calls `run()`; nothing is done then.

    Attributes:
        target_metadata: The tables of the models.
        options: Alembic's options, such as `version_table`; None while nobody has answered.
    """

    target_metadata: MetaData | Any = None
    options: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """Says on which database env.py is to work, whichever it names itself.

    Attributes:
        db: The database.
        wait: Seconds to wait for another worker that migrates; None for what env.py says.
        stop: Set when no further revision is to begin.
    """

    db: Database
    wait: float | None = None
    stop: Event = field(default_factory=Event)


class Stopped(Exception):
    """No further revision was begun, as the order was to stop."""
