"""The app's own databases in a test run: not to be used."""

from collections.abc import Iterator
from typing import NoReturn

from sqlalchemy import Pool

from fastdb.database import Database
from fastdb.errors import ConfigurationError, NotUndone
from fastdb.loops import EnginesByLoop
from fastdb.supply import Supply


def away(db: Database) -> Supply:
    """Return what refuses to serve `db`."""

    def refuse() -> NoReturn:
        raise NotUndone(
            f"A test has used {db_name}, which is the app's own and not for tests. Let the test"
            " ask for a fixture of fastdb's (db, session, client, …), or for its databases alone:"
            ' @pytest.mark.usefixtures("fastdb_test").'
        )

    db_name = repr(db)
    if db.pools():
        raise ConfigurationError(
            f"{db_name} had made engines before the first test, at import perhaps (db.engine,"
            " db.sync.engine), which would lead whoever holds them to the app's own database. Ask"
            " for them where they are used."
        )
    loops = _Away(db_name, refuse)
    return Supply(db.supply.recipe, refuse, loops, refuse)


class _Away(EnginesByLoop):
    """Makes no engines, for any loop."""

    def enter(self) -> None:
        """Refuse."""
        self._make()

    def pools(self) -> Iterator[Pool]:
        """List nothing."""
        yield from ()
