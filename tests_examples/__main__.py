"""Runs the applications in `examples/` as those do who copy them.

    python tests_examples                # all of them
    python tests_examples portfolio      # one

On each database that an example is for: its own tests; then its app in a server process, to which
Schemathesis sends what the OpenAPI document allows and what it does not, and which must answer
none of it with 5xx, end by SIGTERM, and leave no session on the server. One line for each.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from runpy import run_path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from sqlalchemy import text

from fastdb import PoolOptions, create_sync_engine
from fastdb.testing.servers import AppServer, MariaDB, PostgreSQL

ROOT = Path(__file__).parents[1]
CASES = 40
"""How many requests Schemathesis makes up for each operation, besides those it always sends."""

SESSIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = :name",
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = :name",
}


class Failed(Exception):
    """What did not hold, with what was printed."""


@dataclass(frozen=True, slots=True)
class Example:
    """One of the applications.

    Args:
        name: Of its folder and of its package.
        databases: What it is for.
        stand_in: For a service that it asks: which variable leads there, and the class in its tests
            that answers in its place, as "VARIABLE=module:Class".
        environment: What it needs besides the URL.
        headers: What each request has, so that it gets beyond the door.
    """

    name: str
    databases: tuple[str, ...]
    stand_in: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where it is."""
        return ROOT / "examples" / self.name


EXAMPLES = (
    Example("portfolio", ("sqlite", "postgresql"), "PORTFOLIO_ECB_URL=ecb_server:ECBServer"),
    Example(
        "realtime",
        ("sqlite", "postgresql"),
        environment={"REALTIME_DEMO_TOKEN": "demo", "REALTIME_PER_MINUTE": "100000"},
        headers={"Authorization": "Bearer demo"},
    ),
    Example("tasks", ("postgresql",)),
    Example("workflows", ("postgresql",), "WORKFLOWS_AI_URL=ai_server:AIServer"),
    Example("reports", ("mysql",), "REPORTS_LLM_URL=language_model:LanguageModel"),
)


def main(names: list[str]) -> int:
    """Try the examples, print a line for each database of each, and return 1 where one fails."""
    unknown = set(names) - {example.name for example in EXAMPLES}
    if unknown:
        raise SystemExit(f"There is no example {', '.join(sorted(unknown))}.")
    failed = 0
    for example in EXAMPLES:
        if names and example.name not in names:
            continue
        for database in example.databases:
            begun = time.monotonic()
            try:
                said = f"{run_tests(example, database)}; {serve(example, database)}"
            except Failed as error:
                failed += 1
                said = f"FAILED\n{error}"
            seconds = time.monotonic() - begun
            print(f"{example.name:<10} {database:<11} {said} ({seconds:.0f} s)", flush=True)
    return 1 if failed else 0


def run_tests(example: Example, database: str) -> str:
    """Run the example's own tests on a database; return how many have passed."""
    install_scripts(example)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--fastdb-url", database]
    printed = run(example, *command)
    found = re.search(r"(\d+) passed(?!.*(skipped|xfailed))", printed)
    if found is None:  # nothing is skipped here: what is missing has to be installed
        raise Failed(printed)
    return f"{found[1]} tests passed"


def install_scripts(example: Example) -> None:
    """Install what the example's pages need of JavaScript."""
    if (example.folder / "package.json").exists():
        npm = shutil.which("npm")
        if npm is None:
            raise Failed("npm is not installed: apt install npm")
        run_program(example, npm, "install", "--no-package-lock", "--no-audit", "--no-fund")


def serve(example: Example, database: str) -> str:
    """Serve the app, let Schemathesis try it; return how much it has tried."""
    with (
        empty_database(database, f"fastdb_{example.name}") as url,
        stand_in(example) as services,
    ):
        own = {f"{example.name.upper()}_DATABASE_URL": url}
        with AppServer(
            f"{example.name}.app:app",
            environment={**own, **services, **example.environment},
            directory=example.folder,
        ) as server:
            said = send_hostile_requests(example, server)
        assert_nobody_is_left(url)
    return said


@contextmanager
def stand_in(example: Example) -> Iterator[dict[str, str]]:
    """Start what answers in place of a service; give the variable that leads there."""
    if example.stand_in is None:
        yield {}
        return
    variable, _, place = example.stand_in.partition("=")
    module, _, name = place.partition(":")
    namespace = run_path(str(example.folder / "tests" / f"{module}.py"))
    with namespace[name]() as server:
        yield {variable: server.url}


@contextmanager
def empty_database(kind: str, name: str) -> Iterator[str]:
    """Make a database on a private server, or a file, and give its URL."""
    if kind == "sqlite":
        with TemporaryDirectory(prefix="example-") as directory:
            yield f"sqlite:///{directory}/app.db"
        return
    with (PostgreSQL if kind == "postgresql" else MariaDB)() as server:
        engine = create_sync_engine(
            server.url(), pool=PoolOptions.null(), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield server.url(name)


def send_hostile_requests(example: Example, server: AppServer) -> str:
    """Fail where a request is answered with 5xx; return how many operations were tried."""
    with urlopen(f"{server.url}/openapi.json") as answer:
        paths = json.load(answer)["paths"]
    operations = sum(len(methods) for methods in paths.values())
    headers = [f"--header={name}: {value}" for name, value in example.headers.items()]
    printed = run(
        example,
        *("-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--no-color"),
        *("--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing"),
        *("--max-examples", str(CASES), "--seed", "1", "--generation-database", "none"),
        *headers,
    )
    found = re.search(r"(\d+) generated", printed)
    if found is None:
        raise Failed(printed)
    return f"{operations} operations, {found[1]} requests, no 5xx"


def assert_nobody_is_left(url: str) -> None:
    """Fail where the app has left a session on the server."""
    engine = create_sync_engine(url, pool=PoolOptions.null())
    query = SESSIONS.get(engine.dialect.name)
    if query is None:
        return
    with engine.connect() as connection:
        sessions = connection.scalar(text(query), {"name": engine.url.database})
    if sessions != 1:  # our own
        raise Failed(f"The app has ended, and left sessions on the server: {sessions - 1}")


def run(example: Example, *arguments: str) -> str:
    """Run Python in the example's folder; return what it prints."""
    return run_program(example, sys.executable, *arguments)


def run_program(example: Example, *command: str) -> str:
    """Run a program in the example's folder, which must succeed; return what it prints."""
    done = subprocess.run(
        command,
        cwd=example.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
