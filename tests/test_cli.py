"""The command `fastdb`: its answers to what is missing, wrong or in the way."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping

import pytest

from fastdb import __version__

MISSING = """
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["fastdb", "demo"]
import fastdb.cli
runpy.run_module("fastdb", run_name="__main__")
"""


def python(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run Python with `arguments` until its end."""
    kept = {key: value for key, value in os.environ.items() if key != "FASTDB_URL"}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**kept, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def test_version() -> None:
    """`--version` names the package and its version."""
    run = python("-m", "fastdb", "--version")
    assert (run.returncode, run.stdout) == (0, f"fastdb {__version__}\n")


def test_help_names_every_option() -> None:
    """`fastdb demo --help` shows what can be chosen."""
    run = python("-m", "fastdb", "demo", "--help", environment={"COLUMNS": "100", "TERM": "dumb"})
    assert run.returncode == 0, run.stderr
    for option in ("--url", "FASTDB_URL", "--requests", "--concurrency", "--port", "--serve"):
        assert option in run.stdout


@pytest.mark.parametrize("name", ["typer", "rich", "uvicorn", "httpx"])
def test_missing_dependency_names_the_extra(name: str) -> None:
    """Without one of its dependencies, the command says in one line what to install."""
    run = python("-c", MISSING.format(name=name))
    assert run.returncode == 1
    assert run.stderr == (
        f"fastdb: No module named '{name}'; the command needs:"
        ' pip install "fastapi-fastdb[cli]"\n'
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "oracle://user:s3cret@host/name",
            "The database URL begins with 'oracle://', which names no database that fastdb"
            " supports; use sqlite://, postgresql://, mysql:// or mariadb://.",
        ),
        (
            "postgresql://user:s3cret@host/name?nonsense=1",
            "Unknown URL parameter 'nonsense' for postgresql; remove it. Arguments for the driver"
            " itself go into connect_args={…}.",
        ),
    ],
)
def test_url_that_cannot_be_used(url: str, message: str) -> None:
    """A bad URL is the caller's mistake: exit code 2 and one line, without the password."""
    run = python("-m", "fastdb", "demo", "--url", url)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"fastdb: {message}\n")


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_server_that_cannot_be_reached(scheme: str) -> None:
    """An unreachable server is no traceback: exit code 1 and one line, without the password."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and does not listen
        url = f"{scheme}://user:s3cret@127.0.0.1:{reserved.getsockname()[1]}/name"
        run = python("-m", "fastdb", "demo", environment={"FASTDB_URL": url})
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("fastdb: ")
    assert "refused" in run.stderr
    assert run.stderr.count("\n") == 1
    assert "s3cret" not in run.stderr


def test_port_that_another_program_uses() -> None:
    """A busy port is named, and the way out: exit code 1."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        run = python("-m", "fastdb", "demo", "--port", str(port))
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        f"fastdb: Port {port} of 127.0.0.1 cannot be had (Address already in use): choose another"
        " with --port, or leave it out for one that is free.\n"
    )


@pytest.mark.parametrize("option", ["--requests=19", "--concurrency=0", "--port=65536"])
def test_figure_out_of_range(option: str) -> None:
    """A figure that makes no sense is refused before anything is started."""
    run = python("-m", "fastdb", "demo", option)
    assert (run.returncode, run.stdout) == (2, "")
    assert option.split("=", maxsplit=1)[0] in run.stderr
