"""`fastdb demo`: that it holds on every database, and that it says so when it does not."""

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from rich.console import Console
from sqlalchemy import inspect
from sqlalchemy.engine import make_url

from asgi import Client
from backends import Backend
from fastdb import Database
from fastdb.demo.app import Account, Counter, Entry, Summary
from fastdb.demo.checks import Check, Contents, Evidence, judge
from fastdb.demo.load import NotAnswered, drive
from fastdb.demo.plan import FEWEST_REQUESTS, KINDS, REFUSED, Answer, latencies, plan
from fastdb.demo.report import Report
from fastdb.demo.server import ServerProcess
from fastdb.demo.tables import demo_tables, read_back, url_or_file
from fastdb.errors import ServerFailed

EXAMPLES = Path(__file__).parents[1] / "examples"

# --- The whole ---------------------------------------------------------------------------------


def environment(directory: Path, url: str = "") -> dict[str, str]:
    """Return an environment whose temporary files can be looked at."""
    kept = {key: value for key, value in os.environ.items() if key != "FASTDB_URL"}
    extra = {"FASTDB_URL": url} if url else {}
    return {**kept, **extra, "TMPDIR": str(directory), "COLUMNS": "100"}


def run_demo(
    directory: Path, *arguments: str, url: str = "", program: tuple[str, ...] = ("-m", "fastdb")
) -> "subprocess.CompletedProcess[str]":
    """Run the command until its end."""
    return subprocess.run(
        [sys.executable, *program, "demo", *arguments],
        env=environment(directory, url),
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )


@contextmanager
def running_demo(directory: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Start the command, to be interrupted; what is still there at the end is killed.

    Not measured: coverage looks up the greenlet at each call, in Python, and takes an interrupt
    that comes just then for a greenlet that it does not know yet.
    """
    kept = environment(directory).items()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastdb", "demo", *arguments],
        env={key: value for key, value in kept if not key.startswith("COVERAGE_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: "subprocess.Popen[str]", pattern: str) -> re.Match[str]:
    """Read the command's output up to a line with `pattern`; the test's limit is the deadline."""
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.search(pattern, line):
            return match
    pytest.fail(f"the demo has ended without saying {pattern!r}")


def assert_holds(run: "subprocess.CompletedProcess[str]") -> None:
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("✓") == 7
    assert "✗" not in run.stdout
    assert run.stdout.rstrip().endswith("All of it held.")
    assert run.stderr == ""


def test_holds_on_sqlite_and_leaves_nothing(tmp_path: Path) -> None:
    """Without arguments it needs no server, and its file is gone afterwards."""
    run = run_demo(tmp_path)
    assert_holds(run)
    assert "Load:     400 requests, 50 at a time" in run.stdout
    assert "\x1b" not in run.stdout  # no terminal, no control characters
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("server", ["postgresql", "mysql"])
def test_holds_on_a_server_and_leaves_no_table(
    server: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """On a server it drops its tables again, and tells nobody the password."""
    url = make_url(request.getfixturevalue(f"{server}_url"))
    text = url.render_as_string(hide_password=False)
    run = run_demo(tmp_path, "--requests=60", "--concurrency=20", url=text)
    assert_holds(run)
    assert f":{url.password}@" not in run.stdout
    with Database(text).sync as twin:
        assert inspect(twin.engine).get_table_names() == []


def test_begins_with_empty_tables(sqlite_url: str, tmp_path: Path) -> None:
    """Rows that an interrupted run has left do not count."""
    with Database(sqlite_url).sync as twin:
        twin.create_all(Counter.metadata)
        with twin.session() as session:
            session.add(Counter(value=1000))
    assert_holds(run_demo(tmp_path, "--requests=20", url=sqlite_url))


def test_relative_file_is_the_same_for_app_and_twin(tmp_path: Path) -> None:
    """A relative path means one file, for the app's process and for the one that checks."""
    assert_holds(run_demo(tmp_path, "--requests=20", "--url=sqlite:///here.db"))
    assert (tmp_path / "here.db").exists()


TAMPERING = """
import fastdb.demo.run
from dataclasses import replace

read_back = fastdb.demo.run.read_back
fastdb.demo.run.read_back = lambda twin: replace(read_back(twin), refused=3)

from fastdb.cli import main
main()
"""


def test_exit_code_tells_that_something_did_not_hold(tmp_path: Path) -> None:
    """A statement that does not hold is marked, counted, and makes the exit code 1."""
    program = tmp_path / "program"
    program.mkdir()
    (program / "tampering.py").write_text(TAMPERING)
    run = run_demo(tmp_path, "--requests=20", program=(str(program / "tampering.py"),))
    assert run.returncode == 1
    assert re.search(r"Rows left by requests that failed +0 +3 +✗", run.stdout)
    assert run.stdout.count("✗") == 1
    assert "1 did NOT hold." in run.stdout


def test_serve_answers_until_interrupted(tmp_path: Path) -> None:
    """`--serve` leaves the app and its page running; Ctrl-C ends them, and that is no failure."""
    with running_demo(tmp_path, "--serve", "--requests=20") as process:
        address = read_until(process, r"still running: (http://127\.0\.0\.1:\d+)/docs")[1]
        with urlopen(f"{address}/docs", timeout=10) as page:  # noqa: S310
            assert "swagger" in page.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="refused"):
        urlopen(f"{address}/docs", timeout=10)  # noqa: S310


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_under_load_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """Ended in the middle, it stops the app and removes its files all the same."""
    with running_demo(tmp_path, "--requests=100000") as process:
        address = read_until(process, r"App: +(http://127\.0\.0\.1:\d+)")[1]
        read_until(process, "Load:")
        process.send_signal(number)
        assert process.wait(20) != 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="refused"):
        urlopen(f"{address}/docs", timeout=10)  # noqa: S310


