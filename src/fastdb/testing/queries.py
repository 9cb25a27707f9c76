"""Count the queries of a test, and find those that are one too many for each row.

with count_queries(db) as queries:
    await client.get("/heroes")
assert_query_count(queries, 2)
assert_no_n_plus_one(queries)
"""

import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from reprlib import Repr
from textwrap import shorten
from typing import Any, overload
from weakref import WeakSet

from sqlalchemy import Connection, Engine, event

from fastdb.callers import current_serving
from fastdb.database import Database
from fastdb.errors import ConfigurationError
from fastdb.testing.origins import Origin, find_origin

# What begins and ends transactions, and what sets something for them or for the connection. With
# MariaDB's SET STATEMENT begins a query.
_NO_QUERY = re.compile(
    r"\s*(BEGIN|START\s+TRANSACTION|COMMIT|END|ROLLBACK|SAVEPOINT|RELEASE|PRAGMA"
    r"|SET(?!\s+STATEMENT))\b",
    re.IGNORECASE,
)

_READS = re.compile(r"[\s(]*(SELECT|WITH|VALUES|TABLE)\b", re.IGNORECASE)

# Who asks for so many keys in one statement does what is advised against N+1.
_BATCH = 100

_STATEMENT_LENGTH = 300


class _ShortRepr(Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlist = 3
        self.maxtuple = self.maxdict = 10
        self.maxstring = self.maxother = 60


_short = _ShortRepr()


@dataclass(frozen=True, slots=True)
class Query:
    """A statement that was given to a driver.

    Attributes:
        statement: Its text.
        parameters: As the driver gets them; of many executions in one, a list.
        origin: The line of your own code that caused it.
        request: What stands for the request that it was executed for.
        is_batch: Whether it is about many rows at once.
    """

    statement: str
    parameters: Any
    origin: Origin
    request: Hashable = field(default=None, repr=False)
    is_batch: bool = field(default=False, repr=False)

    @property
    def line(self) -> str:
        """Where your own code caused it: `app/heroes.py:12`; empty where none of it did."""
        return self.origin.line

    def __str__(self) -> str:
        parameters = f"\n{_short.repr(self.parameters)}" if self.parameters else ""
        return f"{self.origin}\n{_shortened(self.statement)}{parameters}"

    @property
    def is_read(self) -> bool:
        """Whether it reads."""
        return _READS.match(self.statement) is not None


@dataclass(frozen=True, slots=True)
class Repetition:
    """A statement that was executed several times.

    Attributes:
        queries: Each time.
    """

    queries: tuple[Query, ...]

    @property
    def statement(self) -> str:
        """Its text."""
        return self.queries[0].statement

    @property
    def line(self) -> str:
        """Where your own code caused it the first time."""
        return self.queries[0].line

    def __len__(self) -> int:
        return len(self.queries)


class Queries(Sequence[Query]):
    """The queries of a block, in the order in which they were executed; it grows until the end."""

    def __init__(self) -> None:
        self._queries: list[Query] = []

    def __len__(self) -> int:
        return len(self._queries)

    @overload
    def __getitem__(self, index: int) -> Query: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Query]: ...
    def __getitem__(self, index: int | slice) -> Query | Sequence[Query]:
        return self._queries[index]

    def __repr__(self) -> str:
        return f"<Queries: {len(self)}>"

    def __str__(self) -> str:
        numbered = (f"{number:3}. {query}" for number, query in enumerate(self, start=1))
        return "\n".join(each.replace("\n", "\n     ") for each in numbered)

    def n_plus_one(self, *, at_most: int = 2) -> list[Repetition]:
        """Return the reads that one line has executed again and again, with other parameters.

        Each request counts for itself. Of what was executed twice with the same parameters,
        see `repeated`. What loads many rows at once is no such read: `selectinload`, also where
        it needs several statements, and who asks for a hundred keys or more. Nor are writes: the
        rows of a flush are written one by one where the database cannot do better.

        Args:
            at_most: With how many different parameters a line may do that. Default 2, such as one
                function loads the two accounts of a transfer; three of them are a loop. So there
                should be three rows at least in the tests.
        """
        reads = (query for query in self if query.is_read and not query.is_batch)
        groups = _grouped(reads, lambda query: (query.statement, query.origin, query.request))
        return [
            Repetition(tuple(group))
            for group in groups
            if len({repr(query.parameters) for query in group}) > at_most
        ]

    def repeated(self, *, times: int = 2) -> list[Repetition]:
        """Return the reads that were executed several times with the same parameters.

        From whichever lines, but each request for itself. That may be right, after a write; else
        somebody should hand over what has been read already.

        Args:
            times: How often at least. Default 2.
        """
        reads = (query for query in self if query.is_read)
        groups = _grouped(
            reads, lambda query: (query.statement, repr(query.parameters), query.request)
        )
        return [Repetition(tuple(group)) for group in groups if len(group) >= times]

    def note(self, query: Query) -> None:
        """Add a query: for who counts."""
        self._queries.append(query)


