"""What the blocks of all rounds say: medians, and ratios of blocks of the same round."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from load import Block

from sqlite.candidates import BASELINE, FLOOR


@dataclass(frozen=True, slots=True)
class Result:
    """One candidate under one load.

    Attributes:
        way: `asgi` or `uvicorn`.
        load: The workload and the number of clients.
        per_second: Requests.
        to_by_hand: Ratio of throughput to the session written by hand.
        to_floor: The same to synchronous SQLAlchemy on the event loop.
        p50_ms: Half of the requests were answered in that time.
        p99_to_by_hand: Ratio of 99th percentiles.
        stall_ms: The longest time that the loop was late, in the median round.
        lost: Increments that were acknowledged and are not in the file.
    """

    way: str
    load: str
    candidate: str
    rounds: int
    per_second: float
    to_by_hand: float
    to_floor: float
    p50_ms: float
    p99_ms: float
    p99_to_by_hand: float
    failures: int
    lost: int | None
    stall_ms: float | None


def compare(
    way: str, load: str, blocks: Mapping[str, Sequence[Block]], lost: Mapping[str, int]
) -> list[Result]:
    """Return what each candidate achieved, and how it relates to others in the same round."""
    results = []
    for name, mine in blocks.items():
        stalls = [block.stall for block in mine if block.stall is not None]
        results.append(
            Result(
                way,
                load,
                name,
                rounds=len(mine),
                per_second=median(block.per_second for block in mine),
                to_by_hand=_ratio(mine, blocks[BASELINE], _per_second),
                to_floor=_ratio(mine, blocks[FLOOR], _per_second),
                p50_ms=median(block.percentile(50) for block in mine) * 1000,
                p99_ms=median(block.percentile(99) for block in mine) * 1000,
                p99_to_by_hand=_ratio(mine, blocks[BASELINE], _p99),
                failures=sum(block.failures for block in mine),
                lost=lost.get(name),
                stall_ms=median(stalls) * 1000 if stalls else None,
            )
        )
    return results


def _ratio(
    mine: Sequence[Block], others: Sequence[Block], figure: Callable[[Block], float]
) -> float:
    return median(
        figure(a) / (figure(b) or float("nan")) for a, b in zip(mine, others, strict=True)
    )


def _per_second(block: Block) -> float:
    return block.per_second


def _p99(block: Block) -> float:
    return block.percentile(99)
