"""The `on_commit` callbacks of a test, kept for it to look at."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

Callback = Callable[[], object]


@dataclass(slots=True)
class Captured:
    """What was registered and whose transaction was committed.

    Attributes:
        callbacks: In the order of their COMMITs.
        runs: Whether they run as well.
    """

    runs: bool
    callbacks: list[Callback] = field(default_factory=list)


# Each request, task and thread that somebody starts has the context of who has started it.
capturing: ContextVar[Captured | None] = ContextVar("fastdb_captured_on_commit", default=None)


def due(callbacks: list[Callback]) -> list[Callback]:
    """Return those of the callbacks that are to run now."""
    captured = capturing.get()
    if captured is None:
        return callbacks
    captured.callbacks += callbacks
    return callbacks if captured.runs else []