@contextmanager
def count_queries(db: Database) -> Iterator[Queries]:
    """Count the queries that `db` executes in the block, on whichever engine, task and thread.

    Also around `await`, and one in another. What many rows are given to at once is one query
    (`executemany`, an INSERT of several objects, in however many batches). Not counted are BEGIN,
    COMMIT, ROLLBACK and savepoints, SET and PRAGMA, and the settings that fastdb sends by itself.

    Args:
        db: The Database. What other databases do is not counted.

    Raises:
        ConfigurationError: `db` is something else.
    """
    check_database("count_queries", db)
    queries = Queries()
    batched: WeakSet[Any] = WeakSet()

    def before(
        connection: Connection,
        _cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> None:
        if not is_query(db, connection, statement):
            return
        if executemany:
            if context in batched:
                return
            batched.add(context)
        origin = find_origin()
        if origin is not None:
            is_batch = origin.in_batches or executemany or len(parameters or ()) >= _BATCH
            queries.note(Query(statement, parameters, origin, current_serving(), is_batch))

    # On the class, for engines that are made in the block, too.
    event.listen(Engine, "before_cursor_execute", before)
    try:
        yield queries
    finally:
        event.remove(Engine, "before_cursor_execute", before)


def assert_query_count(
    queries: Queries, expected: int | None = None, *, at_most: int | None = None
) -> None:
    """Fail, and list the queries with their lines, unless there are as many as expected.

    Args:
        queries: Of `count_queries`.
        expected: How many, exactly.
        at_most: How many at most; in place of `expected`.

    Raises:
        AssertionError: There are more, or fewer.
        ConfigurationError: Not exactly one of both figures is given.
    """
    __tracebackhide__ = True
    if (expected is None) == (at_most is None):
        raise ConfigurationError(
            "assert_query_count(): give either how many queries are expected, or `at_most=`."
        )
    if len(queries) == expected or (at_most is not None and len(queries) <= at_most):
        return
    wanted = _queries(expected) if at_most is None else f"at most {_queries(at_most)}"
    were = "was" if len(queries) == 1 else "were"
    listed = f":\n{queries}" if len(queries) else "."
    raise AssertionError(f"Expected {wanted}, {len(queries)} {were} executed{listed}")


def assert_no_n_plus_one(queries: Queries, *, at_most: int = 2) -> None:
    """Fail if one line has executed a read again and again, for one row after the other.

    Args:
        queries: Of `count_queries`.
        at_most: As in `Queries.n_plus_one`, where it is told what counts.

    Raises:
        AssertionError: With the statement, how often it was executed, and the line.
    """
    __tracebackhide__ = True
    found = queries.n_plus_one(at_most=at_most)
    if found:
        raise AssertionError("\n\n".join(map(_told, found)))


def check_database(name: str, db: object) -> None:
    """Raise ConfigurationError unless `db` is a Database, which `name` is called with."""
    if not isinstance(db, Database):
        raise ConfigurationError(
            f"{name}({db!r}): must be a fastdb.Database, not one of its engines or its twin."
        )


def is_query(db: Database, connection: Connection, statement: str) -> bool:
    """Return whether a statement belongs to `db`, and does more than to begin, end or set."""
    return not _NO_QUERY.match(statement) and connection.engine.pool in db.pools()


def _told(found: Repetition) -> str:
    first = found.queries[0]
    parameters = "\n".join(f"  {_short.repr(query.parameters)}" for query in found.queries[:3])
    more = "\n  …" if len(found) > 3 else ""
    return (
        f"N+1: this line has executed a statement {len(found)} times, each for other rows:\n"
        f"  {first.origin}\n"
        f"  {_shortened(first.statement)}\n{parameters}{more}\n"
        "Load them at once: related objects with the query that loads their parents, by"
        " `.options(selectinload(…))` or a join; rows by their keys, with"
        " `.where(Model.id.in_(ids))`."
    )


def _grouped(queries: Iterator[Query], key: Callable[[Query], Hashable]) -> Iterator[list[Query]]:
    groups: dict[Hashable, list[Query]] = {}
    for query in queries:
        groups.setdefault(key(query), []).append(query)
    yield from groups.values()


def _shortened(statement: str) -> str:
    return shorten(statement, _STATEMENT_LENGTH, placeholder=" …")


def _queries(number: int | None) -> str:
    return "1 query" if number == 1 else f"{number} queries"
