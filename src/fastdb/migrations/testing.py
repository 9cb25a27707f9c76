"""Tests of a project's migrations, to be imported into a test module of it.

    from fastdb.migrations.testing import (
        Migrations,
        test_models_match_head,
        test_upgrade_downgrade_upgrade,
    )

    @pytest.fixture
    def migrations(tmp_path):
        db = Database(f"sqlite:///{tmp_path}/test.db")
        yield Migrations(db)
        db.sync.close()

They are synchronous, so they need no plugin. Each wants an empty database.
"""

from dataclasses import dataclass
from threading import Event

from sqlalchemy import inspect

from fastdb.database import Database
from fastdb.migrations.environment import VERSION_TABLE
from fastdb.migrations.project import ConfigSource, Project
from fastdb.migrations.requests import Order

__all__ = ["Migrations", "test_models_match_head", "test_upgrade_downgrade_upgrade"]


@dataclass(frozen=True, slots=True)
class Migrations:
    """What is tested: give it as the fixture `migrations`.

    Args:
        db: An empty database, which the tests fill and empty.
        config: As for `upgrade`. Default: what Alembic's command would read.
        script_location: As for `upgrade`. Default: the configuration's.
    """

    db: Database
    config: ConfigSource | None = None
    script_location: str | None = None

    def load(self) -> Project:
        """Read the configuration and the revisions."""
        return Project.load(self.config, self.script_location, Event())

    def tables(self) -> set[str]:
        """Return the names of the tables that there are."""
        with self.db.sync.read_engine.connect() as connection:
            return set(inspect(connection).get_table_names())


def test_upgrade_downgrade_upgrade(migrations: Migrations) -> None:
    """The revisions lead up to head, back to an empty database, and up again."""
    project, order = migrations.load(), Order(migrations.db)
    project.upgrade(order, "heads")
    at_head = migrations.tables()
    project.downgrade(order, "base")
    left = migrations.tables() - {project.options.get("version_table", VERSION_TABLE)}
    assert not left, f"`downgrade base` leaves tables: {', '.join(sorted(left))}"
    project.upgrade(order, "heads")
    assert migrations.tables() == at_head


def test_models_match_head(migrations: Migrations) -> None:
    """The revisions make the tables that the models describe: `alembic check` finds nothing."""
    project, order = migrations.load(), Order(migrations.db)
    project.upgrade(order, "heads")
    project.compare(order)
