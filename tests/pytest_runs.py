"""Runs of pytest of its own, as in an app that is tested with fastdb."""

import os
import subprocess
import sys
from pathlib import Path

import fastdb

# How asynchronous tests and fixtures are run: the options, and what a test file begins with.
MODES = {
    "asyncio-strict": (
        ["-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function"],
        "import pytest, pytest_asyncio\n"
        "pytestmark = pytest.mark.asyncio\n"
        "fixture = pytest_asyncio.fixture\n",
    ),
    "asyncio-auto": (
        ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"],
        "from pytest import fixture\n",
    ),
    "anyio": (
        ["-p", "no:asyncio"],
        "import pytest\n"
        "pytestmark = pytest.mark.anyio\n"
        "fixture = pytest.fixture\n"
        "@fixture\n"
        "def anyio_backend(): return 'asyncio'\n",
    ),
}

# Plugins that our own tests need, and that take longer to import than such a run to test.
WITHOUT_OURS = "-p no:schemathesis -p no:hypothesispytest"


def environment() -> dict[str, str]:
    """Return what a process needs to import this fastdb, without the options of this run."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    paths = [str(Path(fastdb.__file__).parents[1]), own.get("PYTHONPATH", "")]
    paths_of_both = os.pathsep.join(filter(None, paths))
    return own | {"PYTHONPATH": paths_of_both, "PYTEST_ADDOPTS": WITHOUT_OURS}


def run_pytest(directory: Path, mode: str, tests: str, *options: str, conftest: str = "") -> str:
    """Run `tests` in an empty directory; return what pytest prints."""
    of_mode, head = MODES[mode]
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "conftest.py").write_text(conftest)
    (directory / "test_app.py").write_text(head + tests)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *of_mode, *options]
    run = subprocess.run(
        command, cwd=directory, env=environment(), capture_output=True, text=True, check=False
    )
    return run.stdout + run.stderr
