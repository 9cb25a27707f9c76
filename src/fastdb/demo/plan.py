"""What is sent to the app, and what must come back."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

REFUSED = "must not stay"
"""The memo of every entry that a failing request writes: none may be found afterwards."""

FEWEST_REQUESTS = 20
"""As many contain each kind at least once."""

_TAKEN_NAME = "taken"
_MISSING_ACCOUNT = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request.

    Args:
        title: What it does, for the report.
        expected: The status that is the right answer.
        adds_row: Whether that answer promises a new row.
    """

    title: str
    expected: int
    adds_row: bool = False


READ = Kind("read a counter", 200)
INCREMENT = Kind("increment a counter", 200)
OPEN_ACCOUNT = Kind("open an account", 201, adds_row=True)
DEPOSIT = Kind("deposit into an account", 201, adds_row=True)
OVERDRAW = Kind("write, then fail on purpose", 402)
DUPLICATE = Kind("open an account, name taken", 409)
ORPHAN = Kind("deposit into a missing account", 409)

KINDS = (READ, INCREMENT, OPEN_ACCOUNT, DEPOSIT, OVERDRAW, DUPLICATE, ORPHAN)

# Each twenty requests, mixed: next to one another are those that disturb one another.
_MIX = (
    *(READ, INCREMENT, OVERDRAW, INCREMENT, OPEN_ACCOUNT),
    *(READ, INCREMENT, DEPOSIT, READ, ORPHAN),
    *(INCREMENT, READ, OVERDRAW, INCREMENT, OPEN_ACCOUNT),
    *(READ, INCREMENT, DUPLICATE, READ, DEPOSIT),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the plan."""

    kind: Kind
    method: str
    path: str
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request.

    Args:
        kind: Of the request.
        status: The HTTP status, or None where no answer came.
        seconds: From sending until the answer was there.
    """

    kind: Kind
    status: int | None
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether it is the answer that the plan expects."""
        return self.status == self.kind.expected


@dataclass(frozen=True, slots=True)
class Latencies:
    """What one kind of request got for an answer, and after how many seconds."""

    kind: Kind
    sent: int
    statuses: Mapping[int | None, int] = field(default_factory=dict)
    median: float = 0.0
    p99: float = 0.0


def first_requests() -> tuple[Request, Request]:
    """Make the two that come before all others: their answers name a counter and an account."""
    return (
        Request(Kind("start a counter", 201), "POST", "/counters"),
        Request(OPEN_ACCOUNT, "POST", "/accounts", {"name": _TAKEN_NAME}),
    )


def plan(requests: int, *, counter_id: int, account_id: int) -> Iterator[Request]:
    """Make so many requests, the kinds mixed."""
    for number in range(requests):
        yield _request(_MIX[number % len(_MIX)], number, counter_id, account_id)


def _request(kind: Kind, number: int, counter_id: int, account_id: int) -> Request:
    counter, account = f"/counters/{counter_id}", f"/accounts/{account_id}"
    if kind is READ:
        return Request(kind, "GET", counter)
    if kind is INCREMENT:
        return Request(kind, "POST", f"{counter}/increment")
    if kind is OPEN_ACCOUNT:
        return Request(kind, "POST", "/accounts", {"name": f"account {number}"})
    if kind is DUPLICATE:
        return Request(kind, "POST", "/accounts", {"name": _TAKEN_NAME})
    if kind is DEPOSIT:
        return Request(kind, "POST", f"{account}/deposits", {"amount": 1, "memo": "saved"})
    refused = {"amount": 1_000_000, "memo": REFUSED}
    if kind is OVERDRAW:
        return Request(kind, "POST", f"{account}/withdrawals", refused)
    return Request(kind, "POST", f"/accounts/{_MISSING_ACCOUNT}/deposits", refused)


def latencies(answers: Sequence[Answer]) -> list[Latencies]:
    """Sum up the answers, by kind."""
    return [_sum_up(kind, [one for one in answers if one.kind is kind]) for kind in KINDS]


def _sum_up(kind: Kind, answers: Sequence[Answer]) -> Latencies:
    if not answers:
        return Latencies(kind, sent=0)
    seconds = sorted(answer.seconds for answer in answers)
    return Latencies(
        kind,
        sent=len(answers),
        statuses=Counter(answer.status for answer in answers),
        median=seconds[(len(seconds) - 1) // 2],
        p99=seconds[(len(seconds) * 99 - 1) // 100],
    )
