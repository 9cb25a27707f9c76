"""What the figures say: medians, and ratios with their spread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Self

from measure import Block


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the middle half of the rounds around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        low, _, high = quantiles(values, n=4)
        return cls(median(values), low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} .. {self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Result:
    """One candidate in one workload on one database."""

    backend: str
    workload: str
    candidate: str
    rounds: int
    wall_us: float
    cpu_us: float
    wall_ratio: Spread
    cpu_ratio: Spread
    round_trips: int | None  # None where there is no network


def compare(
    backend: str,
    workload: str,
    blocks: Mapping[str, Sequence[Block]],
    *,
    baseline: str,
    round_trips: Mapping[tuple[str, str], int],
) -> list[Result]:
    """Return what each candidate took, and its ratio to the baseline in the same round."""
    base = blocks[baseline]
    return [
        Result(
            backend,
            workload,
            name,
            rounds=len(mine),
            wall_us=median(block.wall_us for block in mine),
            cpu_us=median(block.cpu_us for block in mine),
            wall_ratio=Spread.of([a.wall_us / b.wall_us for a, b in zip(mine, base, strict=True)]),
            cpu_ratio=Spread.of([a.cpu_us / b.cpu_us for a, b in zip(mine, base, strict=True)]),
            round_trips=round_trips.get((workload, name)),
        )
        for name, mine in blocks.items()
    ]
