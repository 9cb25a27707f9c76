"""Whether something has come on an idle connection: looked at without waiting for it."""

import select
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from fastdb.sockets import Look, look_at


@pytest.fixture(params=["poll", "select"])
def ends(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection; looked at as on Linux, and as where there is no `poll`."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll")
    client, server = socket.socketpair()
    with client, server:
        yield client, server


def look_of(client: socket.socket) -> Look:
    """Look as at a connection of PyMySQL's, which is the plainest."""
    look = look_at("pymysql", SimpleNamespace(_sock=client))
    assert look is not None
    return look


def test_nothing_has_come(ends: tuple[socket.socket, socket.socket]) -> None:
    """However often it is looked at."""
    look = look_of(ends[0])
    assert [look(), look()] == [False, False]


def test_something_has_come(ends: tuple[socket.socket, socket.socket]) -> None:
    """And is still there after the look."""
    look = look_of(ends[0])
    ends[1].send(b"goodbye")
    assert [look(), look()] == [True, True]


def test_the_end_has_come(ends: tuple[socket.socket, socket.socket]) -> None:
    """It counts as something."""
    look = look_of(ends[0])
    ends[1].close()
    assert look()


def test_this_end_is_closed(ends: tuple[socket.socket, socket.socket]) -> None:
    """Whoever has its number by then is not looked at."""
    look = look_of(ends[0])
    number = ends[0].fileno()
    ends[0].close()
    other, its_end = socket.socketpair()
    with other, its_end:
        assert other.fileno() == number
        assert look()


def test_a_transport_is_closing(ends: tuple[socket.socket, socket.socket]) -> None:
    """uvloop goes on telling the number of a socket that it has closed: it is asked, too."""
    closing = False
    transport = SimpleNamespace(get_extra_info=lambda _: ends[0], is_closing=lambda: closing)
    look = look_at("asyncpg", SimpleNamespace(_transport=transport))
    assert look is not None
    assert not look()
    closing = True
    assert look()


@pytest.mark.parametrize("driver", ["asyncpg", "aiomysql", "pymysql", "another"])
def test_a_driver_that_hides_its_socket(driver: str) -> None:
    """It is left to `ping_after`."""
    assert look_at(driver, object()) is None
