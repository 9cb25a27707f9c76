"""Migrations: Alembic on the synchronous twin, by one worker while the others wait.

    # migrations/env.py
    run(db, Base.metadata)

    # in a lifespan
    await upgrade(db)

`fastdb init` writes the folder and the configuration.
"""

from importlib import import_module

try:
    import_module("alembic")
except ModuleNotFoundError as missing:
    raise ImportError(
        f'fastdb.migrations needs Alembic ({missing}): pip install "fastapi-fastdb[migrations]"'
    ) from missing

from fastdb.migrations.commands import (
    check_at_head,
    check_at_head_sync,
    current,
    current_sync,
    downgrade,
    downgrade_sync,
    pending,
    pending_sync,
    upgrade,
    upgrade_sync,
)
from fastdb.migrations.environment import run

__all__ = [
    "check_at_head",
    "check_at_head_sync",
    "current",
    "current_sync",
    "downgrade",
    "downgrade_sync",
    "pending",
    "pending_sync",
    "run",
    "upgrade",
    "upgrade_sync",
]
