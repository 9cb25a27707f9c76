"""The reading of an app's routes at start-up: what is refused, warned of, and let through."""

import functools
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Security, WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.routing import Mount, Route

from asgi import (
    Client,
    EventSourceResponse,
    needs_generator_endpoints,
    needs_mounts_in_routers,
)
from fastdb import (
    Database,
    DatabaseDep,
    InvalidRoute,
    LateWriteWarning,
    ReadSessionDep,
    SessionDep,
    SnapshotSessionDep,
    StreamSessionDep,
    SyncSessionDep,
    get_read_session,
    get_session,
    get_stream_session,
)

db = Database("sqlite://")


async def start(app: FastAPI) -> None:
    """Run the lifespan, in which the routes are read."""
    async with Database("sqlite://").lifespan(app):
        pass


def async_in_def(where: str) -> str:
    return (
        f"{where} is an async session, and the endpoint is a `def`: it cannot await, so nothing"
        " would be read or written. Write `async def`, or take SyncSessionDep."
    )


def ends_before_generator(where: str) -> str:
    return (
        f"{where} is a session that ends before the response starts, and the endpoint is a"
        " generator, whose body runs after that. Take StreamSessionDep to read, or DatabaseDep to"
        " open `async with db.session() as session:` in the body."
    )


def late_write(name: str) -> str:
    return (
        f"The dependency {name}() has a `yield` and depends on a session, which ends before the"
        " response is sent, while what follows the `yield` runs after that: a write there fails."
        f' Declare it with `Depends({name}, scope="function")`.'
    )


async def refusal(app: FastAPI) -> str:
    """Return why `app` is refused."""
    with pytest.raises(InvalidRoute) as refused:
        await start(app)
    return str(refused.value)


# --- Refused: an async session in a `def` endpoint ---------------------------------------------


@pytest.mark.parametrize(
    "dependency",
    [
        SessionDep,
        ReadSessionDep,
        SnapshotSessionDep,
        StreamSessionDep,
        Annotated[AsyncSession, Depends(get_session)],
        Annotated[AsyncSession, Depends(get_session, scope="function")],
        Annotated[AsyncSession, Security(get_session, scopes=["x"])],
        Annotated[AsyncSession, Depends(db.get_session)],
        Annotated[AsyncSession, Depends(db.get_read_session)],
        Annotated[AsyncSession, Depends(db.get_stream_session)],
    ],
    ids=[
        "SessionDep",
        "ReadSessionDep",
        "SnapshotSessionDep",
        "StreamSessionDep",
        "Depends",
        "function scope",
        "Security",
        "db.get_session",
        "db.get_read_session",
        "db.get_stream_session",
    ],
)
async def test_async_session_in_def_endpoint_is_refused(dependency: Any) -> None:
    """Row 34: a `def` endpoint cannot await, so an async session would do nothing there."""
    app = FastAPI()

    def create(session: AsyncSession) -> None: ...

    create.__annotations__["session"] = dependency
    app.post("/items")(create)

    assert await refusal(app) == async_in_def("POST /items: the parameter 'session' of create()")


async def test_refusal_names_all_methods_of_a_route() -> None:
    """A refusal names the route as the app knows it."""
    app = FastAPI()

    @app.api_route("/items/{item_id}", methods=["PUT", "PATCH"])
    def change(item_id: int, writer: SessionDep) -> None: ...

    expected = async_in_def("PATCH,PUT /items/{item_id}: the parameter 'writer' of change()")
    assert await refusal(app) == expected


async def test_async_session_in_decorated_def_endpoint_is_refused() -> None:
    """Row 34: a decorator with functools.wraps hides nothing."""
    app = FastAPI()

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @app.get("/items")
    @decorated
    def read(session: SessionDep) -> None: ...

    assert await refusal(app) == async_in_def("GET /items: the parameter 'session' of read()")


