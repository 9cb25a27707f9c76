"""A server process in a private directory: started, stopped, killed, paused."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import quote

from fastdb.errors import ServerFailed
from fastdb.testing.servers.places import HOST, Account, Place
from fastdb.testing.servers.processes import children, start_undertaker, wait_until_dead

START_SECONDS = 30
STOP_SECONDS = 10


class Server:
    """One server process in a private directory, on a free port of the loopback interface.

    Args:
        settings: Settings of the server that differ from the ones here, by their own names.
    """

    scheme: ClassVar[str]
    system_user: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        self.settings = dict(settings or {})
        self._place: Place | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._undertaker: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port that it listens on; the same after `stop` or `kill` and `start`."""
        return self._taken.port

    @property
    def directory(self) -> Path:
        """Where its data is, and its log."""
        return self._taken.directory

    @property
    def log(self) -> Path:
        """The file that it writes its log to."""
        return self.directory / "log"

    @property
    def is_stopped(self) -> bool:
        """Tell whether there is no process now."""
        return self._process is None or self._process.poll() is not None

    def url(self, database: str = "", *, user: str = "fastdb") -> str:
        """Return the URL of a database on this server, without a driver's name."""
        userinfo = f"{user}:{quote(self._password(user), safe='')}"
        return f"{self.scheme}://{userinfo}@{HOST}:{self.port}/{database}"

    def start(self) -> Self:
        """Start the process, unless it runs, and wait until it answers.

        Its data outlives `stop` and `kill`, but not `close`.

        Raises:
            ServerMissing: The server is not installed; the message says how to install it.
            ServerFailed: It did not start; the message ends with its log.
        """
        if not self.is_stopped:
            return self
        self._bury()  # it may have ended by itself
        is_new = self._place is None
        try:
            if is_new:
                self._find_binaries()
                self._place = Place.take(type(self).__name__, self.system_user)
                self._prepare()
            self._launch()
            self._wait_until_ready()
        except BaseException:
            self.kill()
            if is_new:
                self.close()
            raise
        return self

    def stop(self) -> None:
        """Stop the process as an administrator would; after some seconds, kill it."""
        if self._process is None:
            return
        self.resume()  # a paused process cannot hear the signal
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._bury()

    def kill(self) -> None:
        """End the process at once, without a word to its clients."""
        self._signal_all(signal.SIGKILL)
        self._bury()

    def pause(self) -> None:
        """Stop the process from running: its sockets stay open and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process run on."""
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        """Stop the process and remove its directory; a second call does nothing."""
        self.stop()
        if self._place is not None:
            self._place.leave()
            self._place = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _find_binaries(self) -> None:
        raise NotImplementedError

    def _prepare(self) -> None:
        """Make what the process needs to start; once, in the empty directory."""
        raise NotImplementedError

    def _command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def _is_ready(self) -> bool:
        """Tell whether the process takes connections."""
        raise NotImplementedError

    def _password(self, user: str) -> str:
        return user

    @property
    def _taken(self) -> Place:
        if self._place is None:
            raise ServerFailed(f"{self} does not run: enter it with `with`, or call start().")
        return self._place

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise ServerFailed(f"{self} does not run: enter it with `with`, or call start().")
        return self._process

    def _launch(self) -> None:
        place, command = self._taken, self._command()
        place.account.own(place.directory)
        with self.log.open("ab") as log, _explain_refusal(command[0], place.account):
            self._process = subprocess.Popen(  # noqa: S603 - nothing here comes from outside
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=place.directory,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops the servers itself
                user=place.account.user,
                group=place.account.group,
                extra_groups=place.account.extra_groups,
            )
        self._undertaker = start_undertaker(self._process.pid, self.stop_signal, place.directory)

    def _run(self, command: Sequence[str | Path], *, told: str = "") -> None:
        """Run a program that prepares the directory, with `told` as its input."""
        place = self._taken
        place.account.own(place.directory)
        with _explain_refusal(command[0], place.account):
            done = subprocess.run(  # noqa: S603 - nothing here comes from outside
                command,
                input=told.encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=place.directory,
                check=False,
                user=place.account.user,
                group=place.account.group,
                extra_groups=place.account.extra_groups,
            )
        if done.returncode:
            raise ServerFailed(
                f"{command[0]} could not prepare a server, and ended with code {done.returncode}:\n"
                f"{done.stdout.decode(errors='replace')}"
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if (code := self._running.poll()) is not None:
                raise ServerFailed(
                    f"{self} ended by itself with code {code}. The end of its log:\n"
                    f"{self._log_tail()}"
                )
            if self._is_ready():
                return
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"{self} did not answer within {START_SECONDS} seconds. The end of its log:\n"
                    f"{self._log_tail()}"
                )
            time.sleep(0.02)

    def _log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _signal_all(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        parent = self._process.pid
        if number == signal.SIGKILL:
            self._process.send_signal(signal.SIGSTOP)  # it would recover from the children's death
        # PostgreSQL is a process per session. The children are asked for first: once the
        # parent is dead, nothing says any more whose they were.
        offspring = children(parent)
        for pid in (*offspring, parent):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGKILL:
            wait_until_dead(offspring)

    def _bury(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._undertaker is not None:
            self._undertaker.communicate(b"\n")
            self._undertaker = None

    def __repr__(self) -> str:
        if self._place is None:
            return f"{type(self).__name__}()"
        return f"{type(self).__name__}(port={self.port}, directory={str(self.directory)!r})"


@contextlib.contextmanager
def _explain_refusal(program: str | Path, account: Account) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ServerFailed(
            f"{program} may not be run by {account.name}: install it where everybody may run it."
        ) from error
