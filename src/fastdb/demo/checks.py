"""Judge what was found: pure, numbers in and verdicts out."""

from dataclasses import dataclass

from fastdb.demo.app import Summary
from fastdb.demo.plan import INCREMENT, ORPHAN, Answer


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in the tables.

    Args:
        summary: How much there is of everything.
        refused: Entries of requests that failed.
        orphans: Entries whose account is not there.
    """

    summary: Summary
    refused: int
    orphans: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the checks look at.

    Args:
        sent: Requests that were to be sent.
        answers: What the app has answered.
        rows_before: Rows that were there before those requests.
        over_http: What the app says that there is.
        through_twin: What is read from the tables themselves.
    """

    sent: int
    answers: list[Answer]
    rows_before: int
    over_http: Summary
    through_twin: Contents


@dataclass(frozen=True, slots=True)
class Check:
    """A statement that holds if what was found is what was expected."""

    statement: str
    expected: str
    found: str

    @property
    def holds(self) -> bool:
        """Whether it is so."""
        return self.expected == self.found


def judge(evidence: Evidence) -> list[Check]:
    """Make the statements of the report."""
    right = [answer for answer in evidence.answers if answer.is_right]
    orphans_sent = sum(answer.kind is ORPHAN for answer in evidence.answers)
    return [
        Check(
            "Every request got the answer it should get",
            expected=f"{evidence.sent}",
            found=f"{len(right)}",
        ),
        Check(
            "Increments acknowledged = final count",
            expected=f"{sum(answer.kind is INCREMENT for answer in right)}",
            found=f"{evidence.over_http.counted}",
        ),
        Check(
            "Rows acknowledged with a 201 are there",
            expected=f"{evidence.rows_before + sum(answer.kind.adds_row for answer in right)}",
            found=f"{evidence.over_http.accounts + evidence.over_http.entries}",
        ),
        Check(
            "Rows left by requests that failed",
            expected="0",
            found=f"{evidence.through_twin.refused}",
        ),
        Check(
            "Foreign keys: rows without parent refused",
            expected=f"{orphans_sent}",
            found=f"{sum(answer.kind is ORPHAN for answer in right)}",
        ),
        Check(
            "Foreign keys: rows without parent stored",
            expected="0",
            found=f"{evidence.through_twin.orphans}",
        ),
        Check(
            "The sync twin reads the same counts",
            expected=_figures(evidence.over_http),
            found=_figures(evidence.through_twin.summary),
        ),
    ]


def _figures(summary: Summary) -> str:
    return f"{summary.counted}, {summary.accounts}, {summary.entries}"