async def test_async_session_in_partial_of_def_is_refused() -> None:
    """Row 34: nor does functools.partial."""
    app = FastAPI()

    def read(session: SessionDep, size: int) -> None: ...

    app.get("/items")(functools.partial(read, size=1))

    assert await refusal(app) == async_in_def("GET /items: the parameter 'session' of read()")


async def test_async_session_in_callable_object_with_def_is_refused() -> None:
    """Row 34: nor does an object with a plain `__call__`."""
    app = FastAPI()

    class Reader:
        def __call__(self, session: SessionDep) -> None: ...

    app.get("/items")(Reader())

    assert await refusal(app) == async_in_def("GET /items: the parameter 'session' of Reader()")


async def test_async_session_in_def_method_is_refused() -> None:
    """Row 34: nor does a bound method."""
    app = FastAPI()

    class Service:
        def read(self, session: SessionDep) -> None: ...

    app.get("/items")(Service().read)

    assert await refusal(app) == async_in_def("GET /items: the parameter 'session' of read()")


async def test_async_function_wrapped_in_def_that_returns_its_coroutine_is_refused() -> None:
    """Row 34: a `def` around an `async def`, without wraps, is run in a thread."""
    app = FastAPI()

    async def read(session: AsyncSession) -> None: ...

    def outer(session: SessionDep) -> Any:
        return read(session)

    app.get("/items")(outer)

    assert await refusal(app) == async_in_def("GET /items: the parameter 'session' of outer()")


@needs_generator_endpoints
async def test_generator_behind_a_decorator_is_refused() -> None:
    """Row 36: FastAPI takes a decorated generator for a generator, and so do we."""
    app = FastAPI()

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @app.get("/events")
    @decorated
    async def events(session: SessionDep) -> AsyncIterable[str]:
        yield ""

    expected = ends_before_generator("GET /events: the parameter 'session' of events()")
    assert await refusal(app) == expected


# --- Refused: a session that ends before a generator's body ------------------------------------


@pytest.mark.parametrize(
    "dependency",
    [
        SessionDep,
        ReadSessionDep,
        SnapshotSessionDep,
        Annotated[AsyncSession, Depends(get_session, scope="request")],
        Annotated[AsyncSession, Depends(db.get_session)],
        SyncSessionDep,
    ],
    ids=["SessionDep", "ReadSessionDep", "SnapshotSessionDep", "Depends", "db", "SyncSessionDep"],
)
@needs_generator_endpoints
@pytest.mark.parametrize("response_class", [EventSourceResponse, None], ids=["sse", "json lines"])
async def test_request_session_in_async_generator_endpoint_is_refused(
    dependency: Any, response_class: Any
) -> None:
    """Row 36: the body of a generator endpoint runs when the request's session has ended."""
    app = FastAPI()

    async def events(session: Any) -> AsyncIterable[str]:
        yield ""

    events.__annotations__["session"] = dependency
    arguments = {} if response_class is None else {"response_class": response_class}
    app.get("/events", **arguments)(events)

    expected = ends_before_generator("GET /events: the parameter 'session' of events()")
    assert await refusal(app) == expected


@needs_generator_endpoints
@pytest.mark.parametrize("response_class", [EventSourceResponse, None], ids=["sse", "json lines"])
async def test_request_session_in_def_generator_endpoint_is_refused(response_class: Any) -> None:
    """Row 36: the same for a `def` generator with the twin's session."""
    app = FastAPI()
    arguments = {} if response_class is None else {"response_class": response_class}

    @app.get("/events", **arguments)
    def events(session: SyncSessionDep) -> Iterable[str]:
        yield ""

    expected = ends_before_generator("GET /events: the parameter 'session' of events()")
    assert await refusal(app) == expected


@pytest.mark.parametrize("dependency", [SessionDep, StreamSessionDep], ids=["write", "stream"])
async def test_async_session_in_def_generator_endpoint_is_refused(dependency: Any) -> None:
    """Row 34: a `def` generator cannot await either."""
    app = FastAPI()

    def events(session: Any) -> Iterable[str]:
        yield ""

    events.__annotations__["session"] = dependency
    app.get("/events")(events)

    assert await refusal(app) == async_in_def("GET /events: the parameter 'session' of events()")


