"""One Database of the app's in a test run: its template, and what serves each test."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from fastdb.database import Database
from fastdb.errors import NotUndone
from fastdb.supply import Supply
from fastdb.testing.home import Home
from fastdb.testing.places import place_for
from fastdb.testing.rollbacks import Rollbacks
from fastdb.testing.settings import Isolation, Schema


@dataclass(frozen=True, slots=True)
class Host:
    """What the sessions of a test itself use.

    Attributes:
        supply: What their engines come from.
        to_close: Closes those; None where they hold nothing.
        url: Of the database, where it is the test's own and others may connect to it.
    """

    supply: Supply
    to_close: Database | None = None
    url: str | None = None


class TestedDatabase:
    """The test database of a run that stands in for one of the app's.

    Args:
        home: Where its connections live.
        db: The app's.
        url: Of the server.
        schema: Makes the tables.
    """

    __test__ = False  # its name is no test's

    def __init__(self, home: Home, db: Database, url: str, schema: Schema) -> None:
        self.db = db
        self._home = home
        self._place = place_for(url)
        self._schema = schema

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Make the template, with its tables, and let it serve."""
        with ExitStack() as stack:
            stack.callback(self._run, self._place.close)
            self._run(self._place.open)
            self._template = self.db.elsewhere(self._place.template)
            stack.callback(self._run, self._template.aclose)
            self._run(self._make_tables)
            stack.enter_context(self.db.supplied_by(self._template.supply))
            yield

    async def _make_tables(self) -> None:
        if self._schema is not None:
            made = self._schema(self._template)
            if inspect.isawaitable(made):
                await made

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Be ready for tests; between them nothing is served, neither the template nor the app's.

        What the app does meanwhile, by itself, is refused.
        """
        self._run(self._template.aclose)
        self._prepare_rollbacks()
        try:
            guests = self._rollbacks.begin()
            self._rollbacks.roll_back()
            with self.db.supplied_by(guests.supply()):
                yield
        finally:
            self._rollbacks.close()
            self._run(self._template.__aenter__)  # for what the app does when it ends

    def _prepare_rollbacks(self) -> None:
        self._rolled_back = self._run(self._place.copy_to_roll_back)
        self._rollbacks = Rollbacks(self._home, self.db.elsewhere(self._rolled_back).supply)

    def _roll_back(self) -> None:
        try:
            self._rollbacks.roll_back()
        except NotUndone:
            self._rollbacks.close()
            self._run(lambda: self._place.drop(self._rolled_back))
            self._prepare_rollbacks()  # the next tests must not see what this one has written
            raise

    @contextmanager
    def isolated(self, how: Isolation) -> Iterator[Host]:
        """Let one test have it as if nobody had written to it; give what its own sessions use."""
        with ExitStack() as stack:
            if how == "rollback":
                guests = self._rollbacks.begin()
                stack.callback(self._roll_back)
                host, supply = Host(guests.host_supply()), guests.supply()
            else:
                url = self._run(self._place.copy)
                stack.callback(self._run, lambda: self._place.drop(url))
                # Engines of their own: the session is made before its event loop runs.
                theirs = self.db.elsewhere(url)
                host = Host(theirs.supply, theirs, url)
                supply = self.db.elsewhere(url).supply
            stack.enter_context(self.db.supplied_by(supply))
            yield host

    def _run(self, make: Callable[[], Any]) -> Any:
        return self._home.run(make())
