"""The app in a process of its own: it is served, its end is judged, and nothing of it is left."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fastdb.testing.servers import AppServer, ServerFailed
from fastdb.testing.servers.processes import is_alive
from server_process import wait_until

APP = """
import os

print("imported by", os.getpid())


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if "EXIT_CODE" in os.environ:
            os._exit(int(os.environ["EXIT_CODE"]))
        await send({"type": "lifespan.shutdown.complete"})
        return
    names = ("GREETING", "UVICORN_PORT")
    body = " ".join(str(os.environ.get(name)) for name in names).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A project with an app."""
    (tmp_path / "served_app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def server(directory: Path) -> Iterator[AppServer]:
    """The app, in a process of its own."""
    with AppServer(
        "served_app:app", environment={"GREETING": "hello"}, directory=directory
    ) as server:
        yield server


def answer(server: AppServer) -> str:
    return httpx.get(server.url, trust_env=False).text


def test_serves_in_another_process(server: AppServer) -> None:
    """It has the app of its directory, and what the environment was to say."""
    assert answer(server) == "hello None"
    assert f"imported by {server.pid}" in server.log()
    assert server.pid != os.getpid()


def test_options_of_uvicorn_are_kept_from_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the environment says to uvicorn was meant for another server."""
    monkeypatch.setenv("UVICORN_PORT", "1")
    with AppServer("served_app:app", directory=directory) as server:
        assert answer(server) == "None None"


def test_takes_arguments_of_uvicorn(directory: Path) -> None:
    """Whatever else uvicorn can do."""
    with AppServer(
        "served_app:app", directory=directory, arguments=("--root-path", "/api", "--no-access-log")
    ) as server:
        answer(server)
        assert "GET /" not in server.log()


def test_starts_again_at_the_same_address(server: AppServer) -> None:
    """Clients find it again, as behind a load balancer; a second start changes nothing."""
    url, first = server.url, server.pid
    server.start()
    assert server.pid == first
    server.stop()
    with pytest.raises(httpx.ConnectError):
        answer(server)
    server.start()
    assert server.url == url
    assert answer(server) == "hello None"
    assert server.log().count("imported by") == 2


def test_killed_is_no_failure(server: AppServer) -> None:
    """A test that kills it means to."""
    pid = server.pid
    server.kill()
    assert not is_alive(pid)
    server.stop()


def test_app_that_cannot_be_imported_tells_its_log(directory: Path) -> None:
    """The reason is in the message, where it is looked for."""
    (directory / "served_app.py").write_text("raise RuntimeError('no setting')")
    with (
        pytest.raises(ServerFailed, match=r"(?s)ended by itself with code 1\..*no setting"),
        AppServer("served_app:app", directory=directory),
    ):
        pytest.fail("it was entered")


@pytest.mark.parametrize("code", [3, 0])
def test_its_exit_code_is_judged(code: int, directory: Path) -> None:
    """What goes wrong while it shuts down fails the test."""
    server = AppServer(
        "served_app:app", environment={"EXIT_CODE": str(code)}, directory=directory
    ).start()
    if code == 0:
        server.close()
        return
    with pytest.raises(ServerFailed, match=r"AppServer\('served_app:app'\) ended with code 3\."):
        server.close()
    assert server.log() == ""  # it is gone all the same


def test_what_fails_first_is_what_is_raised(directory: Path) -> None:
    """How the server ended is a note to it."""
    with (
        pytest.raises(AssertionError, match="ours") as caught,
        AppServer("served_app:app", environment={"EXIT_CODE": "3"}, directory=directory),
    ):
        raise AssertionError("ours")
    assert "ended with code 3" in caught.value.__notes__[0]


def test_has_no_url_before_it_is_started() -> None:
    """Nor a process."""
    server = AppServer("served_app:app")
    for ask in (lambda: server.url, lambda: server.pid):
        with pytest.raises(ServerFailed, match=r"enter it with `with`, or call start\(\)"):
            ask()
    assert server.log() == ""
    server.close()


def test_nothing_outlives_a_killed_test_run(directory: Path) -> None:
    """Neither the process nor its log, where nobody could clean up."""
    code = f"""
from fastdb.testing.servers import AppServer
server = AppServer("served_app:app", directory={str(directory)!r}).start()
print(server.pid, server._scratch, flush=True)
import time; time.sleep(60)
"""
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with run:
        assert run.stdout is not None
        pid, scratch = run.stdout.readline().split()
        assert is_alive(int(pid))
        run.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(int(pid)) and not Path(scratch).exists())