@needs_generator_endpoints
async def test_request_session_in_generator_of_a_callable_object_is_refused() -> None:
    """Row 36: an object whose `__call__` is a generator is read as well."""
    app = FastAPI()

    class Events:
        async def __call__(self, session: SessionDep) -> AsyncIterable[str]:
            yield ""

    app.get("/events")(Events())

    expected = ends_before_generator("GET /events: the parameter 'session' of Events()")
    assert await refusal(app) == expected


# --- Everything that serves is read ------------------------------------------------------------


async def test_included_routers_are_read() -> None:
    """A router that was included, and one inside it, are read; the path is the whole one."""
    app, outer, inner = FastAPI(), APIRouter(), APIRouter()

    @inner.get("/items")
    def read(session: SessionDep) -> None: ...

    outer.include_router(inner, prefix="/inner")
    app.include_router(outer, prefix="/outer")

    expected = async_in_def("GET /outer/inner/items: the parameter 'session' of read()")
    assert await refusal(app) == expected


async def test_router_that_was_filled_after_it_was_included_is_read() -> None:
    """Where FastAPI serves such routes, they are read; else they are not there."""
    app, router = FastAPI(), APIRouter()
    app.include_router(router, prefix="/router")

    @router.get("/items")
    def read(session: SessionDep) -> None: ...

    served = (await Client(app).get("/router/items")).status != 404
    if served:
        assert await refusal(app) == async_in_def(
            "GET /router/items: the parameter 'session' of read()"
        )


@pytest.mark.parametrize("depth", [1, 2])
async def test_mounted_apps_are_read(depth: int) -> None:
    """Apps that are mounted, and apps in those, are read."""
    app = FastAPI()

    @app.get("/items")
    def read(session: SessionDep) -> None: ...

    for _ in range(depth):
        outer = FastAPI()
        outer.mount("/mounted", app)
        app = outer

    assert await refusal(app) == async_in_def("GET /items: the parameter 'session' of read()")


@needs_mounts_in_routers
async def test_app_mounted_in_an_included_router_is_read() -> None:
    """An app that a router brings along is read."""
    app, router, mounted = FastAPI(), APIRouter(), FastAPI()

    @mounted.get("/items")
    def read(session: SessionDep) -> None: ...

    router.mount("/mounted", mounted)
    app.include_router(router, prefix="/router")

    assert await refusal(app) == async_in_def("GET /items: the parameter 'session' of read()")


async def test_mounted_router_is_read() -> None:
    """A router that is mounted, not included, is read."""
    app, router = FastAPI(), APIRouter()

    @router.get("/items")
    def read(session: SessionDep) -> None: ...

    app.mount("/router", router)

    assert await refusal(app) == async_in_def("GET /items: the parameter 'session' of read()")


async def test_routes_without_dependencies_are_passed_over() -> None:
    """Starlette's own routes, mounts and the app's documentation take no sessions."""
    app = FastAPI()

    async def plain(request: Any) -> Any: ...

    app.router.routes.append(Route("/plain", plain))
    app.router.routes.append(Mount("/group", routes=[Route("/plain", plain)]))

    await start(app)


async def test_a_refused_app_leaves_nothing_open() -> None:
    """A refusal comes before the database is opened."""
    app = FastAPI()

    @app.get("/items")
    def read(session: SessionDep) -> None: ...

    database = Database("sqlite://")
    with pytest.raises(InvalidRoute):
        async with database.lifespan(app):
            pytest.fail("the app was started")
    assert not database._loops._opened


# --- Let through -------------------------------------------------------------------------------


