"""What a test run says of its app and its database, and how that is found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import zip_longest
from typing import Any, Literal, TypeAlias, cast

from sqlalchemy import MetaData

from fastdb.database import Database
from fastdb.errors import ConfigurationError

Isolation = Literal["rollback", "database"]

Schema: TypeAlias = Callable[[Database], object] | None
"""Makes the tables; what it returns is awaited where it can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What pytest's configuration says.

    Attributes:
        app: Where the app is, "shop.app:app"; None for tests without one.
        databases: Where its Databases are, "shop.app:db". Default: the one in the app's module.
        url: "sqlite", "postgresql" or "mysql" for a private server; or the URL of a server, whose
            databases stay as they are. Default: a private one of the Database's own kind.
        schemas: What makes the tables of each: a `MetaData`, a function that is called with the
            Database, as "shop.models:Base.metadata"; or "migrations". Default: the app's lifespan.
        isolation: "rollback" or "database".
    """

    app: str | None = None
    databases: tuple[str, ...] = ()
    url: str | None = None
    schemas: tuple[str, ...] = ()
    isolation: Isolation = "rollback"

    def find_app(self) -> Any:
        """Import the app; None where there is none."""
        return None if self.app is None else find(self.app, "fastdb_app")

    def find_databases(self) -> Sequence[tuple[Database, Schema]]:
        """Import the app's Databases, and what makes the tables of each.

        Raises:
            ConfigurationError: There is none, or it is unclear which ones.
        """
        databases = [find_database(place) for place in self.databases] or [self._only_database()]
        if len(self.schemas) > len(databases):
            raise ConfigurationError(
                f"fastdb_schema has {len(self.schemas)} lines for {len(databases)} databases: it is"
                " one for each, in the order of fastdb_database."
            )
        schemas = [find_schema(place) for place in self.schemas]
        return list(zip_longest(databases, schemas))

    def _only_database(self) -> Database:
        if self.app is None:
            raise ConfigurationError(
                "Neither fastdb_app nor fastdb_database says where the app's Database is: write"
                ' fastdb_database = "shop.app:db".'
            )
        module = self.app.partition(":")[0]
        values = vars(import_module(module)).values()
        databases = list(dict.fromkeys(each for each in values if isinstance(each, Database)))
        if len(databases) == 1:
            return databases[0]
        raise ConfigurationError(
            f"{module} has {len(databases) or 'no'} Database{'s' * (len(databases) != 1)}, so it is"
            ' unclear what the tests are to replace: write fastdb_database = "shop.app:db", one'
            " line for each."
        )


def find_database(place: str) -> Database:
    """Import a Database.

    Raises:
        ConfigurationError: It is not there, or is something else.
    """
    found = find(place, "fastdb_database")
    if not isinstance(found, Database):
        raise ConfigurationError(f"fastdb_database = {place}: this is no Database but {found!r}.")
    return found


def find_schema(place: str) -> Schema:
    """Import what makes the tables.

    Raises:
        ConfigurationError: It is not there, or is something else.
    """
    if place == "migrations":
        return _migrate
    found = find(place, "fastdb_schema")
    if isinstance(found, MetaData):
        return lambda db: db.create_all(found)
    if not callable(found):
        raise ConfigurationError(
            f"fastdb_schema = {place}: neither a MetaData nor a function but {found!r}."
        )
    return cast("Schema", found)


async def _migrate(db: Database) -> None:
    from fastdb.migrations import upgrade

    await upgrade(db)


def find(place: str, setting: str) -> Any:
    """Import what "package.module:name.of.it" names.

    Raises:
        ConfigurationError: It is not there.
    """
    module, colon, path = place.partition(":")
    if not colon or not module or not path:
        raise ConfigurationError(f'{setting} = {place}: write it as "package.module:name".')
    try:
        found = import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"{setting} = {place}: there is no module {error.name}. Is it on the path? pytest takes"
            ' pythonpath = ["."].'
        ) from error
    except AttributeError as error:
        raise ConfigurationError(f"{setting} = {place}: it is not there: {error}.") from error
    return found
