"""Targets that are ratios of two candidates, looked up in what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import ge, le
from typing import Any, Literal

from peers.parts import Goal

_TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}


@dataclass(frozen=True)
class Target:
    """What fastdb is to achieve, as it comes and tuned like the others.

    Attributes:
        load: Such as `read@1`.
        to: A hand-written session, or the best peer, each configured as fastdb is.
        wanted: The ratio, at least or at most.
        sign: Which of both.
        figure: Of FIGURES.
    """

    load: str
    to: Literal["by hand", "best peer"]
    wanted: float
    sign: Literal["≥", "≤"] = "≥"
    figure: str = "throughput"

    def goals(self, database: str, measured: Mapping[str, Any], where: str = "") -> list[Goal]:
        """Return a goal for each way that fastdb was configured.

        Args:
            database: Its name.
            measured: What `measure` has found there.
            where: More words about the circumstances.
        """
        load = measured["loads"].get(self.load)
        return [self._goal(database, where, load, tuned) for tuned in ("", ", tuned")]

    def _goal(self, database: str, where: str, load: Mapping[str, Any] | None, tuned: str) -> Goal:
        ratio, other = self._ratio(load, tuned) if load else (None, self.to)
        figure = "" if self.figure == "throughput" else f"{self.figure} "
        what = f"{_TITLES[database]}{where}, {self.load}: {figure}fastdb{tuned} ÷ {other}"
        wanted = f"{self.sign} {self.wanted:g}"
        if not ratio:
            return Goal(what, wanted, "not measured", None)
        met = (ge if self.sign == "≥" else le)(ratio["median"], self.wanted)
        return Goal(what, wanted, text_of(ratio), met)

    def _ratio(self, load: Mapping[str, Any], tuned: str) -> tuple[Mapping[str, float] | None, str]:
        if self.to == "best peer":
            best = load["best peers"].get(f"fastdb{tuned}") or {"ratios": {}, "peer": self.to}
            return best["ratios"].get(self.figure), f"best peer ({best['peer']})"
        mine = load["candidates"].get(f"fastdb{tuned}")
        other = f"{self.to}{tuned}"
        return (mine["ratios"].get(other, {}).get(self.figure) if mine else None), other


def text_of(ratio: Mapping[str, float] | None) -> str:
    """Return a ratio with the middle half of its rounds."""
    if not ratio:
        return "-"
    digits = 2 if ratio["median"] < 100 else 0
    return " ".join(
        [
            f"{ratio['median']:.{digits}f}",
            f"({ratio['low']:.{digits}f} .. {ratio['high']:.{digits}f})",
        ]
    )
