"""What a part of the comparison is: a module that measures one thing and describes what it found.

    NAME = "overload"
    TITLE = "Overload"

    def run(options: Options) -> dict[str, Any]: ...     # becomes docs/benchmarks/overload.json
    def render(found: Mapping[str, Any]) -> str: ...     # Markdown below the title, from the JSON
    def charts(found: Mapping[str, Any]) -> list[Chart]: ...    # may be absent
    def goals(found: Mapping[str, Any]) -> list[Goal]: ...      # may be absent

`charts` and `render` are for a page of the part's own, `goals` for the first page.

`run` returns what JSON can hold. The runner adds under "run" what every part says: the machine,
the versions, the command and the date. `render` gets the whole, as read from the file, so that a
page can be written from a run of last week.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from peers.databases import Databases


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        rounds: How often the candidates take turns.
        seconds: Of one candidate's turn.
        databases: The databases that are open, and new places on them.
        candidates: Names in CANDIDATES; a part may leave some out.
    """

    rounds: int
    seconds: float
    databases: Databases
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """Bars of ratios, one group for each load; drawn for light and for dark pages.

    Attributes:
        name: Of the file, without a suffix.
        title: Above it.
        axis: What the ratios are of.
        groups: The labels of the groups.
        bars: The ratio of each candidate in each group; None leaves a gap.
        spreads: Likewise the middle half, low and high.
    """

    name: str
    title: str
    axis: str
    groups: list[str]
    bars: dict[str, list[float | None]]
    spreads: dict[str, list[tuple[float, float] | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Goal:
    """A target of the project, and what was measured.

    Attributes:
        what: What is to be so, such as `SQLite, read@1: throughput ÷ by hand`.
        wanted: Such as `≥ 2.5`.
        measured: The figure with its spread.
        met: None where it was not measured.
    """

    what: str
    wanted: str
    measured: str
    met: bool | None


class Part(Protocol):
    """A module as above."""

    NAME: str
    TITLE: str

    def run(self, options: Options) -> dict[str, Any]: ...

    def render(self, found: Mapping[str, Any]) -> str: ...
