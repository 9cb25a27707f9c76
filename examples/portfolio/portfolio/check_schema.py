"""Say whether the tables are as the models have them: `python -m portfolio.check_schema`.

For a deployment in which something else migrates: it changes nothing, and exits with 1 where the
database is not what this version of the app expects.
"""

import sys
from collections.abc import Iterator

from sqlalchemy import Inspector, Table, inspect

from fastdb import Database
from portfolio.database import db
from portfolio.models import Base


def differences(database: Database) -> list[str]:
    """Describe what is missing, or other than in the models."""
    with database.sync.read_engine.connect() as connection:
        inspector = inspect(connection)
        tables = set(inspector.get_table_names())
        found = [f"no table {name}" for name in Base.metadata.tables if name not in tables]
        for table in Base.metadata.tables.values():
            if table.name in tables:
                found += _of_table(inspector, table)
    return found


def _of_table(inspector: Inspector, table: Table) -> Iterator[str]:
    columns = {column["name"]: column for column in inspector.get_columns(table.name)}
    for column in table.columns:
        there = columns.get(column.name)
        if there is None:
            yield f"no column {table.name}.{column.name}"
        elif there["nullable"] != column.nullable:
            yield f"{table.name}.{column.name} is{'' if there['nullable'] else ' not'} nullable"
    keys = {tuple(key["constrained_columns"]) for key in inspector.get_foreign_keys(table.name)}
    for constraint in table.foreign_key_constraints:
        if tuple(constraint.column_keys) not in keys:
            yield f"no foreign key {table.name}.{', '.join(constraint.column_keys)}"


if __name__ == "__main__":
    with db.sync:
        found = differences(db)
    print("\n".join(found) or "The tables are as the models have them.")
    sys.exit(1 if found else 0)
