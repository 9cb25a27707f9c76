"""Which driver a URL's scheme leads to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from fastdb.errors import InvalidURL, MissingDriver
from fastdb.urls.target import Backend, World

_BACKENDS: Mapping[str, Backend] = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}

# For each driver that a URL may name, the drivers to use instead, best first, in each world.
# `None` is the URL without a driver. psycopg is one package for both worlds.
_CHOICES: Mapping[Backend, Mapping[str | None, Mapping[World, tuple[str, ...]]]] = {
    "sqlite": {
        None: {"async": ("aiosqlite",), "sync": ("pysqlite",)},
        "aiosqlite": {"async": ("aiosqlite",), "sync": ("pysqlite",)},
        "pysqlite": {"async": ("aiosqlite",), "sync": ("pysqlite",)},
        # fastdb's own dialect is a faster aiosqlite.
        "fastdb": {"async": ("aiosqlite",), "sync": ("pysqlite",)},
    },
    "postgresql": {
        None: {"async": ("asyncpg", "psycopg"), "sync": ("psycopg", "psycopg2")},
        "asyncpg": {"async": ("asyncpg",), "sync": ("psycopg", "psycopg2")},
        "psycopg": {"async": ("psycopg",), "sync": ("psycopg",)},
        # SQLAlchemy's own name for the asynchronous psycopg.
        "psycopg_async": {"async": ("psycopg",), "sync": ("psycopg",)},
        "psycopg2": {"async": ("asyncpg", "psycopg"), "sync": ("psycopg2",)},
    },
    "mysql": {
        None: {"async": ("aiomysql", "asyncmy"), "sync": ("pymysql",)},
        "aiomysql": {"async": ("aiomysql",), "sync": ("pymysql",)},
        "asyncmy": {"async": ("asyncmy",), "sync": ("pymysql",)},
        "pymysql": {"async": ("aiomysql", "asyncmy"), "sync": ("pymysql",)},
    },
}

# The requirement that brings each driver.
_REQUIREMENTS: Mapping[str, str] = {
    "aiosqlite": "aiosqlite",
    "asyncpg": "fastapi-fastdb[postgres]",
    "psycopg": "fastapi-fastdb[postgres]",
    "psycopg2": "psycopg2-binary",
    "aiomysql": "fastapi-fastdb[mysql]",
    "asyncmy": "fastapi-fastdb[asyncmy]",
    "pymysql": "fastapi-fastdb[mysql]",
}


@dataclass(frozen=True, slots=True)
class Scheme:
    """The part before "://", understood: mariadb+aiomysql."""

    backend: Backend
    dialect: str
    driver: str | None

    def __str__(self) -> str:
        return self.dialect if self.driver is None else f"{self.dialect}+{self.driver}"


def driver_is_installed(module: str) -> bool:
    """Tell whether a driver's module can be imported, without importing it."""
    return find_spec(module) is not None


def read_scheme(scheme: str) -> Scheme:
    """Find the database and the driver that a scheme names.

    Raises:
        InvalidURL: fastdb does not support one of them, or they do not belong together.
    """
    name, plus, driver = scheme.lower().partition("+")
    backend = _BACKENDS.get(name)
    if backend is None:
        raise InvalidURL(
            f"The database URL begins with {scheme + '://'!r}, which names no database that"
            " fastdb supports; use sqlite://, postgresql://, mysql:// or mariadb://."
        )
    # SQLAlchemy knows no dialect by the name of "postgres".
    dialect = "mariadb" if name == "mariadb" else backend
    if not plus:
        return Scheme(backend, dialect, None)
    if driver not in _CHOICES[backend]:
        raise InvalidURL(_unknown_driver(backend, name, driver))
    return Scheme(backend, dialect, driver)


def _unknown_driver(backend: Backend, name: str, driver: str) -> str:
    known = ", ".join(key for key in _CHOICES[backend] if key not in (None, "fastdb"))
    owner = next((other for other, drivers in _CHOICES.items() if driver in drivers), None)
    if owner is None:
        problem = f"{driver!r} is not a driver that fastdb supports"
    else:
        problem = f"{driver!r} is a driver for {owner}"
    return (
        f"The database URL begins with '{name}+{driver}://', but {problem}; for {backend} use"
        f" {known}, or leave the driver out ({name}://) to have it chosen."
    )


def choose_driver(scheme: Scheme, world: World, installed: Callable[[str], bool]) -> str:
    """Choose the best installed driver for a scheme.

    Raises:
        MissingDriver: None is installed.
    """
    candidates = _CHOICES[scheme.backend][scheme.driver][world]
    for driver in candidates:
        # sqlite3 belongs to Python itself.
        if driver == "pysqlite" or installed(driver):
            return driver
    kind = "an asynchronous" if world == "async" else "a synchronous"
    verb = "is" if len(candidates) == 1 else "are"
    raise MissingDriver(
        f"'{scheme}://' needs {kind} driver, and {' and '.join(candidates)} {verb} not"
        f' installed; run: pip install "{_REQUIREMENTS[candidates[0]]}"'
    )
