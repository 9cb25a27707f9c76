"""Which candidates are compared on a database, each as it comes, tuned, or both."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from peers.candidates import BASELINE, CANDIDATES, Candidate, Kind
from peers.places import Place

NOT_INSTALLED = "FASTDB_BENCHMARK_NOT_INSTALLED"
"""The variable with the path of a JSON file: what the installer said, by the package's name."""


@dataclass(frozen=True)
class Variant:
    """A candidate, configured in one of its ways."""

    candidate: str
    tuned: bool

    @property
    def name(self) -> str:
        both = len(CANDIDATES[self.candidate].tunings) > 1
        return f"{self.candidate}, tuned" if both and self.tuned else self.candidate

    @property
    def kind(self) -> Kind:
        return CANDIDATES[self.candidate].kind

    def place(self, url: str) -> Place:
        pool_size = CANDIDATES[self.candidate].pool_size
        return Place(url, self.tuned, pool_size) if pool_size else Place(url, self.tuned)


def variants(
    database: str, candidates: Iterable[str], *, limits: bool = True, unguarded: bool = False
) -> tuple[list[Variant], dict[str, str]]:
    """Return what to measure; and those that are not installed here, with the reason.

    Args:
        database: The database.
        candidates: The names that were asked for; the baseline is there in any case.
        limits: Whether the limits are to be there as well.
        unguarded: Likewise for fastdb without its guards.
    """
    wanted = {*candidates, BASELINE}
    found: list[Variant] = []
    missing: dict[str, str] = {}
    for name, candidate in CANDIDATES.items():
        if name not in wanted or database not in candidate.databases:
            continue
        if candidate.kind == "limit" and not limits:
            continue
        if candidate.kind == "unguarded" and not unguarded:
            continue
        if candidate.version is None:
            missing[name] = _reason(candidate)
            continue
        found += [Variant(name, tuned) for tuned in candidate.tunings]
    return found, missing


def _reason(candidate: Candidate) -> str:
    path = os.environ.get(NOT_INSTALLED)
    told = json.loads(Path(path).read_text()) if path else {}
    reason = f"{candidate.package} is not installed"
    return f"{reason}: {told[candidate.package]}" if candidate.package in told else reason
