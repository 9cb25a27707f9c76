"""The comparison of `nox -s compliance` fails where our dialect does worse than SQLAlchemy's."""

import runpy
from pathlib import Path

import pytest

COMPARISON = runpy.run_path(str(Path(__file__).parents[1] / "tests_dialect" / "comparison.py"))

REPORT = """
<testsuites><testsuite>
<testcase classname="suite.One_sqlite+aiosqlite_async" name="test_passes"/>
<testcase classname="suite.One_sqlite+aiosqlite_async" name="test_skips"><skipped/></testcase>
<testcase classname="suite.One_sqlite+aiosqlite_async" name="test_fails"><failure/></testcase>
<testcase classname="suite.One_sqlite+aiosqlite_async" name="test_teardown"/>
<testcase classname="suite.One_sqlite+aiosqlite_async" name="test_teardown"><error/></testcase>
</testsuite></testsuites>
"""


def test_report_names_tests_without_their_driver(tmp_path: Path) -> None:
    """Two drivers' tests have the same names, and a test has its worst outcome."""
    report = tmp_path / "report.xml"
    report.write_text(REPORT, "utf-8")
    assert COMPARISON["read_report"](report, "aiosqlite") == {
        "suite.One_sqlite_async::test_passes": "passed",
        "suite.One_sqlite_async::test_skips": "skipped",
        "suite.One_sqlite_async::test_fails": "failed",
        "suite.One_sqlite_async::test_teardown": "failed",
    }


@pytest.mark.parametrize(
    ("theirs", "ours", "regressions"),
    [
        ("passed", "passed", []),
        ("passed", "skipped", ["a: passed there, skipped here"]),
        ("passed", "failed", ["a: passed there, failed here"]),
        ("passed", None, ["a: passed there, not run here"]),
        ("skipped", "passed", []),
        ("skipped", "failed", ["a: skipped there, failed here"]),
        ("failed", "failed", []),
        (None, "passed", []),
        (None, "failed", ["a: not run there, failed here"]),
    ],
)
def test_regression_is_what_ours_does_worse(
    theirs: str | None, ours: str | None, regressions: list[str]
) -> None:
    """A test that passes there must pass here; none may fail here alone."""
    both = {"other": "passed"}
    reports = [both | ({"a": outcome} if outcome else {}) for outcome in (theirs, ours)]
    assert COMPARISON["find_regressions"](*reports) == regressions


def test_nothing_is_compared_with_nothing() -> None:
    """A suite that did not run is no success."""
    assert COMPARISON["find_regressions"]({}, {}) == [
        "nothing passed on SQLAlchemy's own dialect: there is nothing to compare with"
    ]