# --- The checks --------------------------------------------------------------------------------

ALL_WELL = Evidence(
    sent=FEWEST_REQUESTS,
    answers=[
        Answer(request.kind, request.kind.expected, 0.001)
        for request in plan(FEWEST_REQUESTS, counter_id=1, account_id=1)
    ],
    rows_before=1,
    over_http=Summary(counted=6, accounts=3, entries=2),
    through_twin=Contents(Summary(counted=6, accounts=3, entries=2), refused=0, orphans=0),
)


def failed(evidence: Evidence) -> set[str]:
    return {check.statement for check in judge(evidence) if not check.holds}


def test_all_checks_hold_where_all_is_well() -> None:
    """What should be so holds: the tests below prove something."""
    assert failed(ALL_WELL) == set()
    assert len(judge(ALL_WELL)) == 7


@pytest.mark.parametrize(
    ("counted", "accounts", "entries", "statement"),
    [
        (5, 3, 2, "Increments acknowledged = final count"),
        (7, 3, 2, "Increments acknowledged = final count"),
        (6, 2, 2, "Rows acknowledged with a 201 are there"),
        (6, 3, 3, "Rows acknowledged with a 201 are there"),
    ],
)
def test_check_finds_what_is_lost_or_too_much(
    counted: int, accounts: int, entries: int, statement: str
) -> None:
    """One row or one increment fewer or more than was acknowledged fails its check."""
    summary = Summary(counted=counted, accounts=accounts, entries=entries)
    contents = replace(ALL_WELL.through_twin, summary=summary)
    assert failed(replace(ALL_WELL, over_http=summary, through_twin=contents)) == {statement}


def test_check_finds_rows_of_failed_requests() -> None:
    """A row that a failing request has left fails its check."""
    contents = replace(ALL_WELL.through_twin, refused=1)
    assert failed(replace(ALL_WELL, through_twin=contents)) == {"Rows left by requests that failed"}


def test_check_finds_orphans() -> None:
    """A row whose parent is not there fails its check."""
    contents = replace(ALL_WELL.through_twin, orphans=1)
    assert failed(replace(ALL_WELL, through_twin=contents)) == {
        "Foreign keys: rows without parent stored"
    }


def test_check_finds_a_twin_that_reads_something_else() -> None:
    """What the twin reads is compared with what the app says, figure by figure."""
    summary = Summary(counted=6, accounts=2, entries=3)
    contents = replace(ALL_WELL.through_twin, summary=summary)
    assert failed(replace(ALL_WELL, through_twin=contents)) == {
        "The sync twin reads the same counts"
    }


def test_check_finds_an_orphan_that_was_accepted() -> None:
    """A 201 for a row without a parent fails the checks of its answer and of foreign keys."""
    answers = [
        replace(answer, status=201) if answer.kind.title.endswith("missing account") else answer
        for answer in ALL_WELL.answers
    ]
    assert failed(replace(ALL_WELL, answers=answers)) == {
        "Every request got the answer it should get",
        "Foreign keys: rows without parent refused",
    }


@pytest.mark.parametrize("status", [None, 500])
def test_check_finds_a_wrong_or_missing_answer(status: int | None) -> None:
    """A read that failed, or that nobody answered, fails the first check."""
    answers = [replace(ALL_WELL.answers[0], status=status), *ALL_WELL.answers[1:]]
    expected = {"Every request got the answer it should get"}
    assert failed(replace(ALL_WELL, answers=answers)) == expected
    assert failed(replace(ALL_WELL, answers=ALL_WELL.answers[1:])) == expected


