"""The guards of the test suite are on: what they are there to catch fails."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

TESTS = Path(__file__).parent

GUARDS = {
    "test_blocking_call": "BlockingError: Blocking call to time.sleep",
    "test_coroutine_never_awaited": "RuntimeWarning: coroutine 'sleep' was never awaited",
    "test_file_left_open": "ResourceWarning: unclosed file",
    "test_exception_in_lost_task": "Task exception was never retrieved",
    "test_warning": "UserWarning: an ordinary one",
    "test_without_end": "Failed: Timeout (>0.1s)",
    "test_that_should_fail_but_passes": "[XPASS(strict)] passes",
    "test_connection_left_to_garbage_collector": "SAWarning: The garbage collector",
    "test_connection_left_checked_out[sqlite-file]": "the test left 1 connections checked out",
    "test_sqlite_file_left_open": "the test left open: [",
    "test_postgresql_session_left": "the test left sessions on the server: [(",
    "test_pgbouncer_client_left": "the test left clients at PgBouncer: [(",
    "test_mysql_session_left": "the test left sessions on the server: ((",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ET.Element]:
    """Run `canary.py` as pytest runs every other file; map each test to its result."""
    report = tmp_path_factory.mktemp("canary") / "report.xml"
    command = [sys.executable, "-m", "pytest", str(TESTS / "canary.py"), "-p", "no:cacheprovider"]
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("PYTEST_")}
    run = subprocess.run(
        [*command, f"--junitxml={report}"],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), run.stdout + run.stderr
    return {case.attrib["name"]: case for case in ET.parse(report).iter("testcase")}  # noqa: S314


def test_every_canary_is_listed(outcomes: Mapping[str, ET.Element]) -> None:
    """Each test that must fail has its reason here."""
    assert outcomes.keys() == GUARDS.keys()


@pytest.mark.parametrize("name", GUARDS)
def test_guard_is_on(name: str, outcomes: Mapping[str, ET.Element]) -> None:
    """The canary fails, and for its own reason."""
    skipped = outcomes[name].find("skipped")
    if skipped is not None:
        pytest.skip(skipped.attrib["message"])
    reasons = [
        problem.attrib.get("message", "") + (problem.text or "")
        for problem in (*outcomes[name].findall("failure"), *outcomes[name].findall("error"))
    ]
    assert any(GUARDS[name] in reason for reason in reasons), reasons
