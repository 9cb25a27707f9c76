"""The app under test in a process of its own, as it runs in production."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from fastdb.errors import ServerFailed
from fastdb.testing.servers.places import HOST, free_port
from fastdb.testing.servers.processes import start_undertaker

START_SECONDS = 30
STOP_SECONDS = 20

# uvicorn ends what it serves, and then itself by the signal that it was sent.
_ENDED_WELL = (0, -signal.SIGTERM, -signal.SIGINT)


class AppServer:
    """A real uvicorn with an app: a process of its own, on a free port of the loopback interface.

        with AppServer("shop.app:app", environment={"SHOP_DATABASE_URL": database_url}) as server:
            assert httpx.get(f"{server.url}/orders").status_code == 200

    Args:
        app: Where the app is, as uvicorn takes it: "shop.app:app".
        environment: Variables that the process has besides those of this one. None of this one's
            begins with `UVICORN_`: they were meant for another server.
        directory: Its working directory, in which the app's modules are looked for first. Default:
            that of this process.
        arguments: For uvicorn: `("--workers", "4")`.
    """

    def __init__(
        self,
        app: str,
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | Path | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._environment = dict(environment or {})
        self._directory = directory
        self._arguments = tuple(arguments)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._undertaker: subprocess.Popen[bytes] | None = None
        self._scratch: Path | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end; the same after a `kill` and `start`.

        Raises:
            ServerFailed: It was not started.
        """
        if not self._port:
            raise ServerFailed(f"{self} was not started: enter it with `with`, or call start().")
        return f"http://{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """The number of the process.

        Raises:
            ServerFailed: There is none.
        """
        return self._running.pid

    def log(self) -> str:
        """Return what it has written so far, to standard output and to standard error."""
        return "" if self._scratch is None else self._log.read_text(errors="replace")

    def start(self) -> Self:
        """Start the process, unless it runs, and wait until it listens: its lifespan has begun.

        Raises:
            ServerFailed: It did not start; the message ends with its log.
        """
        if self._process is not None and self._process.poll() is None:
            return self
        self._bury()
        self._port = self._port or free_port()
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="fastdb-app-"))
        try:
            self._launch(self._scratch)
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End it as an administrator does, by SIGTERM: requests in flight are finished.

        Does nothing where it has ended already.

        Raises:
            ServerFailed: It ended with an exit code that tells of an error, or did not end within
                20 seconds, and was killed; the message ends with its log.
        """
        if self._process is None:
            return
        self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(
                f"{self} did not end within {STOP_SECONDS} seconds. The end of its log:\n"
                f"{self._log_tail()}"
            ) from None
        self._bury()
        if code not in _ENDED_WELL:
            raise ServerFailed(
                f"{self} ended with code {code}. The end of its log:\n{self._log_tail()}"
            )

    def kill(self) -> None:
        """End it at once, by SIGKILL, as the out-of-memory killer does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # with its workers
                os.killpg(self._process.pid, signal.SIGKILL)
        self._bury()

    def close(self) -> None:
        """Stop it, and remove its log; a second call does nothing.

        Raises:
            ServerFailed: As `stop` does.
        """
        try:
            self.stop()
        finally:
            self._leave()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._leave()
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except ServerFailed as failed:
            if exc_value is None:
                raise
            exc_value.add_note(str(failed))  # what has failed first is what the test is about

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise ServerFailed(f"{self} does not run: enter it with `with`, or call start().")
        return self._process

    @property
    def _log(self) -> Path:
        return (self._scratch or Path()) / "log"

    def _launch(self, scratch: Path) -> None:
        kept = {key: os.environ[key] for key in os.environ if not key.startswith("UVICORN_")}
        address = ("--host", HOST, "--port", str(self._port))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - nothing here comes from outside
                [sys.executable, "-m", "uvicorn", self._app, *address, *self._arguments],
                cwd=self._directory,
                env={**kept, "PYTHONUNBUFFERED": "1", **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops it
            )
        self._undertaker = start_undertaker(self._process.pid, signal.SIGTERM, scratch)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if (code := self._running.poll()) is not None:
                raise ServerFailed(
                    f"{self} ended by itself with code {code}. The end of its log:\n"
                    f"{self._log_tail()}"
                )
            with contextlib.suppress(OSError), socket.create_connection((HOST, self._port), 1):
                return
            time.sleep(0.02)
        raise ServerFailed(
            f"{self} did not listen within {START_SECONDS} seconds. The end of its log:\n"
            f"{self._log_tail()}"
        )

    def _log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log().splitlines()[-lines:]) or "(empty)"

    def _bury(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._undertaker is not None:
            self._undertaker.communicate(b"\n")
            self._undertaker = None

    def _leave(self) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def __repr__(self) -> str:
        return f"AppServer({self._app!r})"
