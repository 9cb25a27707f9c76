"""The fixtures and markers that a project gets whose settings name its app or its Database.

    async def test_hero_is_created(client, session):
        answer = await client.post("/heroes", json={"name": "Deadpond"})
        assert answer.status_code == 201
        assert await session.scalar(select(func.count()).select_from(Hero)) == 1

Whatever is fetched from a fixture works in any event loop, so that it does not matter which plugin
runs the tests, nor in which scope its loops are: the fixtures themselves are synchronous.
"""

import inspect
from collections.abc import Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import wraps
from typing import Any, cast, get_args

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from fastdb.database import Database
from fastdb.testing.away import away
from fastdb.testing.home import Home
from fastdb.testing.kit import SERVERS, IsolatedTest, Kit
from fastdb.testing.queries import Queries, assert_query_count, count_queries
from fastdb.testing.responsive import responsive_loop as watch_loop
from fastdb.testing.settings import Isolation, Settings
from fastdb.testing.unawaited import all_awaited

_TEST = pytest.StashKey[IsolatedTest]()
_SERVERS = pytest.StashKey["PrivateServers"]()
_WATCHED = pytest.StashKey[tuple[Home, float]]()
_LOOP_SECONDS = 0.1
_JUDGING = {"query_budget": "fastdb_test", "responsive_loop": "responsive_loop"}
_SERVER_URLS = "fastdb_server_urls"


class PrivateServers:
    """The servers that this run has started."""

    def __init__(self, urls: dict[str, str] | None = None) -> None:
        self._stack = ExitStack()
        self.urls = dict(urls or {})

    def url(self, kind: str) -> str:
        """Return the URL of the one of that kind, which is started when it is first asked for."""
        if kind not in self.urls:
            from fastdb.testing.servers import MariaDB, PostgreSQL

            start = PostgreSQL if kind == "postgresql" else MariaDB
            self.urls[kind] = self._stack.enter_context(start()).url()
        return self.urls[kind]

    def close(self) -> None:
        """Stop them."""
        self._stack.close()


def settings_of(config: pytest.Config) -> Settings:
    """Read the settings of a run."""
    isolation = config.getini("fastdb_isolation") or "rollback"
    return Settings(
        app=config.getini("fastdb_app") or None,
        databases=tuple(config.getini("fastdb_database")),
        url=config.getoption("--fastdb-url") or config.getini("fastdb_url") or None,
        schemas=tuple(config.getini("fastdb_schema")),
        isolation=_known(isolation, "fastdb_isolation"),
    )


def _known(isolation: str, where: str) -> Isolation:
    if isolation not in get_args(Isolation):
        known = " and ".join(map(repr, get_args(Isolation)))
        raise pytest.UsageError(f"{where} = {isolation!r}: there are {known}.")
    return cast("Isolation", isolation)


# --- The run ------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Explain the markers, and be ready to start servers."""
    config.addinivalue_line(
        "markers",
        'fastdb(isolation): "rollback", or "database" for a database of the test\'s own',
    )
    config.addinivalue_line(
        "markers", "query_budget(most): fail the test where it sends more queries than that"
    )
    config.addinivalue_line(
        "markers", "responsive_loop(seconds): the limit of the fixture of that name"
    )
    urls = getattr(config, "workerinput", {}).get(_SERVER_URLS)
    config.stash[_SERVERS] = PrivateServers(urls)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers."""
    config.stash[_SERVERS].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Start the servers that are wanted once for all workers of pytest-xdist."""
    servers = node.config.stash[_SERVERS]
    for kind in _server_kinds(settings_of(node.config)):
        servers.url(kind)
    node.workerinput[_SERVER_URLS] = servers.urls


def _server_kinds(settings: Settings) -> set[str]:
    if settings.url is not None:
        return {SERVERS[settings.url]} if settings.url in SERVERS else set()
    try:
        databases = [db for db, _ in settings.find_databases()]
    except Exception:  # noqa: BLE001 - the workers import it too, and say what is wrong
        return set()
    kinds: set[str] = {db.supply.recipe.target.backend for db in databases}
    return kinds & set(SERVERS.values())


@pytest.fixture(scope="session", autouse=True)
def fastdb_stays_away(pytestconfig: pytest.Config) -> Iterator[None]:
    """Refuse the app's own databases to all tests: what they use is made for them."""
    with ExitStack() as stack:
        for db, _ in settings_of(pytestconfig).find_databases():
            stack.enter_context(db.supplied_by(away(db)))
        yield


@pytest.fixture(scope="session")
def fastdb_kit(pytestconfig: pytest.Config) -> Iterator[Kit]:
    """The run's templates, and its app."""
    kit = Kit(settings_of(pytestconfig), pytestconfig.stash[_SERVERS].url)
    kit.open()
    yield kit
    kit.close()


# --- A test -------------------------------------------------------------------------------------


@pytest.fixture
def fastdb_test(request: pytest.FixtureRequest, fastdb_kit: Kit) -> Iterator[IsolatedTest]:
    """The test's databases, as if nobody had written to them; all fixtures below have them."""
    marker = request.node.get_closest_marker("fastdb")
    arguments = dict(marker.kwargs) if marker else {}
    isolation = arguments.pop("isolation", settings_of(request.config).isolation)
    if arguments or (marker and marker.args):
        raise pytest.UsageError(f"{request.node.nodeid}: fastdb() takes isolation=… only.")
    with fastdb_kit.isolated(_known(isolation, request.node.nodeid)) as test:
        request.node.stash[_TEST] = test
        yield test


