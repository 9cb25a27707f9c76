"""The scripts, which work on the synchronous twin."""

import pytest
from sqlalchemy import func, select, text

from fastdb import Database
from portfolio.check_schema import differences
from portfolio.models import Asset
from portfolio.populate import populate

pytestmark = pytest.mark.fastdb(isolation="database")


def test_populate_adds_what_is_missing(database_url: str) -> None:
    """Once, however often it is run."""
    db = Database(database_url)
    with db.sync:
        assert populate(db) == 2
        assert populate(db) == 0
        with db.sync.read_session() as session:
            assert session.scalar(select(func.count()).select_from(Asset)) == 3


def test_schema_is_as_the_models_have_it(database_url: str) -> None:
    """The migrations lead there."""
    db = Database(database_url)
    with db.sync:
        assert differences(db) == []


def test_what_is_missing_is_named(database_url: str) -> None:
    """A column and a table that somebody has dropped."""
    db = Database(database_url)
    with db.sync:
        with db.sync.session() as session:
            session.execute(text("ALTER TABLE assets DROP COLUMN price"))
            session.execute(text("DROP TABLE rates"))
        assert differences(db) == ["no table rates", "no column assets.price"]