@needs_generator_endpoints
async def test_what_is_right_is_let_through() -> None:
    """Endpoints that use sessions as meant start without a word."""
    app = FastAPI(dependencies=[Depends(get_session)])

    @app.get("/async")
    async def async_endpoint(
        session: SessionDep,
        reading: ReadSessionDep,
        snapshot: SnapshotSessionDep,
        stream: StreamSessionDep,
        db: DatabaseDep,
        sync: SyncSessionDep,
    ) -> None: ...

    @app.get("/def")
    def def_endpoint(session: SyncSessionDep, db: DatabaseDep) -> None: ...

    @app.get("/sse", response_class=EventSourceResponse)
    async def sse(session: StreamSessionDep, db: DatabaseDep) -> AsyncIterable[str]:
        yield ""

    @app.get("/lines")
    async def lines(session: StreamSessionDep, db: DatabaseDep) -> AsyncIterable[str]:
        yield ""

    @app.get("/def-lines")
    def def_lines(db: DatabaseDep) -> Iterable[str]:
        yield ""

    @app.get("/stream")
    async def stream_endpoint(session: StreamSessionDep) -> StreamingResponse:
        return StreamingResponse([])

    @app.websocket("/ws")
    async def websocket(
        websocket: WebSocket, session: SessionDep, stream: StreamSessionDep, db: DatabaseDep
    ) -> None: ...

    await start(app)


@needs_generator_endpoints
async def test_session_without_a_parameter_is_let_through() -> None:
    """`dependencies=[Depends(get_session)]` gives nothing into the hands of a `def` endpoint."""
    app = FastAPI(dependencies=[Depends(get_session)])
    router = APIRouter(dependencies=[Depends(get_read_session)])

    @router.get("/def", dependencies=[Depends(get_session)])
    def endpoint() -> None: ...

    @router.get("/lines", dependencies=[Depends(get_session)])
    async def lines() -> AsyncIterable[str]:
        yield ""

    app.include_router(router)
    await start(app)


async def test_def_dependency_that_builds_a_repository_is_let_through() -> None:
    """A `def` dependency may pass an async session on; who awaits is above it."""
    app = FastAPI()

    class Repository:
        def __init__(self, session: SessionDep) -> None: ...

    def repository(session: SessionDep) -> Repository:
        return Repository(session)

    @app.get("/function")
    async def function(repository: Annotated[Repository, Depends(repository)]) -> None: ...

    @app.get("/class")
    async def of_class(repository: Annotated[Repository, Depends()]) -> None: ...

    await start(app)


async def test_wrapped_and_callable_async_endpoints_are_let_through() -> None:
    """Partials, callable objects, methods and decorated functions may take async sessions."""
    app = FastAPI()

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    class Reader:
        async def __call__(self, session: SessionDep) -> None: ...

        async def read(self, session: SessionDep) -> None: ...

    @app.get("/decorated")
    @decorated
    async def plain(session: SessionDep) -> None: ...

    async def sized(session: SessionDep, size: int) -> None: ...

    app.get("/partial")(functools.partial(sized, size=1))
    app.get("/callable")(Reader())
    app.get("/method")(Reader().read)
    await start(app)


async def test_def_decorator_around_an_async_endpoint_is_let_through() -> None:
    """FastAPI awaits what a plain `wraps` decorator returns, so an async session works there."""
    app = FastAPI()

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @app.get("/items")
    @decorated
    async def read(session: SessionDep) -> int | None:
        return await session.scalar(select(1))

    async with Database("sqlite://").lifespan(app):
        assert (await Client(app).get("/items")).json() == 1


async def test_session_of_the_users_own_is_none_of_our_business() -> None:
    """A dependency that fastdb did not make is not judged."""
    app = FastAPI()

    async def own() -> AsyncIterator[AsyncSession]:
        async with AsyncSession() as session:
            yield session

    @app.get("/def")
    def endpoint(session: Annotated[AsyncSession, Depends(own)]) -> None: ...

    await start(app)


# --- The warning -------------------------------------------------------------------------------


