"""The command `fastdb`: its answers to what is missing, wrong or in the way."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

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


# --- fastdb init ------------------------------------------------------------------------------

TARGET = ("shop.models:db", "--metadata", "shop.models:Base.metadata")
MODELS = """
from fastdb import Database
from sqlalchemy.orm import DeclarativeBase

db = Database("sqlite:///shop.db")
audit = Database("sqlite:///audit.db")
answer = 42


class Base(DeclarativeBase):
    pass
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with models, in the working directory."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return python("-m", "fastdb", "init", *arguments)


def files(project: Path) -> set[str]:
    return {
        path.relative_to(project).as_posix()
        for path in project.rglob("*")
        if "__pycache__" not in path.parts
    }


def test_init_writes_folder_and_configuration(project: Path) -> None:
    """What was in pyproject.toml stays as it was, whatever its line ends and its last line."""
    before = b'[project]\r\nname = "shop" # \xc3\xa4'
    (project / "pyproject.toml").write_bytes(before)
    run = init(*TARGET)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == (
        "wrote migrations/env.py\nwrote migrations/script.py.mako\nwrote pyproject.toml\n"
        'next: alembic revision --autogenerate -m "tables"; alembic upgrade head\n'
    )
    assert (project / "pyproject.toml").read_bytes() == before + (
        b'\n\n[tool.alembic]\nscript_location = "%(here)s/migrations"\n'
        b'prepend_sys_path = ["%(here)s"]\n'
    )
    assert (project / "migrations" / "env.py").read_text().partition('"""\n\n')[2] == (
        "from fastdb.migrations import run\n\nfrom shop.models import Base, db\n\n"
        "run(db, Base.metadata)\n"
    )
    assert (project / "migrations" / "versions").is_dir()


def test_init_of_two_things_of_one_name(project: Path) -> None:
    """Each is imported under a name of its own."""
    (project / "shop" / "database.py").write_text("from shop.models import db, Base\nrun = db\n")
    (project / "shop" / "tables.py").write_text("from shop.models import Base as db\n")
    run = init("shop.database:db", "--metadata", "shop.tables:db.metadata")
    assert run.returncode == 0, run.stderr
    assert (project / "migrations" / "env.py").read_text().partition('"""\n\n')[2] == (
        "from fastdb.migrations import run\n\nfrom shop.database import db\n"
        "from shop.tables import db as tables_db\n\nrun(db, tables_db.metadata)\n"
    )
    assert python("-m", "alembic", "upgrade", "head").returncode == 0


def test_init_of_a_second_database(project: Path) -> None:
    """It has a folder and a section of its own, which `alembic --name` takes."""
    assert init(*TARGET).returncode == 0
    second = ("shop.models:audit", "--metadata", "shop.models:Base.metadata")
    run = init(*second, "--name", "audit", "--folder", "migrations/audit")
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith(
        'next: alembic --name audit revision --autogenerate -m "tables";'
        " alembic --name audit upgrade head\n"
    )
    made = python("-m", "alembic", "--name", "audit", "revision", "-m", "first")
    assert made.returncode == 0, made.stderr
    assert python("-m", "alembic", "--name", "audit", "upgrade", "head").returncode == 0
    assert python("-m", "alembic", "upgrade", "head").returncode == 0
    assert len(list((project / "migrations" / "audit" / "versions").glob("*_first.py"))) == 1
    assert not list((project / "migrations" / "versions").glob("*.py"))
    assert {"audit.db", "audit.db-migrations"} <= files(project)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("shop", *TARGET[1:]),
            "'shop' is no package.module:attribute. Write it as in `fastdb init shop.models:db"
            " --metadata shop.models:Base.metadata`.",
        ),
        (
            ("shops.models:db", *TARGET[1:]),
            "The module 'shops.models' cannot be imported from {here} (sys.path begins with"
            " {here!r}): No module named 'shops'. Run the command in the directory that has the"
            " package in it, or install the package, and write it as in `fastdb init"
            " shop.models:db --metadata shop.models:Base.metadata`.",
        ),
        (
            ("shop.models:database", *TARGET[1:]),
            "The module shop.models ({here}/shop/models.py) has no 'database'. It has"
            " shop.models:db, shop.models:audit.",
        ),
        (
            (TARGET[0], TARGET[1], "shop.models:answer"),
            "shop.models:answer is of type int; a MetaData is wanted there.",
        ),
    ],
)
def test_init_of_what_cannot_be_had(
    project: Path, arguments: tuple[str, ...], message: str
) -> None:
    """The error says what was tried and what to write; nothing is written."""
    before = files(project)
    run = init(*arguments)
    here = str(project)
    assert run.stderr == f"fastdb: {message.format(here=here)}\n"
    assert (run.returncode, run.stdout) == (2, "")
    assert files(project) == before


def test_init_overwrites_nothing(project: Path) -> None:
    """Neither a folder nor a configuration; each is named."""
    (project / "alembic.ini").write_text("[alembic]\n")
    run = init(*TARGET)
    assert run.stderr == (
        f"fastdb: {project}/alembic.ini has a section [alembic], which Alembic reads before"
        " anything else: nothing was written. Remove it, or choose another name, with --name.\n"
    )
    (project / "alembic.ini").unlink()
    (project / "pyproject.toml").write_text("[tool.alembic]\n")
    run = init(*TARGET)
    assert run.stderr == (
        f"fastdb: {project}/pyproject.toml has a table [tool.alembic] already: nothing was written."
        " Remove it; or, for a second database, give it a name: --name audit --folder"
        " audit_migrations.\n"
    )
    run = init(*TARGET, "--folder", "shop")
    assert run.returncode == 2
    assert run.stderr == (
        f"fastdb: The folder {project}/shop is there already, and not empty: nothing was written."
        " Choose another one, with --folder.\n"
    )
    assert (project / "pyproject.toml").read_text() == "[tool.alembic]\n"


@pytest.mark.parametrize("name", ["pyproject.toml", "alembic.ini"])
def test_init_names_a_file_that_cannot_be_read(project: Path, name: str) -> None:
    """What is broken already is not made worse."""
    (project / name).write_text("[broken")
    run = init(*TARGET)
    assert run.stderr.startswith(f"fastdb: What is in {project / name} cannot be read: ")
    assert (run.returncode, (project / name).read_text()) == (2, "[broken")


def test_init_without_alembic(project: Path) -> None:
    """The extra is named."""
    run = python("-c", MISSING.format(name="alembic").replace('"demo"', f'"init", *{TARGET!r}'))
    assert run.returncode == 1
    assert run.stderr == (
        "fastdb: fastdb.migrations needs Alembic (No module named 'alembic'): pip install"
        ' "fastapi-fastdb[migrations]"\n'
    )