def test_every_kind_is_in_the_fewest_requests() -> None:
    """However few are asked for, nothing goes untried."""
    planned = plan(FEWEST_REQUESTS, counter_id=1, account_id=1)
    assert {request.kind for request in planned} == set(KINDS)


def test_percentiles_are_answers_that_were_given() -> None:
    """The median and the 99th percentile are nearest ranks, for few answers too."""
    answers = [Answer(KINDS[0], 200, float(second)) for second in range(100, 0, -1)]
    (first, *others) = latencies(answers)
    assert (first.sent, first.median, first.p99) == (100, 50.0, 99.0)
    assert {one.sent for one in others} == {0}
    (one, *_) = latencies(answers[:1])
    assert (one.median, one.p99) == (100.0, 100.0)


# --- Its parts ---------------------------------------------------------------------------------


def test_what_is_tampered_with_in_the_database_is_found(tmp_path: Path) -> None:
    """The evidence comes from the database itself: what is changed there fails the checks."""
    url = url_or_file(None, tmp_path)
    with demo_tables(url) as twin, ServerProcess(url, tmp_path) as server:
        outcome = asyncio.run(drive(server.url, requests=20, concurrency=5, answered=lambda: None))
        evidence = Evidence(
            20, outcome.answers, outcome.rows_before, outcome.summary, read_back(twin)
        )
        assert failed(evidence) == set()
        with twin.session() as session:
            session.get_one(Counter, 1).value -= 1
            session.add(Entry(account_id=session.get_one(Account, 1).id, amount=1, memo=REFUSED))
        assert failed(replace(evidence, through_twin=read_back(twin))) == {
            "Rows left by requests that failed",
            "The sync twin reads the same counts",
        }


async def test_load_says_what_it_could_not_begin_with() -> None:
    """Without a counter there is nothing to drive: the error names the request."""
    with pytest.raises(NotAnswered) as caught:
        await drive("http://127.0.0.1:1", requests=20, concurrency=1, answered=lambda: None)
    assert str(caught.value) == "POST /counters got no answer (ConnectError)."


def test_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    """What the app says at its end is in the error."""
    url = f"sqlite:///{tmp_path / 'missing' / 'demo.db'}"
    with pytest.raises(ServerFailed) as caught, ServerProcess(url, tmp_path):
        pass
    assert str(caught.value).startswith("The app's process ended with code 3:\n")
    assert "unable to open database file" in str(caught.value)


def test_server_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    """`wait` returns only by raising: the process is not supposed to end."""
    with ServerProcess(url_or_file(None, tmp_path), tmp_path) as server:
        assert server._process is not None
        server._process.kill()
        with pytest.raises(ServerFailed, match=r"The app's process ended with code -9:\n"):
            server.wait()


@pytest.mark.parametrize("url", [None, "sqlite://", "sqlite:///:memory:"])
def test_memory_of_one_process_becomes_a_file(url: str | None, tmp_path: Path) -> None:
    """Two processes cannot share a database in memory."""
    assert url_or_file(url, tmp_path) == f"sqlite:///{tmp_path}/demo.db"


def test_report_without_unicode_is_plain() -> None:
    """Where a check mark cannot be written, words stand for it."""
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    report = Report(Console(file=output, width=80))
    report.show_checks([Check("It holds", "1", "1"), Check("It does not", "1", "2")])
    report.show_latencies([Answer(KINDS[0], 200, 0.001), Answer(KINDS[0], None, 0.002)])
    output.seek(0)
    lines = [re.sub(r"[| ]+", " ", line).strip() for line in output]
    assert "It holds 1 1 yes" in lines
    assert "It does not 1 2 NO" in lines
    assert "read a counter 2 200: 1 1.0 ms 2.0 ms" in lines
    assert "not: 1" in lines


# --- The quickstart ----------------------------------------------------------------------------


@pytest.fixture
def quickstart(backend: Backend) -> dict[str, Any]:
    """The example's names, with another URL in it."""
    written = (EXAMPLES / "quickstart.py").read_text()
    source = written.replace("sqlite:///heroes.db", backend.url)
    assert source != written
    names: dict[str, Any] = {"__name__": "quickstart"}
    exec(source, names)  # noqa: S102 - ours
    return names


async def test_quickstart(quickstart: dict[str, Any]) -> None:
    """The smallest app stores a row and finds it again, on each database by its URL alone."""
    async with quickstart["lifespan"](quickstart["app"]):
        client = Client(quickstart["app"])
        created = await client.post("/heroes", json={"name": "Deadpond"})
        assert (created.status, created.json()) == (201, {"id": 1})
        assert (await client.get("/heroes/1")).json() == {"name": "Deadpond"}
        assert (await client.get("/heroes/2")).status == 404