async def test_yield_dependency_in_default_scope_above_a_session_is_warned_of() -> None:
    """Row 35: what it writes after its `yield` would come too late."""
    app = FastAPI()

    async def audited(session: SessionDep) -> AsyncIterator[AsyncSession]:
        yield session

    @app.post("/items")
    async def create(session: Annotated[AsyncSession, Depends(audited)]) -> None: ...

    with pytest.warns(LateWriteWarning) as warned:
        await start(app)
    assert [str(warning.message) for warning in warned] == [late_write("audited")]


async def test_def_yield_dependency_above_a_sync_session_is_warned_of() -> None:
    """Row 35: the same for a `def` dependency and the twin's session."""
    app = FastAPI()

    def audited(session: SyncSessionDep) -> Iterator[Session]:
        yield session

    @app.post("/items")
    def create(session: Annotated[Session, Depends(audited)]) -> None: ...

    with pytest.warns(LateWriteWarning) as warned:
        await start(app)
    assert [str(warning.message) for warning in warned] == [late_write("audited")]


async def test_yield_dependency_far_above_a_session_is_warned_of() -> None:
    """Row 35: a session may be several dependencies below."""
    app = FastAPI()

    class Repository:
        def __init__(self, session: SessionDep) -> None: ...

    def service(repository: Annotated[Repository, Depends()]) -> Repository:
        return repository

    async def audited(
        repository: Annotated[Repository, Depends(service)],
    ) -> AsyncIterator[Repository]:
        yield repository

    def above(repository: Annotated[Repository, Depends(audited)]) -> Repository:
        return repository

    @app.post("/items")
    async def create(repository: Annotated[Repository, Depends(above)]) -> None: ...

    with pytest.warns(LateWriteWarning) as warned:
        await start(app)
    assert [str(warning.message) for warning in warned] == [late_write("audited")]


async def test_callable_object_with_yield_is_warned_of() -> None:
    """Row 35: a dependency may be an object."""
    app = FastAPI()

    class Audited:
        async def __call__(self, session: SessionDep) -> AsyncIterator[AsyncSession]:
            yield session

    @app.post("/items", dependencies=[Depends(Audited())])
    async def create() -> None: ...

    with pytest.warns(LateWriteWarning) as warned:
        await start(app)
    assert [str(warning.message) for warning in warned] == [late_write("Audited")]


async def test_each_dependency_is_warned_of_once() -> None:
    """One dependency in many routes is one warning; another one is another."""
    app = FastAPI()

    async def first(session: SessionDep) -> AsyncIterator[AsyncSession]:
        yield session

    async def second(session: ReadSessionDep) -> AsyncIterator[AsyncSession]:
        yield session

    router = APIRouter(dependencies=[Depends(second)])
    for path in ("/a", "/b", "/c"):

        @router.post(path)
        async def create(session: Annotated[AsyncSession, Depends(first)]) -> None: ...

    app.include_router(router)

    with pytest.warns(LateWriteWarning) as warned:
        await start(app)
    messages = sorted(str(warning.message) for warning in warned)
    assert messages == [late_write("first"), late_write("second")]


async def test_yield_dependencies_that_are_right_are_not_warned_of() -> None:
    """Function scope, stream sessions, the Database itself, and no session: no warning."""
    app = FastAPI()

    async def audited(session: SessionDep) -> AsyncIterator[AsyncSession]:
        yield session

    async def streaming(session: StreamSessionDep) -> AsyncIterator[AsyncSession]:
        yield session

    async def own_unit(db: DatabaseDep) -> AsyncIterator[AsyncSession]:
        async with db.session() as session:
            yield session

    async def without() -> AsyncIterator[None]:
        yield

    @app.post("/items")
    async def create(
        first: Annotated[AsyncSession, Depends(audited, scope="function")],
        second: Annotated[AsyncSession, Depends(streaming)],
        third: Annotated[AsyncSession, Depends(own_unit)],
        fourth: Annotated[None, Depends(without)],
        fifth: Annotated[AsyncSession, Depends(get_stream_session, scope="request")],
    ) -> None: ...

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await start(app)
