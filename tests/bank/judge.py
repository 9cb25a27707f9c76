"""Whether the bank kept its word: what clients were told, beside what is in the books. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any


class Outcome(StrEnum):
    """What a client knows of its transfer."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"  # it is certainly not there
    UNKNOWN = "unknown"  # it is there, or it is not


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money that goes from one account to another; no two have the same id."""

    id: str
    source: int
    target: int
    amount: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client was told of its transfer.

    Attributes:
        transfer: What it had asked for.
        outcome: What it knows now.
        said: The status and the kind of error, or the exception that came instead.
        at: When, in seconds of a clock that only goes forward.
    """

    transfer: Transfer
    outcome: Outcome
    said: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Books:
    """What the bank has in its tables."""

    balances: Mapping[int, int]
    ledger: Sequence[Transfer]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong; nothing where all of it is empty or zero.

    Attributes:
        lost: Transfers that were acknowledged and are not in the ledger.
        doubled: Transfers that are in the ledger more than once.
        kept_though_refused: Transfers that were refused and are in the ledger.
        never_asked_for: Entries of the ledger that no client has asked for, in these words.
        wrong_balances: Accounts that do not hold what the ledger says they should.
        sum_changed_by: How much money there is more than in the beginning.
    """

    lost: Sequence[str] = ()
    doubled: Sequence[str] = ()
    kept_though_refused: Sequence[str] = ()
    never_asked_for: Sequence[str] = ()
    wrong_balances: Sequence[int] = ()
    sum_changed_by: int = 0


INNOCENT = Verdict()


def judge(opening: Mapping[int, int], answers: Iterable[Answer], books: Books) -> Verdict:
    """Compare what clients were told with the books.

    Args:
        opening: What each account held in the beginning.
        answers: One for each transfer that a client has sent.
        books: What is there in the end, when nothing is in flight any more.
    """
    by_id = {answer.transfer.id: answer for answer in answers}
    times = Counter(entry.id for entry in books.ledger)

    def of(outcome: Outcome) -> Iterable[str]:
        return (each for each, answer in by_id.items() if answer.outcome is outcome)

    should = balances_after(opening, books.ledger)
    return Verdict(
        lost=tuple(each for each in of(Outcome.ACKNOWLEDGED) if not times[each]),
        doubled=tuple(each for each, number in times.items() if number > 1),
        kept_though_refused=tuple(each for each in of(Outcome.REFUSED) if times[each]),
        never_asked_for=tuple(
            entry.id
            for entry in books.ledger
            if entry.id not in by_id or by_id[entry.id].transfer != entry
        ),
        wrong_balances=tuple(
            account
            for account in sorted({*should, *books.balances})
            if should.get(account) != books.balances.get(account)
        ),
        sum_changed_by=sum(books.balances.values()) - sum(opening.values()),
    )


def balances_after(opening: Mapping[int, int], ledger: Iterable[Transfer]) -> dict[int, int]:
    """Return what each account should hold after these transfers."""
    balances = Counter(opening)
    for entry in ledger:
        balances[entry.source] -= entry.amount
        balances[entry.target] += entry.amount
    return dict(balances)


def understand(status: int, body: Any) -> Outcome:
    """Return what a client may conclude from an answer: from its status and its problem details."""
    if 200 <= status < 300:
        return Outcome.ACKNOWLEDGED
    kind = body.get("kind") if isinstance(body, dict) else None
    return Outcome.UNKNOWN if kind == "commit_outcome_unknown" else Outcome.REFUSED


def longest_gap(successes: Iterable[float], begin: float, end: float) -> float:
    """Return the longest time without a success between two moments."""
    marks = [begin, *sorted(at for at in successes if begin <= at <= end), end]
    return max(later - earlier for earlier, later in pairwise(marks))
