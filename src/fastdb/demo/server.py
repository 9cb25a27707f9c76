"""The app in a process of its own, under uvicorn, on a port of this machine."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from fastdb.errors import FastdbError, ServerFailed

HOST = "127.0.0.1"
START_SECONDS = 20
STOP_SECONDS = 5


class PortInUse(FastdbError):
    """The port that was asked for cannot be had."""


class ServerProcess:
    """A uvicorn process that runs the demo's app, from entering the block to leaving it.

    Args:
        database_url: Handed over in the environment: everybody can read a command line.
        directory: For the log.
        port: 0 for one that is free.
    """

    def __init__(self, database_url: str, directory: Path, *, port: int = 0) -> None:
        self._database_url = database_url
        self._directory = directory
        self._log = directory / "server.log"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self._port}"

    def __enter__(self) -> Self:
        self._port = _available(self._port)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - nothing here comes from outside
                self._command(),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, who then stop it
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process, and wait until it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def wait(self) -> None:
        """Wait for as long as the process runs.

        Raises:
            ServerFailed: It ended by itself.
        """
        while self._process is not None:
            # In short steps: on Windows, Ctrl-C does not interrupt a long one.
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise self._ended(self._process.wait(0.5))

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of what the process has logged."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def _command(self) -> list[str]:
        # -P and --app-dir: no file of the working directory may stand in for a module. The
        # working directory itself stays, for the sake of relative paths in the URL.
        options = {
            "--app-dir": str(self._directory),
            "--host": HOST,
            "--port": str(self._port),
            "--workers": "1",
            "--log-level": "warning",
            "--timeout-graceful-shutdown": "2",
        }
        arguments = [argument for option in options.items() for argument in option]
        app = "fastdb.demo.app:create_app"
        return [sys.executable, "-P", "-m", uvicorn.__name__, *arguments, "--factory", app]

    def _environment(self) -> dict[str, str]:
        # uvicorn takes options from UVICORN_… that were meant for another app.
        kept = {key: os.environ[key] for key in os.environ if not key.startswith("UVICORN_")}
        return {**kept, "FASTDB_URL": self._database_url}

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        # uvicorn listens once the app's lifespan has started.
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if (code := process.poll()) is not None:
                raise self._ended(code)
            with contextlib.suppress(OSError), socket.create_connection((HOST, self._port), 1):
                return
            time.sleep(0.05)
        raise ServerFailed(
            f"The app did not start within {START_SECONDS} seconds:\n{self.log_tail()}"
        )

    def _ended(self, code: int) -> ServerFailed:
        return ServerFailed(f"The app's process ended with code {code}:\n{self.log_tail()}")


def _available(port: int) -> int:
    """Return `port` if nobody listens there, or one that is free for 0."""
    with socket.socket() as probe:
        if os.name == "posix":  # elsewhere it would let two programs share the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PortInUse(
                f"Port {port} of {HOST} cannot be had ({error.strerror}): choose another with"
                " --port, or leave it out for one that is free."
            ) from error
        return int(probe.getsockname()[1])
