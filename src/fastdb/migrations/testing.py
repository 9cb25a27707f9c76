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

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

from sqlalchemy import Inspector, inspect

from fastdb.database import Database
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

    def tables(self) -> dict[str, list[str]]:
        """Describe the tables that there are: columns, keys, indexes and constraints."""
        with self.db.sync.read_engine.connect() as connection:
            inspector = inspect(connection)
            return {name: _describe(inspector, name) for name in inspector.get_table_names()}


def _describe(inspector: Inspector, table: str) -> list[str]:
    columns = [
        f"column {column['name']} {column['type']}"
        f" {'NULL' if column['nullable'] else 'NOT NULL'} DEFAULT {column['default']}"
        for column in inspector.get_columns(table)
    ]
    rest: dict[str, Sequence[object]] = {
        "primary key": [inspector.get_pk_constraint(table)],
        "foreign key": inspector.get_foreign_keys(table),
        "index": inspector.get_indexes(table),
        "unique constraint": inspector.get_unique_constraints(table),
        "check constraint": inspector.get_check_constraints(table),
    }
    return sorted(columns + [f"{kind} {each}" for kind, all_ in rest.items() for each in all_])


def test_upgrade_downgrade_upgrade(migrations: Migrations) -> None:
    """The revisions lead up to head, back to an empty database, and up again."""
    project, order = migrations.load(), Order(migrations.db)
    project.upgrade(order, "heads")
    at_head = migrations.tables()
    project.downgrade(order, "base")
    left = migrations.tables().keys() - {project.settings.version_table.name}
    assert not left, f"`downgrade base` leaves tables: {', '.join(sorted(left))}"
    project.upgrade(order, "heads")
    again = migrations.tables()
    changed = [name for name in at_head | again if at_head.get(name) != again.get(name)]
    assert not changed, "The second upgrade makes other tables:\n" + "\n".join(
        f"{name}: {at_head.get(name)}\n  and then {again.get(name)}" for name in changed
    )


def test_models_match_head(migrations: Migrations) -> None:
    """The revisions make the tables that the models describe: `alembic check` finds nothing."""
    project, order = migrations.load(), Order(migrations.db)
    project.upgrade(order, "heads")
    project.compare(order)
