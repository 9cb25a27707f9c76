"""A project with five revisions, made as its authors would: `fastdb init`, autogenerate, an editor.

    shop/models.py, shop/app.py, migrations/, pyproject.toml

Its app migrates when it starts. What the environment says: SHOP_URL, and SHOP_GATE, a directory:
while there is one, the fourth revision writes there who runs it, amid its DDL, and waits for the
file `open`.
"""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server_process import HOST, free_port

REVISIONS = ("articles", "owners", "index", "data", "rename")

_HEAD = """
import os

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from fastdb import Database

db = Database(os.environ.get("SHOP_URL", "sqlite:///shop.db"))


class Base(DeclarativeBase):
    pass


class Article(Base):
    __tablename__ = "articles"

    id: Mapped[int] = mapped_column(primary_key=True)
"""
_NAME = """
    name: Mapped[str] = mapped_column(String(50))
"""
_TITLE = """
    title: Mapped[str] = mapped_column(String(50))
"""
_REFERENCE = """
    owner_id: Mapped[int | None] = mapped_column(
        ForeignKey("owners.id", name="articles_owner", ondelete="CASCADE")
    )
"""
_INDEX = """
    __table_args__ = (Index("articles_by_id_and_owner", "id", "owner_id"),)
"""
_OWNER = """

class Owner(Base):
    __tablename__ = "owners"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
"""

_MODELS = {
    "articles": _HEAD + _NAME,
    "owners": _HEAD + _NAME + _REFERENCE + _OWNER,
    "index": _HEAD + _NAME + _REFERENCE + _INDEX + _OWNER,
    "rename": _HEAD + _TITLE + _REFERENCE + _INDEX + _OWNER,
}

_WAIT_AT_GATE = """
    import os, pathlib, time

    gate = os.environ.get("SHOP_GATE")
    if gate:
        pathlib.Path(gate, "entered").write_text(str(os.getpid()))
        deadline = time.monotonic() + 50
        while not pathlib.Path(gate, "open").exists():
            assert time.monotonic() < deadline, "nobody has opened the gate"
            time.sleep(0.01)
"""

# What an author writes into a revision, which autogenerate has left empty.
_EDITS = {
    "data": (
        """
    # Where DDL is rolled back, who comes after a killed one finds nothing of it.
    stays = op.get_context().dialect.name in ("mysql", "mariadb")
    op.create_table("scratch", sa.Column("id", sa.Integer), if_not_exists=stays)
    op.execute("INSERT INTO owners (id, name) VALUES (1, 'nobody')")
    op.execute("INSERT INTO articles (id, name, owner_id) VALUES (1, 'chair', NULL)")
    op.execute("UPDATE articles SET owner_id = 1 WHERE owner_id IS NULL")
"""
        + _WAIT_AT_GATE
        + """
    op.drop_table("scratch")
""",
        """
    op.execute("DELETE FROM articles")
    op.execute("DELETE FROM owners")
""",
    ),
    "rename": (
        """
    with op.batch_alter_table("articles") as batch:
        batch.alter_column("name", new_column_name="title", existing_type=sa.String(50),
                           existing_nullable=False)
""",
        """
    with op.batch_alter_table("articles") as batch:
        batch.alter_column("title", new_column_name="name", existing_type=sa.String(50),
                           existing_nullable=False)
""",
    ),
}

_APP = """
import logging
import os
from contextlib import asynccontextmanager

from fastapi import FastAPI
from sqlalchemy import select

from fastdb import SessionDep
from fastdb.migrations import upgrade
from shop.models import Article, db

logging.basicConfig(level=logging.INFO, format="%(process)d %(name)s %(message)s")


@asynccontextmanager
async def lifespan(app):
    async with db.lifespan(app):
        await upgrade(db)
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/titles")
async def titles(session: SessionDep) -> list[str]:
    return list(await session.scalars(select(Article.title)))
"""

_FAILING = '''"""{name}"""

import sqlalchemy as sa
from alembic import op

revision = "{name}"
down_revision = {down!r}


def upgrade():
{up}


def downgrade():
{down_body}
'''


def make_project(root: Path) -> Path:
    """Make the whole project in an empty directory."""
    (root / "shop").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    (root / "shop" / "app.py").write_text(_APP)
    _write_models(root, "articles")
    said = python(
        root, "-m", "fastdb", "init", "shop.models:db", "--metadata", "shop.models:Base.metadata"
    )
    assert said.returncode == 0, said.stderr
    for name in ("articles", "owners"):
        _write_models(root, name)
        _commands(root, f"revision --autogenerate -m {name}", "upgrade head")
    _write_models(root, "index")
    _commands(root, "revision --autogenerate -m index", "revision -m data", "revision -m rename")
    _write_models(root, "rename")
    for name in _EDITS:
        _edit(root, name)
    (root / "shop.db").unlink()
    return root


