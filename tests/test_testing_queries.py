"""Counting queries: which ones, whose, from which line; and what is one too many for each row."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ForeignKey, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    selectinload,
)

from backends import Backend
from fastdb import (
    ConfigurationError,
    Database,
    ReadSessionDep,
    SessionDep,
    SnapshotSessionDep,
    SyncSessionDep,
    Timeouts,
    atomic,
)
from fastdb.testing import origins
from fastdb.testing.queries import (
    Queries,
    Query,
    assert_no_n_plus_one,
    assert_query_count,
    count_queries,
)
from models import Base, Hero, Team

HERE = Path(__file__)
SOURCE = HERE.read_text().splitlines()


@pytest.fixture
async def db(database: Database) -> Database:
    """A database with four heroes, each in a team of its own."""
    await database.create_all(Base.metadata)
    async with database.session() as session:
        names = "abcd"
        session.add_all([Hero(name=name, team=Team(name=f"team {name}")) for name in names])
    return database


def assert_line(query: Query, code: str) -> None:
    """The query was caused by a line of this file that has `code` in it."""
    path, _, number = query.line.rpartition(":")
    assert Path(path).name == HERE.name
    assert code in SOURCE[int(number) - 1]


@asynccontextmanager
async def calling(app: FastAPI, db: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        db.lifespan(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client,
    ):
        yield client


# --- What counts ------------------------------------------------------------------------------


async def test_statements_count_and_transactions_do_not(db: Database) -> None:
    """BEGIN, COMMIT, ROLLBACK, savepoints, and what fastdb sets by itself are not queries."""
    with count_queries(db) as queries:
        async with db.session(timeouts=Timeouts(statement=7, lock=7)) as session:
            await session.execute(select(Hero.name))
            async with atomic(session):
                await session.execute(text("SELECT 1"))
        async with db.session() as session:
            await session.execute(text("SELECT 2"))
            await session.rollback()
    assert [query.statement for query in queries] == [
        "SELECT hero.name \nFROM hero",
        "SELECT 1",
        "SELECT 2",
    ]
    assert_query_count(queries, 3)


async def test_every_way_to_the_database_counts(db: Database) -> None:
    """All kinds of sessions, the engines themselves, and variants with options of their own."""
    ways: list[Callable[[], Any]] = [
        db.session,
        lambda: db.session(begin="immediate"),
        lambda: db.session(isolation="SERIALIZABLE"),
        lambda: db.session(timeouts=Timeouts(statement=7)),
        db.read_session,
        lambda: db.read_session(snapshot=True),
        db.engine.connect,
        db.read_engine.connect,
        db.engine.execution_options(a=1).execution_options(b=2).connect,
    ]
    for way in ways:
        with count_queries(db) as queries:
            async with way() as it:
                await it.execute(text("SELECT 1"))
        assert [query.statement for query in queries] == ["SELECT 1"]


async def test_the_twin_counts(db: Database) -> None:
    """Also engines that are made inside of the block, in other threads."""

    def work() -> None:
        with db.sync.session() as session:
            session.execute(text("SELECT 1"))
        with db.sync.engine.connect() as connection:
            connection.execute(text("SELECT 2"))

    with count_queries(db) as queries:
        await asyncio.to_thread(work)
    assert [query.statement for query in queries] == ["SELECT 1", "SELECT 2"]
    assert_line(queries[0], '"SELECT 1"')


def test_each_event_loop_counts(backend: Backend) -> None:
    """A counter is not of one loop: the test's thread counts what an app does in its own."""
    db = Database(backend.url)

    async def work() -> None:
        async with db, db.session() as session:
            await session.execute(text("SELECT 1"))

    with count_queries(db) as queries:
        asyncio.run(work())
        thread = threading.Thread(target=lambda: asyncio.run(work()))
        thread.start()
        thread.join()
    assert_query_count(queries, 2)


