"""What pytest loads of fastdb in every run: the settings, and nothing else unless one is there.

It is no part of the package `fastdb`, because importing that imports SQLAlchemy and FastAPI, and
pytest imports its plugins in all projects of an environment. The fixtures are in
`fastdb.testing.plugin`.
"""

from importlib import import_module

import pytest

_SETTINGS = (
    ("fastdb_app", "string", 'where the FastAPI app is: "shop.app:app"'),
    ("fastdb_database", "linelist", 'where its Databases are: "shop.app:db"'),
    ("fastdb_url", "string", '"sqlite", "postgresql", "mysql", or the URL of a server for tests'),
    (
        "fastdb_schema",
        "linelist",
        'what makes the tables: "shop.models:Base.metadata", "migrations"',
    ),
    ("fastdb_isolation", "string", '"rollback" (the default) or "database"'),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add fastdb's settings, and an option for running the tests on another database."""
    for name, kind, text in _SETTINGS:
        parser.addini(name, f"fastdb: {text}", type=kind, default=[] if kind == "linelist" else "")  # type: ignore[arg-type]
    parser.getgroup("fastdb").addoption(
        "--fastdb-url", metavar="URL", help="run the tests on this database: as fastdb_url"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures where a setting says that they are wanted."""
    if config.getini("fastdb_app") or config.getini("fastdb_database"):
        plugin = import_module("fastdb.testing.plugin")
        config.pluginmanager.register(plugin, "fastdb.testing.plugin")