def copy_project(made: Path, root: Path) -> Path:
    """Give a test a project of its own, to add to and to break."""
    shutil.copytree(made, root, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def add_revision(root: Path, name: str, *, after: str, up: str, down: str = "pass") -> None:
    """Add one more revision by hand."""
    body = _FAILING.format(
        name=name,
        down=after,
        up=textwrap.indent(textwrap.dedent(up).strip(), "    "),
        down_body=textwrap.indent(textwrap.dedent(down).strip(), "    "),
    )
    (root / "migrations" / "versions" / f"{name}.py").write_text(body)


def last(root: Path) -> str:
    """Return the newest of the five revisions."""
    (path,) = (root / "migrations" / "versions").glob("*_rename.py")
    return path.name.partition("_")[0]


def edit(path: Path, old: str, new: str) -> None:
    """Replace what stands in a file."""
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))


def remove(*paths: Path) -> None:
    """Remove files."""
    for path in paths:
        path.unlink()


def empty_directory(path: Path) -> Path:
    """Make a directory, and return it."""
    path.mkdir()
    return path


def lock_files(directory: Path) -> list[Path]:
    """List the lock files of the SQLite databases in a directory."""
    return list(directory.glob("*-migrations"))


def open_gate(gate: Path) -> None:
    """Let go on who waits in the fourth revision."""
    (gate / "open").touch()


def alembic(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run Alembic's command, which must succeed; return what it prints."""
    said = python(root, "-m", "alembic", *arguments, environment=environment)
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def python(
    root: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    stderr: int = subprocess.PIPE,
) -> "subprocess.CompletedProcess[str]":
    """Run Python in the project's directory until its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=variables(environment),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=False,
        timeout=50,
    )


@contextmanager
def migrating(root: Path, url: str, gate: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Upgrade in another process, which waits at the gate."""
    code = (
        "from fastdb.migrations import upgrade_sync; from shop.models import db; upgrade_sync(db)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root,
        env=variables({"SHOP_URL": url, "SHOP_GATE": str(gate)}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass
class Workers:
    """Uvicorn with several workers.

    Attributes:
        url: Where they serve.
    """

    url: str
    process: "subprocess.Popen[bytes]"
    _log: Path

    def log(self) -> str:
        """Return what they have logged."""
        return self._log.read_text()

    def wait_until(self, condition: Callable[[str], bool]) -> None:
        """Wait until the log is as it should be."""
        wait_until(lambda: condition(self.log()), self.log)


@contextmanager
def uvicorn_workers(
    root: Path, url: str, *, count: int, gate: Path | None = None
) -> Iterator[Workers]:
    """Serve the project's app in several processes."""
    port, log = free_port(), root / "uvicorn.log"
    gated = {} if gate is None else {"SHOP_GATE": str(gate)}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "shop.app:app", "--port", str(port)),
                *("--workers", str(count), "--timeout-worker-healthcheck", "60"),
            ],
            cwd=root,
            env=variables({"SHOP_URL": url, **gated}),
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield Workers(f"http://{HOST}:{port}", process, log)
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(condition: Callable[[], bool], explain: Callable[[], str] = str) -> None:
    """Wait until `condition` holds, for as long as a slow machine may take."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)


def variables(environment: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the environment of a process, without what another test may have left in it."""
    kept = {key: value for key, value in os.environ.items() if key != "ALEMBIC_CONFIG"}
    return {**kept, "PYTHONUNBUFFERED": "1", **(environment or {})}


def _commands(root: Path, *commands: str) -> None:
    """Run several commands of Alembic in one process, which is quicker."""
    lines = [f"main({command.split()!r})" for command in commands]
    said = python(root, "-c", "\n".join(["from alembic.config import main", *lines]))
    assert said.returncode == 0, said.stdout + said.stderr


def _write_models(root: Path, version: str) -> None:
    (root / "shop" / "models.py").write_text(_MODELS[version])


def _edit(root: Path, name: str) -> None:
    (path,) = (root / "migrations" / "versions").glob(f"*_{name}.py")
    up, down = _EDITS[name]
    before, _, after = path.read_text().partition("def downgrade")
    path.write_text(
        before.replace("    pass\n", up) + "def downgrade" + after.replace("    pass\n", down)
    )