async def test_other_databases_do_not_count(db: Database) -> None:
    """Nor does what comes before the block and after it; one counter in another is another."""
    async with Database("sqlite://") as other:

        async def ask(database: Database) -> None:
            async with database.session() as session:
                await session.execute(text("SELECT 1"))

        await ask(db)
        with count_queries(db) as ours, count_queries(other) as others:
            await ask(db)
            with count_queries(db) as inner:
                await ask(db)
                await ask(other)
            await ask(db)
        await ask(db)
        await ask(other)
    assert (len(ours), len(others), len(inner)) == (3, 1, 1)


async def test_many_rows_at_once_are_one_query(db: Database) -> None:
    """However many batches SQLAlchemy makes of them, and whether they come back or not."""
    with count_queries(db) as queries:
        async with db.session() as session:
            await session.execute(insert(Team), [{"name": f"a{i}"} for i in range(2500)])
            values: list[dict[str, Any]] = [{"name": f"b{i}"} for i in range(2500)]
            if db.engine.dialect.insert_executemany_returning:
                await session.scalars(insert(Team).returning(Team.id), values)
            else:
                await session.execute(insert(Team), values)
    assert_query_count(queries, 2)
    assert_no_n_plus_one(queries)


async def test_nothing_listens_afterwards(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the block fails: tests that count nothing are as quick as ever."""
    with pytest.raises(ZeroDivisionError), count_queries(db) as queries:
        1 / 0  # noqa: B018
    asked: list[object] = []
    monkeypatch.setattr("fastdb.testing.queries.is_query", lambda *of: asked.append(of))
    async with db.session() as session:
        await session.execute(text("SELECT 1"))
    assert (len(queries), asked) == (0, [])


# --- Whose line it is -------------------------------------------------------------------------


async def test_it_is_the_innermost_line_of_ones_own(db: Database) -> None:
    """Of the function that executes, not of the one that calls it; and the text of the line."""

    async def names(session: AsyncSession) -> Any:
        return (await session.scalars(select(Hero.name))).all()

    with count_queries(db) as queries:
        async with db.session() as session:
            await names(session)
            await session.get(Hero, 1)
            session.add(Team(name="new"))
    assert_line(queries[0], "select(Hero.name)")
    assert (queries[0].origin.function, queries[1].origin.function) == (
        "names",
        "test_it_is_the_innermost_line_of_ones_own",
    )
    assert_line(queries[1], "get(Hero, 1)")
    assert_line(queries[2], "with db.session() as")  # which ends there
    await asyncio.to_thread(lambda: queries[0].origin.code)  # reads the file once
    code = "return (await session.scalars(select(Hero.name))).all()"
    assert str(queries[0].origin) == f"{queries[0].line} in names(): {code}"


async def test_run_sync_and_lazy_loads_name_the_line_that_reads(db: Database) -> None:
    """It is neither SQLAlchemy's nor that of the query before it."""

    def teams(session: Session) -> str:
        heroes = session.scalars(select(Hero)).all()
        return ", ".join(hero.team.name for hero in heroes if hero.team)

    with count_queries(db) as queries:
        async with db.read_session() as session:
            await session.run_sync(teams)
    assert_line(queries[0], "select(Hero)")
    for query in queries[1:]:
        assert_line(query, "hero.team.name")
        assert query.origin.function == "teams"


class TeamOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str


class HeroOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str
    team: TeamOut


async def test_a_response_model_names_the_endpoint(db: Database) -> None:
    """What is loaded while FastAPI makes the response is on no line: its endpoint has caused it."""
    app = FastAPI()

    @app.get("/heroes", response_model=list[HeroOut])
    def list_heroes(session: SyncSessionDep) -> Any:
        return session.scalars(select(Hero)).all()

    @app.get("/models")
    def make_models(session: SyncSessionDep) -> list[HeroOut]:
        return [HeroOut.model_validate(hero) for hero in session.scalars(select(Hero))]

    async with calling(app, db) as client:
        with count_queries(db) as queries:
            assert len((await client.get("/heroes")).json()) == 4
        with count_queries(db) as of_models:
            assert len((await client.get("/models")).json()) == 4
    assert_line(queries[0], "select(Hero)")
    for query in queries[1:]:
        assert_line(query, '@app.get("/heroes"')
    assert len(queries.n_plus_one()) == 1
    assert {query.origin.function for query in of_models} == {"make_models"}
    (found,) = of_models.n_plus_one()
    assert_line(found.queries[0], "model_validate")


async def test_the_end_of_a_request_names_the_endpoint(db: Database) -> None:
    """What is written then was added by the endpoint, not by the test that calls it."""
    app = FastAPI()

    @app.post("/teams")
    async def create(session: SessionDep) -> None:
        session.add(Team(name="new"))

    async with calling(app, db) as client:
        with count_queries(db) as queries:
            await client.post("/teams")
    assert_query_count(queries, 1)
    assert_line(queries[0], '@app.post("/teams")')


def install_this_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were beside its libraries."""
    libraries = (*origins._LIBRARIES, str(HERE.parent))
    monkeypatch.setattr(origins, "_LIBRARIES", libraries)


async def test_a_template_names_its_own_line(db: Database) -> None:
    """Jinja compiles a template into code of its file's name, and knows the line that is meant."""

    class Template:
        @staticmethod
        def get_corresponding_lineno(number: int) -> int:
            return 100 + number

    code = compile("def render(session):\n    session.execute(query)", "pages/a.html", "exec")
    names: dict[str, Any] = {"query": select(Hero), "__jinja_template__": Template()}
    exec(code, names)  # noqa: S102
    with count_queries(db) as queries:
        async with db.read_session() as session:
            await session.run_sync(names["render"])
    assert queries[0].line == "pages/a.html:102"


async def test_an_installed_application_has_lines_too(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is installed beside its libraries, it is known by the package of the endpoint."""
    install_this_file(monkeypatch)
    app = FastAPI()

    async def names(session: AsyncSession) -> None:
        await session.scalars(select(Hero.name))

    @app.get("/names")
    async def list_names(session: ReadSessionDep) -> None:
        await names(session)

    async with calling(app, db) as client:
        with count_queries(db) as queries:
            await client.get("/names")
    assert_line(queries[0], "session.scalars(select(Hero.name))")


@pytest.mark.backends("sqlite-file")
async def test_who_has_no_line_is_named(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's own task, for one."""
    install_this_file(monkeypatch)
    with count_queries(db) as queries:
        task = asyncio.create_task(db.ping(), name="heartbeat")
        await task
    assert queries[0].line == ""
    assert str(queries[0]) == "Task 'heartbeat', in no line of yours\nSELECT 1"


# --- How many ---------------------------------------------------------------------------------


async def three_queries(db: Database) -> Queries:
    with count_queries(db) as queries:
        async with db.read_session() as session:
            for name in ("a", "b" * 200):
                await session.execute(select(Hero.id).where(Hero.name == name))
            await session.execute(text("SELECT 1"))
    await asyncio.to_thread(lambda: queries[0].origin.code)  # reads the file once
    return queries


@pytest.mark.backends("sqlite-file")
async def test_a_wrong_number_lists_the_queries(db: Database) -> None:
    """Numbered, each with its line, and what is long cut short."""
    queries = await three_queries(db)
    with pytest.raises(AssertionError) as raised:
        assert_query_count(queries, 2)
    first, last = queries[0].line, queries[2].line
    loop = "await session.execute(select(Hero.id).where(Hero.name == name))"
    assert str(raised.value) == (
        "Expected 2 queries, 3 were executed:\n"
        f"  1. {first} in three_queries(): {loop}\n"
        "     SELECT hero.id FROM hero WHERE hero.name = ?\n"
        "     ('a',)\n"
        f"  2. {first} in three_queries(): {loop}\n"
        "     SELECT hero.id FROM hero WHERE hero.name = ?\n"
        f"     ('{'b' * 27}...{'b' * 28}',)\n"
        f'  3. {last} in three_queries(): await session.execute(text("SELECT 1"))\n'
        "     SELECT 1"
    )


@pytest.mark.backends("sqlite-file")
async def test_at_most_is_an_upper_limit(db: Database) -> None:
    """Fewer are as good; an exact number is exact in both directions."""
    queries = await three_queries(db)
    assert_query_count(queries, at_most=3)
    assert_query_count(queries, at_most=4)
    assert_query_count(queries, 3)
    with pytest.raises(AssertionError, match=r"^Expected at most 1 query, 3 were executed:"):
        assert_query_count(queries, at_most=1)
    with pytest.raises(AssertionError, match=r"^Expected 4 queries, 3 were executed:"):
        assert_query_count(queries, 4)
    with pytest.raises(AssertionError, match=r"^Expected 1 query, 0 were executed\.$"):
        assert_query_count(Queries(), 1)
    for figures in ({}, {"expected": 1, "at_most": 1}):
        with pytest.raises(ConfigurationError) as raised:
            assert_query_count(queries, **figures)
        assert str(raised.value) == (
            "assert_query_count(): give either how many queries are expected, or `at_most=`."
        )


def test_queries_are_a_sequence() -> None:
    """They can be counted, looped over and sliced, and are short where pytest shows them."""
    queries = Queries()
    assert (len(queries), list(queries), list(queries[:1]), repr(queries)) == (
        0,
        [],
        [],
        "<Queries: 0>",
    )


async def test_only_a_database_is_counted(db: Database) -> None:
    """An engine or the twin would count too little."""
    for wrong in (db.engine, db.sync, None):
        with pytest.raises(ConfigurationError) as raised, count_queries(wrong):  # type: ignore[arg-type]
            pass
        assert str(raised.value) == (
            f"count_queries({wrong!r}): must be a fastdb.Database, not one of its engines or its"
            " twin."
        )


# --- N+1 --------------------------------------------------------------------------------------


@pytest.mark.backends("sqlite-file")
async def test_n_plus_one_names_statement_line_and_remedy(db: Database) -> None:
    """All that is needed to mend it, and no more."""

    def teams(session: Session) -> list[str]:
        return [hero.team.name for hero in session.scalars(select(Hero)).all() if hero.team]

    with count_queries(db) as queries:
        async with db.read_session() as session:
            await session.run_sync(teams)
    await asyncio.to_thread(lambda: queries[0].origin.code)  # reads the file once
    with pytest.raises(AssertionError) as raised:
        assert_no_n_plus_one(queries)
    (found,) = queries.n_plus_one()
    assert (len(found), found.line, found.statement) == (
        4,
        queries[1].line,
        queries[1].statement,
    )
    assert str(raised.value) == (
        "N+1: this line has executed a statement 4 times, each for other rows:\n"
        f"  {queries[1].origin}\n"
        f"  {' '.join(found.statement.split())}\n"
        "  (1,)\n"
        "  (2,)\n"
        "  (3,)\n"
        "  …\n"
        "Load them at once: related objects with the query that loads their parents, by"
        " `.options(selectinload(…))` or a join; rows by their keys, with"
        " `.where(Model.id.in_(ids))`."
    )


@pytest.mark.parametrize("session_dep", [ReadSessionDep, SessionDep, SnapshotSessionDep])
async def test_n_plus_one_in_a_request(db: Database, session_dep: Any) -> None:
    """In a loop of `await`s, on every backend and with every kind of session."""
    app = FastAPI()

    @app.get("/teams")
    async def list_teams(session: session_dep) -> list[str]:
        ids = (await session.scalars(select(Hero.team_id))).all()
        return [(await session.get_one(Team, id_)).name for id_ in ids]

    async with calling(app, db) as client:
        with count_queries(db) as queries:
            answer = await client.get("/teams")
    assert len(answer.json()) == 4
    (found,) = queries.n_plus_one()
    assert_line(found.queries[0], "get_one(Team, id_)")
    assert queries.n_plus_one(at_most=4) == []
    with pytest.raises(AssertionError, match=r"^N\+1: this line has executed a statement 4 times"):
        assert_no_n_plus_one(queries)


async def test_loading_at_once_is_no_n_plus_one(db: Database) -> None:
    """`selectinload` is the remedy, in as many statements as it takes; so are keys by hundreds."""
    async with db.session() as session:
        await session.execute(insert(Team), [{"name": f"t{i}"} for i in range(2100)])
    with count_queries(db) as queries:
        async with db.read_session() as session:
            teams = await session.scalars(select(Team).options(selectinload(Team.heroes)))
            ids = [team.id for team in teams]
            for start in range(0, 2000, 400):
                keys = ids[start : start + 400]
                await session.execute(select(Hero.id).where(Hero.team_id.in_(keys)))
    assert len(queries) > 9
    assert_no_n_plus_one(queries)


class Trees(DeclarativeBase):
    pass


class Node(Trees):
    __tablename__ = "node"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("node.id"))
    children: Mapped[list["Node"]] = relationship()


async def test_selectinload_of_a_tree_is_no_n_plus_one(database: Database) -> None:
    """It asks once for each level, with the same statement where they are as wide."""
    await database.create_all(Trees.metadata)
    async with database.session() as session:
        for id_ in range(1, 7):
            session.add(Node(id=id_, parent_id=id_ - 1 or None))
            await session.flush()
    with count_queries(database) as queries:
        async with database.read_session() as session:
            option = selectinload(Node.children, recursion_depth=-1)
            await session.scalars(select(Node).where(Node.id == 1).options(option))
    assert len(queries) == 7
    assert_no_n_plus_one(queries)


async def test_several_lines_are_no_n_plus_one(db: Database) -> None:
    """Each of them is written once, and executed once."""
    with count_queries(db) as queries:
        async with db.session() as session:
            await session.get(Hero, 1)
            await session.get(Hero, 2)
            await session.get(Hero, 3)
            await session.get(Hero, 4)
    assert_query_count(queries, 4)
    assert_no_n_plus_one(queries)


async def test_two_are_no_n_plus_one(db: Database) -> None:
    """The two accounts of a transfer are loaded by one function; a third makes a loop."""
    for most, found in ((2, 0), (3, 1)):
        with count_queries(db) as queries:
            async with db.session() as session:
                for id_ in range(1, most + 1):
                    await session.get(Hero, id_)
        assert len(queries.n_plus_one()) == found


async def test_the_same_again_is_another_fault(db: Database) -> None:
    """Who asks the same question again should keep the answer: loading at once would not help."""
    with count_queries(db) as queries:
        async with db.session() as session:
            for _ in range(5):
                await session.execute(select(Hero).where(Hero.id == 1))
            await session.execute(select(Hero).where(Hero.id == 2))
    assert_no_n_plus_one(queries)
    (found,) = queries.repeated()
    assert len(found) == 5
    assert queries.repeated(times=5) == [found]
    assert queries.repeated(times=6) == []


async def test_requests_are_told_apart(db: Database) -> None:
    """A test that makes a request for each hero has no N+1, nor does it repeat itself."""
    app = FastAPI()

    @app.get("/heroes/{hero_id}")
    async def read_hero(hero_id: int, session: ReadSessionDep) -> str:
        await session.execute(select(Team))
        return (await session.get_one(Hero, hero_id)).name

    async with calling(app, db) as client:
        with count_queries(db) as queries:
            for hero_id in (1, 2, 3, 4):
                await client.get(f"/heroes/{hero_id}")
    assert_query_count(queries, 8)
    assert_no_n_plus_one(queries)
    assert queries.repeated() == []


async def test_rows_of_a_flush_are_no_n_plus_one(db: Database) -> None:
    """The unit of work writes them one by one where it must; nothing can be loaded there."""
    with count_queries(db) as queries:
        async with db.session() as session:
            for name in ("v", "w", "x", "y"):
                session.add(Team(name=name))
                await session.flush()
    assert len(queries) >= 4
    assert_no_n_plus_one(queries)
