"""Use an installed fastdb with one extra, or none; `nox -s build` runs this in an empty one."""

import asyncio
import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig

from sqlalchemy import text

import fastdb

# What a URL needs: one of these extras.
EXTRAS_OF = {
    "postgresql": {"postgres", "all"},
    "postgresql+psycopg": {"postgres", "all"},
    "mysql": {"mysql", "asyncmy", "all"},
    "mysql+asyncmy": {"asyncmy", "all"},
}


async def use_sqlite() -> None:
    """SQLite needs no extra."""
    async with fastdb.Database("sqlite://") as db:
        async with db.session() as session:
            await session.execute(text("CREATE TABLE t (id INTEGER PRIMARY KEY)"))
            await session.execute(text("INSERT INTO t VALUES (1)"))
        async with db.read_session() as session:
            assert await session.scalar(text("SELECT count(*) FROM t")) == 1

        def read() -> object:
            with db.sync.session() as session:
                return session.scalar(text("SELECT count(*) FROM t"))

        assert await asyncio.to_thread(read) == 1


def find_drivers(extra: str) -> None:
    """Both drivers of a URL are there with the extra; without, the error names it."""
    for scheme, extras in EXTRAS_OF.items():
        url = f"{scheme}://user:secret@localhost/name"
        if extra in extras:
            fastdb.create_async_engine(url)
            fastdb.create_sync_engine(url)
            continue
        message = refusal_of(url)
        assert "fastapi-fastdb[" in message, message
        assert "secret" not in message, message


def refusal_of(url: str) -> str:
    try:
        fastdb.create_async_engine(url)
    except fastdb.MissingDriver as error:
        return str(error)
    raise AssertionError(f"{url} was accepted without its driver")


def import_migrations(extra: str) -> None:
    """Migrations are there with the extra; without, the error names it."""
    code = "import fastdb.migrations"
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    if extra in {"migrations", "all"}:
        assert run.returncode == 0, run.stderr
    else:
        assert "fastapi-fastdb[migrations]" in run.stderr, run.stderr


def import_test_kit(extra: str) -> None:
    """The kit's clients are there with the extra; without, the error names it. Nothing else is."""
    code = "import fastdb.testing, fastdb.testing.apps"
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    if extra in {"testing", "cli", "all"}:  # each of them brings httpx
        assert run.returncode == 0, run.stderr
    else:
        assert "fastapi-fastdb[testing]" in run.stderr, run.stderr


def start_command(extra: str) -> None:
    """The command works with its extra; without, it says what to install."""
    command = shutil.which("fastdb", path=sysconfig.get_path("scripts"))
    assert command is not None, "no command `fastdb`"
    run = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    if extra in {"cli", "all"}:
        assert run.returncode == 0, run.stderr
        assert "demo" in run.stdout, run.stdout
    else:
        assert run.returncode != 0
        assert "fastapi-fastdb[cli]" in run.stderr, run.stderr
        assert "Traceback" not in run.stderr, run.stderr


def main() -> None:
    extra = sys.argv[1]
    assert fastdb.__version__ == importlib.metadata.version("fastapi-fastdb")
    asyncio.run(use_sqlite())
    find_drivers(extra)
    import_migrations(extra)
    import_test_kit(extra)
    start_command(extra)
    print(f"fastapi-fastdb {fastdb.__version__} [{extra}]: ok")  # noqa: T201


if __name__ == "__main__":
    main()
