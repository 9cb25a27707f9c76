"""What a route is called in logs: as it was declared, with all prefixes, without values."""

from collections.abc import Iterator

import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket

from asgi import TestClient
from fastdb.route_names import route_path


def make_app() -> tuple[FastAPI, list[str]]:
    names: list[str] = []
    app, mounted = FastAPI(), FastAPI()
    inner, outer = APIRouter(prefix="/items"), APIRouter(prefix="/users/{user}")

    @inner.get("/")
    @inner.get("/{item}")
    @app.get("/plain/{name:path}")
    @mounted.get("/in/{name}")
    async def read(request: Request) -> None:
        names.append(route_path(request.scope))

    @inner.websocket("/{item}/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        names.append(route_path(socket.scope))
        await socket.close()

    mounted.include_router(inner, prefix="/deep")
    outer.include_router(inner)
    app.include_router(outer)
    app.include_router(inner, prefix="/other")
    app.mount("/admin", mounted)
    return app, names


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[TestClient, list[str]]]:
    app, names = make_app()
    with TestClient(app) as client:
        yield client, names


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/plain/a/b", "/plain/{name:path}"),
        ("/users/7/items/9", "/users/{user}/items/{item}"),
        ("/users/7/items/", "/users/{user}/items/"),
        ("/other/items/9", "/other/items/{item}"),
        ("/admin/in/9", "/admin/in/{name}"),
        ("/admin/deep/items/9", "/admin/deep/items/{item}"),
    ],
)
def test_requests(served: tuple[TestClient, list[str]], path: str, expected: str) -> None:
    """Of routers in routers, of one that is included twice, and of mounted apps."""
    client, names = served
    assert client.get(path).status_code == 200
    assert names[-1] == expected


def test_websockets(served: tuple[TestClient, list[str]]) -> None:
    """As requests."""
    client, names = served
    with client.websocket_connect("/users/7/items/9/live"):
        pass
    assert names[-1] == "/users/{user}/items/{item}/live"


def test_before_a_route_is_found() -> None:
    """In a middleware, the path is all there is."""
    assert route_path({"type": "http", "path": "/x", "app": FastAPI()}) == "/x"


def test_routes_that_come_later() -> None:
    """Added while the app runs."""
    app, names = make_app()
    client = TestClient(app)
    client.get("/other/items/9")

    @app.get("/later/{name}")
    async def later(request: Request) -> None:
        names.append(route_path(request.scope))

    client.get("/later/1")
    assert names == ["/other/items/{item}", "/later/{name}"]
