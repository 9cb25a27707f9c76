"""The revisions lead to what the models describe, back, and there again."""

from collections.abc import Iterator

import pytest

from fastdb import Database
from fastdb.migrations import downgrade_sync
from fastdb.migrations.testing import (  # noqa: F401 - they are run from here
    Migrations,
    test_models_match_head,
    test_upgrade_downgrade_upgrade,
)

pytestmark = pytest.mark.fastdb(isolation="database")


@pytest.fixture
def migrations(database_url: str) -> Iterator[Migrations]:
    """A database of the test's own, back at the beginning."""
    db = Database(database_url)
    downgrade_sync(db, "base")
    yield Migrations(db)
    db.sync.close()
