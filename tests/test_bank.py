"""Money moves while servers are killed and networks break: nothing lost, nothing twice.

The runs here are short; `nox -s bank` makes long ones. The judge is tested first, by histories that
it must find guilty: where it is blind, the runs prove nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends import BACKENDS, Backend
from bank.judge import (
    INNOCENT,
    Answer,
    Books,
    Outcome,
    Transfer,
    Verdict,
    judge,
    longest_gap,
    understand,
)
from bank.place import make_server, open_place
from bank.plan import ON_A_FILE, ON_A_SERVER, Fault, Kind, schedule
from bank.report import FIGURES, PAGE, figures, in_page, render
from bank.run import Outage, Record, run
from servers import MariaDB, PostgreSQL

pytestmark = [pytest.mark.faults, pytest.mark.crowd]

SECONDS = 3.0
SEED = 7

# --- The judge ----------------------------------------------------------------------------------

OPENING = {1: 100, 2: 100, 3: 100}
DONE = Transfer("done", 1, 2, 10)
REFUSED = Transfer("refused", 2, 3, 20)
UNCLEAR = Transfer("unclear", 3, 1, 30)
ANSWERS = [
    Answer(DONE, Outcome.ACKNOWLEDGED),
    Answer(REFUSED, Outcome.REFUSED),
    Answer(UNCLEAR, Outcome.UNKNOWN),
]
WITHOUT = Books({1: 90, 2: 110, 3: 100}, [DONE])
WITH = Books({1: 120, 2: 110, 3: 70}, [DONE, UNCLEAR])


@pytest.mark.parametrize("books", [WITHOUT, WITH], ids=["absent", "present"])
def test_judge_takes_the_unknown_either_way(books: Books) -> None:
    """What nobody knows may be there or not."""
    assert judge(OPENING, ANSWERS, books) == INNOCENT


@pytest.mark.parametrize(
    ("books", "verdict"),
    [
        pytest.param(Books(OPENING, []), Verdict(lost=("done",)), id="lost"),
        pytest.param(
            Books({1: 80, 2: 120, 3: 100}, [DONE, DONE]), Verdict(doubled=("done",)), id="doubled"
        ),
        pytest.param(
            Books({1: 120, 2: 110, 3: 70}, [DONE, UNCLEAR, UNCLEAR]),
            Verdict(doubled=("unclear",), wrong_balances=(1, 3)),
            id="unknown, and doubled",
        ),
        pytest.param(
            Books({1: 90, 2: 90, 3: 120}, [DONE, REFUSED]),
            Verdict(kept_though_refused=("refused",)),
            id="refused, and there",
        ),
        pytest.param(
            Books({1: 90, 2: 110, 3: 101}, [DONE]),
            Verdict(wrong_balances=(3,), sum_changed_by=1),
            id="money out of nothing",
        ),
        pytest.param(
            Books({1: 95, 2: 105, 3: 100}, [DONE]),
            Verdict(wrong_balances=(1, 2)),
            id="an update was lost",
        ),
        pytest.param(
            Books({1: 90, 2: 110}, [DONE]),
            Verdict(wrong_balances=(3,), sum_changed_by=-100),
            id="an account is gone",
        ),
        pytest.param(
            Books({1: 89, 2: 111, 3: 100}, [replace(DONE, amount=11)]),
            Verdict(never_asked_for=("done",)),
            id="not what was asked for",
        ),
        pytest.param(
            Books({1: 90, 2: 110, 3: 100}, [DONE, Transfer("strange", 1, 1, 5)]),
            Verdict(never_asked_for=("strange",)),
            id="by nobody",
        ),
    ],
)
def test_judge_finds_guilty(books: Books, verdict: Verdict) -> None:
    """Each way to break the word is seen, and told from the others."""
    assert judge(OPENING, ANSWERS, books) == verdict


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (201, None, Outcome.ACKNOWLEDGED),
        (500, {"kind": "commit_outcome_unknown"}, Outcome.UNKNOWN),
        (500, None, Outcome.REFUSED),
        (503, {"kind": "disconnected"}, Outcome.REFUSED),
        (409, {"detail": "The account does not hold as much."}, Outcome.REFUSED),
    ],
)
def test_clients_can_tell_what_is_unknown(status: int, body: Any, outcome: Outcome) -> None:
    """Only one kind of answer leaves it open; every other error promises that nothing is there."""
    assert understand(status, body) is outcome


def test_longest_gap_counts_its_ends() -> None:
    """A time without any success is a gap as a whole; what lies outside does not count."""
    assert longest_gap([1.0, 9.0], 2.0, 8.0) == 6.0
    assert longest_gap([5.0, 4.5, 2.5], 2.0, 6.0) == 2.0


# --- The plan -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [ON_A_SERVER, ON_A_FILE], ids=["server", "file"])
def test_plan_comes_from_the_seed(kinds: tuple[Kind, ...]) -> None:
    """A seed gives one plan, another one another; each kind of fault is in it."""
    plan = schedule(kinds, seconds=SECONDS, seed=SEED)
    assert plan == schedule(kinds, seconds=SECONDS, seed=SEED)
    assert plan != schedule(kinds, seconds=SECONDS, seed=SEED + 1)
    assert {fault.kind for fault in plan} == set(kinds)


def test_plan_lasts_as_long_as_asked_for() -> None:
    """It ends with the first fault that fills the time, and has every kind however short it is."""
    plan = schedule(ON_A_SERVER, seconds=60, seed=SEED)
    lengths = [fault.after_seconds + fault.lasts_seconds for fault in plan]
    assert sum(lengths[:-1]) < 60 <= sum(lengths)
    assert len(schedule(ON_A_SERVER, seconds=0, seed=SEED)) == len(ON_A_SERVER)


# --- The report ---------------------------------------------------------------------------------


def test_figures_say_what_happened() -> None:
    """Unknown ones that were done are counted, and the longest recovery from each kind of fault."""
    kinds = (Kind.SERVER_KILLED, Kind.SERVER_KILLED, Kind.NETWORK_CUT)
    outages = [
        Outage(Fault(kind, 0, 0, 0), began, began + 1)
        for kind, began in zip(kinds, (0.0, 10.0, 20.0), strict=True)
    ]
    times = (3.0, 9.0, 15.0, 19.0, 24.0)
    answers = [replace(ANSWERS[0], at=at) for at in times] + ANSWERS[1:]
    found = figures(
        Record(OPENING, answers, WITH, outages, 25.0, (), (), ""), Verdict(lost=("done",))
    )
    assert found["faults"] == {"server killed": 2, "network cut": 1}
    assert found["longest_recovery_seconds"] == {"server killed": 6.0, "network cut": 3.0}
    assert (found["unknown"], found["unknown_and_there"], found["lost"]) == (1, 1, 1)


def test_the_page_shows_the_figures_on_record() -> None:
    """docs/reliability.md says what docs/reliability/bank.json says, and nothing is lost."""
    runs = json.loads(FIGURES.read_text())
    page = PAGE.read_text()
    assert in_page(page, render(runs)) == page
    assert {(run["lost"], run["doubled"], run["sum_changed_by"]) for run in runs.values()} == {
        (0, 0, 0)
    }


def test_a_page_without_the_markers_is_refused() -> None:
    """Figures are not dropped in silence."""
    assert in_page("a\n<!-- bank -->\nold\n<!-- /bank -->\n", "new\n") == (
        "a\n<!-- bank -->\nnew\n<!-- /bank -->\n"
    )
    with pytest.raises(ValueError, match="0 places"):
        in_page("a\n", "new\n")


# --- The bank -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL | MariaDB | None]:
    """A PostgreSQL server to be killed and started again."""
    with make_server("postgresql-asyncpg") as server:  # type: ignore[union-attr]
        yield server


@pytest.fixture(scope="module")
def mysql() -> Iterator[PostgreSQL | MariaDB | None]:
    """A MariaDB server to be killed and started again."""
    with make_server("mysql-aiomysql") as server:  # type: ignore[union-attr]
        yield server


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """Without a URL: each run has a database of its own, on a server that the others do not use."""
    return Backend(request.param, "", *BACKENDS[request.param])


@pytest.fixture
def server(backend: Backend, request: pytest.FixtureRequest) -> PostgreSQL | MariaDB | None:
    """The server of this database, if it has one."""
    if backend.name == "sqlite":
        return None
    server: PostgreSQL | MariaDB = request.getfixturevalue(backend.name)
    return server


@pytest.mark.backends("sqlite-file", "postgresql", "mysql")
@pytest.mark.timeout(120)
async def test_money_is_neither_lost_nor_made(
    backend: Backend, server: PostgreSQL | MariaDB | None, tmp_path: Path
) -> None:
    """What was acknowledged is there once, what was refused is not, and the sum stays the same."""
    async with open_place(backend.id, server, tmp_path) as place:
        record = await run(place, seconds=SECONDS, seed=SEED, clients=8)

    assert judge(record.opening, record.answers, record.books) == INNOCENT
    assert {outage.fault.kind for outage in record.outages} == set(place.kinds)
    assert {answer.outcome for answer in record.answers} >= {Outcome.ACKNOWLEDGED, Outcome.REFUSED}
    assert not record.still_connected
    assert {*record.exit_codes} == {-15}, record.written
    assert "Warning" not in record.written
