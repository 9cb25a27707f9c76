"""Compares two reports of one suite: what passes with SQLAlchemy's dialect must with ours."""

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

PASSED, SKIPPED, FAILED = "passed", "skipped", "failed"
_OUTCOMES = (PASSED, SKIPPED, FAILED)  # the worst is last

Outcomes = Mapping[str, str]


def read_report(path: Path, driver: str) -> Outcomes:
    """Return the outcome of each test of a JUnit report, by a name without the driver's."""
    outcomes: dict[str, str] = {}
    for case in ET.parse(path).iter("testcase"):  # noqa: S314 - pytest has just written it
        group = case.get("classname", "").replace(f"+{driver}_", "_")
        name = f"{group}::{case.get('name')}"
        # One that fails in its teardown, too, is there twice.
        outcomes[name] = max(_outcome(case), outcomes.get(name, PASSED), key=_OUTCOMES.index)
    return outcomes


def _outcome(case: ET.Element) -> str:
    tags = {child.tag for child in case}
    if tags & {"failure", "error"}:
        return FAILED
    return SKIPPED if "skipped" in tags else PASSED


def find_regressions(theirs: Outcomes, ours: Outcomes) -> list[str]:
    """Return what our dialect does worse, one line for each test; what theirs fails is not ours."""
    if PASSED not in theirs.values():
        return ["nothing passed on SQLAlchemy's own dialect: there is nothing to compare with"]
    return [
        f"{name}: {theirs.get(name, 'not run')} there, {ours.get(name, 'not run')} here"
        for name in sorted(theirs.keys() | ours.keys())
        if _is_worse(theirs.get(name), ours.get(name))
    ]


def _is_worse(theirs: str | None, ours: str | None) -> bool:
    if theirs == PASSED:
        return ours != PASSED
    return ours == FAILED and theirs != FAILED


def find_common_failures(theirs: Outcomes, ours: Outcomes) -> list[str]:
    """Return the names of the tests that fail on both, which is SQLAlchemy's affair."""
    return sorted(name for name in theirs if theirs[name] == ours.get(name) == FAILED)


def summarize(outcomes: Outcomes) -> str:
    """Return how many tests passed, were skipped, failed: columns of a table."""
    count = Counter(outcomes.values())
    return "".join(f"{count[outcome]:>9}" for outcome in _OUTCOMES)
