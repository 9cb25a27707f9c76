"""What is compared: each candidate is a small module with a function `make_app(place)`.

To add one, write `candidates/<name>.py` and list it below. `make_app` returns a FastAPI app with
the routes of `by_hand`, written as the library's own documentation would; its lifespan closes what
it opened. Where there are engines, `app.state.engines()` returns them while the app is open, so
that the connections which were not given back can be counted.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from fastapi import FastAPI

from peers.places import Place

Kind = Literal["fastdb", "by hand", "peer", "limit"]
_ALL = ("sqlite", "postgresql", "mariadb")


@dataclass(frozen=True)
class Candidate:
    """One way to give an endpoint its session.

    Attributes:
        name: As in the report.
        module: In this package. It is imported when the app is made, and not before.
        kind: `limit` is what no library can be faster than, or the way not to go.
        package: The distribution to install.
        databases: Those that it serves.
        twice: Compared as it comes and tuned; else, only as it comes.
    """

    name: str
    module: str
    kind: Kind
    package: str
    databases: tuple[str, ...] = _ALL
    twice: bool = False

    @property
    def version(self) -> str | None:
        """Return the installed version; None where it is not installed."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    def make_app(self, place: Place) -> FastAPI:
        app: FastAPI = import_module(f"peers.candidates.{self.module}").make_app(place)
        return app


_LISTED = (
    Candidate("fastdb", "fastdb", "fastdb", "fastapi-fastdb", twice=True),
    Candidate("fastdb, SessionDep", "fastdb_session", "fastdb", "fastapi-fastdb"),
    Candidate("by hand", "by_hand", "by hand", "sqlalchemy", twice=True),
)

CANDIDATES = {candidate.name: candidate for candidate in _LISTED}
BASELINE = "by hand"
