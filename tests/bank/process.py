"""A uvicorn process that serves the app: started, stopped, killed, paused, always on one port."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import httpx

from server_process import HOST

START_SECONDS = 30
STOP_SECONDS = 20
TESTS = str(Path(__file__).parents[1])


class AppFailed(Exception):
    """The app's process did not start or did not end; the message ends with its log."""


class AppProcess:
    """One process of the app.

    The socket it listens on is ours: who connects while the process is dead waits for the next one.

    Args:
        url: Of the database.
        log: The file that gets what it writes.
        connections: How many its pools hold; None for fastdb's default.
        grace_seconds: How long requests in flight may go on when it is told to end.
    """

    def __init__(
        self,
        url: str,
        log: Path,
        *,
        connections: int | None = None,
        grace_seconds: int = 5,
    ) -> None:
        self._environment = {"BANK_URL": url}
        if connections is not None:
            self._environment["BANK_CONNECTIONS"] = str(connections)
        self._log = log
        self._grace = str(grace_seconds)
        self._process: asyncio.subprocess.Process | None = None
        self._listener = socket.socket()
        self._listener.bind((HOST, 0))
        self._listener.listen(128)
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        descriptor = self._listener.fileno()
        path = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))
        log = await asyncio.to_thread(self._log.open, "ab")
        with log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", "-m", "uvicorn", "bank.app:app"),
                *("--fd", str(descriptor), "--log-level", "warning"),
                *("--timeout-graceful-shutdown", self._grace),
                env={**os.environ, **self._environment, "PYTHONPATH": path},
                pass_fds=[descriptor],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await self._wait_until_ready(self._process)

    def leave_alone(self) -> None:
        """Close our own end of the socket: with the process, whoever connects is refused."""
        self._listener.close()

    async def stop(self) -> int | None:
        """Ask it to end, as an administrator would; return how it ended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            raise AppFailed(f"SIGTERM did not end it:\n{await self.written()}") from None

    async def kill(self) -> None:
        """End it at once, without a word to anybody."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    def pause(self) -> None:
        """Stop it from running, with all that it holds."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        """Leave nothing behind."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()
        self._listener.close()

    async def written(self) -> str:
        """Return what it has written so far, over all its lives."""
        return await asyncio.to_thread(self._log.read_text, errors="replace")

    async def _wait_until_ready(self, process: asyncio.subprocess.Process) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=START_SECONDS) as client:
            asked = asyncio.ensure_future(client.get(f"{self.url}/ready"))
            ended = asyncio.ensure_future(process.wait())
            await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
            try:
                if not asked.done() or asked.exception() or not asked.result().is_success:
                    raise AppFailed(f"the app did not start:\n{await self.written()}")
            finally:
                for task in (asked, ended):
                    task.cancel()
                await asyncio.gather(asked, ended, return_exceptions=True)
