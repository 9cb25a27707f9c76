"""What is compared: each candidate is a small file that gives an app.

To add one, write `candidates/<name>.py` with a function `make_app(url)` that returns a FastAPI
app with routes as in `by_hand`, and list it below. The app's lifespan closes what it opened. A
workload whose route the app does not have is left out for it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI

from candidates import (
    by_hand,
    by_hand_committing,
    fastdb_read_session,
    fastdb_session,
    no_session,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to give an endpoint its session.

    Attributes:
        name: As in the report.
        make_app: Takes the URL of the database, with the driver's name; returns the app.
        backends: The databases it is for (`sqlite`, `postgresql`, `mysql`).
    """

    name: str
    make_app: Callable[[str], FastAPI]
    backends: frozenset[str] = frozenset({"sqlite", "postgresql", "mysql"})


BASELINE = Candidate("by hand", by_hand.make_app)

CANDIDATES = (
    BASELINE,
    Candidate("by hand, tuned", by_hand.make_tuned_app, frozenset({"sqlite"})),
    Candidate("by hand, commits", by_hand_committing.make_app),
    Candidate("fastdb SessionDep", fastdb_session.make_app),
    Candidate("fastdb ReadSessionDep", fastdb_read_session.make_app),
    Candidate("no session at all", no_session.make_app),
)
