"""What the trials of all rounds say: medians, and ratios of trials of the same round."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from peers.worker import Trial

Figure = Callable[[Trial], float | None]


def per_second(trial: Trial) -> float:
    """Return the requests per second whose effect is there: what was lost does not count."""
    if not trial.lost or not trial.answered:
        return trial.per_second
    return trial.per_second * (trial.answered - trial.lost) / trial.answered


FIGURES: dict[str, Figure] = {
    "throughput": per_second,
    "cpu": lambda trial: trial.cpu_us,
    "p50": lambda trial: trial.p50_ms,
    "p99": lambda trial: trial.p99_ms,
}


def summarise(trials: Mapping[str, Sequence[Trial]], bases: Sequence[str]) -> dict[str, Any]:
    """Return what to write down of one load, by the variant's name.

    Args:
        trials: By the variant's name.
        bases: The variants to compare with: under "ratios", each figure is divided by theirs in
            the same round.
    """
    return {
        name: {
            "median": {figure: _median(mine, of) for figure, of in FIGURES.items()},
            "ratios": {
                base: {figure: ratio(mine, trials[base], of) for figure, of in FIGURES.items()}
                for base in bases
                if base in trials
            },
            "rounds": len(mine),
            "answered": sum(trial.answered for trial in mine),
            "failures": sum(trial.failures for trial in mine),
            "errors": _sum(trial.errors for trial in mine),
            "lost": _total(trial.lost for trial in mine),
            "longest_ms": max((trial.longest_ms or 0 for trial in mine), default=None),
        }
        for name, mine in trials.items()
    }


def ratio(
    mine: Sequence[Trial], others: Sequence[Trial], figure: Figure
) -> dict[str, float] | None:
    """Return the median of the ratios within rounds and the middle half around it, if any."""
    ratios = []
    for a, b in zip(mine, others, strict=False):
        above, below = figure(a), figure(b)
        if above is not None and below:
            ratios.append(above / below)
    return spread(ratios)


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return a median and the middle half around it."""
    if not values:
        return None
    if len(values) == 1:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, _, high = quantiles(values, n=4, method="inclusive")
    return {"median": median(values), "low": low, "high": high}


def _median(trials: Sequence[Trial], figure: Figure) -> float | None:
    values = [value for trial in trials if (value := figure(trial)) is not None]
    return median(values) if values else None


def _sum(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, number in each.items():
            total[name] = total.get(name, 0) + number
    return total


def _total(numbers: Any) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