@pytest.fixture
def db(fastdb_test: IsolatedTest) -> Database:
    """The app's Database (the first one), which leads to the test's."""
    return fastdb_test.db


@pytest.fixture
def database_url(fastdb_test: IsolatedTest) -> str:
    """The URL of the test's own database, for another process; not where it is rolled back."""
    return fastdb_test.url()


@pytest.fixture
def session(fastdb_test: IsolatedTest) -> AsyncSession:
    """A session of the test's own; what it has flushed, the app sees too."""
    return fastdb_test.session()


@pytest.fixture
def sync_session(fastdb_test: IsolatedTest) -> Session:
    """A session of the test's own, of the synchronous twin."""
    return fastdb_test.sync_session()


@pytest.fixture
def client(fastdb_test: IsolatedTest, fastdb_kit: Kit) -> Any:
    """An `httpx.AsyncClient` of the app."""
    from fastdb.testing.apps import async_client

    return async_client(fastdb_kit.home, _app(fastdb_kit))


@pytest.fixture
def sync_client(fastdb_test: IsolatedTest, fastdb_kit: Kit) -> Iterator[Any]:
    """An `httpx.Client` of the app, for synchronous tests."""
    from fastdb.testing.apps import sync_client

    with sync_client(fastdb_kit.home, _app(fastdb_kit)) as client:
        yield client


@pytest.fixture
def test_client(fastdb_test: IsolatedTest, fastdb_kit: Kit) -> Iterator[Any]:
    """A `TestClient` of FastAPI's, with WebSockets; the lifespan does not run again."""
    from fastapi.testclient import TestClient

    from fastdb.testing.apps import AppInAnyLoop

    with TestClient(AppInAnyLoop(_app(fastdb_kit), fastdb_test.close_here)) as client:
        yield client


@pytest.fixture
def live_server(fastdb_test: IsolatedTest, fastdb_kit: Kit) -> Iterator[str]:
    """The URL of a real server with the app, for browsers and other clients."""
    from fastdb.testing.live import live_server

    with live_server(fastdb_kit.home, _app(fastdb_kit)) as url:
        yield url


def _app(kit: Kit) -> Any:
    if kit.app is None:
        raise pytest.UsageError(
            'This fixture is for an app: say where it is, with fastdb_app = "shop.app:app".'
        )
    return kit.app


@pytest.fixture
def queries(fastdb_test: IsolatedTest) -> Iterator[Queries]:
    """What the test has asked its database so far (the first one), for `assert_query_count`."""
    with count_queries(fastdb_test.db) as queries:
        yield queries


@pytest.fixture
def responsive_loop(
    request: pytest.FixtureRequest, fastdb_test: IsolatedTest, fastdb_kit: Kit
) -> None:
    """Fail the test where its event loop, or the app's, is held for longer than 0.1 seconds.

    The marker `responsive_loop(seconds)` gives another limit.
    """
    marker = request.node.get_closest_marker("responsive_loop")
    if marker and (len(marker.args) != 1 or marker.kwargs):
        raise pytest.UsageError(f"{request.node.nodeid}: responsive_loop() takes a number.")
    limit = marker.args[0] if marker else _LOOP_SECONDS
    request.node.stash[_WATCHED] = (fastdb_kit.home, limit)


@pytest.fixture(autouse=True)
def fastdb_markers_count(request: pytest.FixtureRequest) -> None:
    """Let a marker that judges a test do so, whichever fixtures the test has."""
    for marker, fixture in _JUDGING.items():
        if request.node.get_closest_marker(marker) is not None:
            request.getfixturevalue(fixture)


# --- Around a test ------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Watch what a test does, and end in its event loop what belongs to that."""
    test = item.stash.get(_TEST, None)
    if test is None or not isinstance(item, pytest.Function):
        return (yield)
    with all_awaited(collect=False), _within_budget(item, test), _responsive(item):
        return (yield from _run(item, test))


def _run(item: pytest.Function, test: IsolatedTest) -> Generator[None, None, None]:
    original = item.obj
    if inspect.iscoroutinefunction(original):
        item.obj = _in_loop(original, item, test)
    try:
        return (yield)
    finally:
        item.obj = original


def _in_loop(original: Any, item: pytest.Function, test: IsolatedTest) -> Any:
    @wraps(original)
    async def run(*args: Any, **kwargs: Any) -> Any:
        try:
            async with AsyncExitStack() as watched:
                if _WATCHED in item.stash:
                    await watched.enter_async_context(watch_loop(item.stash[_WATCHED][1]))
                return await original(*args, **kwargs)
        finally:
            await test.end_in_loop()

    return run


@contextmanager
def _responsive(item: pytest.Function) -> Iterator[None]:
    """Watch the app's event loop; that of the test is watched in there."""
    if _WATCHED not in item.stash:
        yield
        return
    home, limit = item.stash[_WATCHED]
    watch = watch_loop(limit)
    home.run(watch.__aenter__())
    try:
        yield
    except BaseException as error:
        home.run(watch.__aexit__(type(error), error, error.__traceback__))
        raise
    home.run(watch.__aexit__(None, None, None))


@contextmanager
def _within_budget(item: pytest.Function, test: IsolatedTest) -> Iterator[None]:
    marker = item.get_closest_marker("query_budget")
    if marker is None:
        yield
        return
    if len(marker.args) != 1 or marker.kwargs:
        raise pytest.UsageError(f"{item.nodeid}: query_budget() takes a number.")
    with ExitStack() as stack:
        counted = [stack.enter_context(count_queries(db)) for db in test.databases]
        yield
    for queries in counted:
        assert_query_count(queries, at_most=marker.args[0])
