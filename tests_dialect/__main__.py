"""Runs SQLAlchemy's own tests of dialects on `sqlite+fastdb`, and on `sqlite+aiosqlite` beside it.

    python tests_dialect                   # all of them, on three kinds of databases
    python tests_dialect -k Reflection     # whatever pytest understands

It fails where one passes on aiosqlite, which SQLAlchemy maintains, and not on fastdb.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy
from comparison import Outcomes, find_common_failures, find_regressions, read_report, summarize

HERE = Path(__file__).parent

# What a database is, and what pytest is told. A relative name: SQLAlchemy derives others from it,
# and splits it at each "_" and ".".
DATABASES = {
    "file": ("compliance.db",),
    "file, WAL": ("compliance.db", "--wal"),
    "memory": (":memory:",),
}


def run_suite(driver: str, database: str, *arguments: str) -> Outcomes:
    """Run all tests with a driver; return their outcomes."""
    with TemporaryDirectory(prefix="dialect") as directory:
        report = Path(directory) / "report.xml"
        result = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "--quiet", "--tb=short"),
                *("--config-file", HERE / "setup.cfg", HERE, "--junitxml", report),
                *("--dburi", f"sqlite+{driver}:///{database}", *arguments),
            ],
            cwd=directory,
            check=False,
        )
        if result.returncode not in (0, 1):  # 1: tests have failed, which is judged below
            raise SystemExit(f"pytest has broken off with {result.returncode} on {driver}")
        return read_report(report, driver)


def main(arguments: list[str]) -> int:
    """Run everything, print a table, and return 1 if our dialect does something worse."""
    table, regressions, common = [], [], []
    for title, options in DATABASES.items():
        theirs = run_suite("aiosqlite", *options, *arguments)
        ours = run_suite("fastdb", *options, *arguments)
        table += [
            f"{title:<12}{'aiosqlite':<11}{summarize(theirs)}",
            f"{'':<12}{'fastdb':<11}{summarize(ours)}",
        ]
        regressions += [f"{title}: {line}" for line in find_regressions(theirs, ours)]
        common += [f"{title}: {name}" for name in find_common_failures(theirs, ours)]

    print(f"\nSQLAlchemy {sqlalchemy.__version__}'s tests of dialects")
    print(f"{'database':<12}{'driver':<11}{'passed':>9}{'skipped':>9}{'failed':>9}")
    print(*table, sep="\n")
    if common:
        print("\nFailed on both, and so not for what fastdb does:", *common, sep="\n  ")
    if regressions:
        print("\nWorse on fastdb:", *regressions, sep="\n  ")
        return 1
    print("\nWhat passes on aiosqlite, passes on fastdb.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
