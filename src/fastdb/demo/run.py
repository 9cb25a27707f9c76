"""The demo from beginning to end."""

import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path

from fastdb.demo.checks import Check, Evidence, judge
from fastdb.demo.load import Outcome, drive
from fastdb.demo.report import Report
from fastdb.demo.server import ServerProcess
from fastdb.demo.tables import demo_tables, name_of, read_back, url_or_file
from fastdb.sync import SyncDatabase


def run(
    url: str | None = None,
    *,
    requests: int = 400,
    concurrency: int = 50,
    port: int = 0,
    serve: bool = False,
    report: Report | None = None,
) -> bool:
    """Start the app, drive it, read its data back and report; return whether all of it held.

    Args:
        url: The database. Default: a new SQLite file. The demo's tables, `fastdb_demo_…`, are
            dropped before and afterwards.
        requests: How many are sent.
        concurrency: How many at a time.
        port: Where the app listens on 127.0.0.1. Default: a port that is free.
        serve: Leave the app running until Ctrl-C.
        report: Where the output goes. Default: standard output.

    Raises:
        ConfigurationError: The URL cannot be used.
        FastdbError: The app could not be started, or does not answer.
    """
    report = report or Report()
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="fastdb-demo-", ignore_cleanup_errors=True)
            )
        )
        url = url_or_file(url, directory)
        twin = stack.enter_context(demo_tables(url))
        server = stack.enter_context(ServerProcess(url, directory, port=port))
        report.say(f"Database: {name_of(twin.engine)}")
        report.say(f"App:      {server.url}, under uvicorn in a process of its own")
        outcome = _drive(report, server, requests, concurrency)
        held = _tell(report, outcome, _checks(outcome, requests, twin))
        if not held:
            report.say(f"The end of the app's log:\n{server.log_tail() or '(empty)'}")
        if serve:
            _serve(report, server)
    return held


def _drive(report: Report, server: ServerProcess, requests: int, concurrency: int) -> Outcome:
    title = f"Load:     {requests} requests, {concurrency} at a time, some to fail on purpose"
    with report.progress(title, requests) as answered:
        return asyncio.run(
            drive(server.url, requests=requests, concurrency=concurrency, answered=answered)
        )


def _checks(outcome: Outcome, requests: int, twin: SyncDatabase) -> list[Check]:
    return judge(
        Evidence(
            sent=requests,
            answers=outcome.answers,
            rows_before=outcome.rows_before,
            over_http=outcome.summary,
            through_twin=read_back(twin),
        )
    )


def _tell(report: Report, outcome: Outcome, checks: list[Check]) -> bool:
    report.show_latencies(outcome.answers)
    report.show_checks(checks)
    failed = sum(not check.holds for check in checks)
    per_second = len(outcome.answers) / outcome.seconds
    speed = f"{len(outcome.answers)} answers in {outcome.seconds:.1f} s, {per_second:.0f} a second"
    report.say(f"{speed}. {'All of it held.' if not failed else f'{failed} did NOT hold.'}")
    return not failed


def _serve(report: Report, server: ServerProcess) -> None:
    try:  # around the words too: who reads them may be quick
        report.say(f"The app is still running: {server.url}/docs (Ctrl-C stops it)")
        server.wait()
    except KeyboardInterrupt:
        report.say("Stopped.")
