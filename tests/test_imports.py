"""What `import fastdb` brings, and what it does not."""

import subprocess
import sys
from inspect import ismodule

import fastdb

LOADED_ON_DEMAND = {
    "aiomysql",
    "alembic",
    "asyncmy",
    "asyncpg",
    "httpx",
    "psycopg",
    "psycopg2",
    "pydantic_settings",
    "pymysql",
    "pytest",
    "rich",
    "typer",
    "uvicorn",
}


def test_import_loads_nothing_optional() -> None:
    """Whoever does not use an extra does not wait for it at start-up."""
    code = "import sys, fastdb; print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "sqlalchemy" in loaded
    assert loaded.isdisjoint(LOADED_ON_DEMAND), loaded & LOADED_ON_DEMAND


def test_all_is_complete() -> None:
    """`__all__` names what is public, and all of it."""
    public = {
        name
        for name, value in vars(fastdb).items()
        if not name.startswith("_") and not ismodule(value)
    }
    assert public == {name for name in fastdb.__all__ if not name.startswith("_")}


def test_all_is_sorted() -> None:
    """`__all__` can be read through, and merged."""
    assert fastdb.__all__ == sorted(fastdb.__all__)
