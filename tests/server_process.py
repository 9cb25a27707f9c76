"""A server process in a temporary directory: started, stopped, killed, paused."""

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

import psycopg
import pymysql
import trustme

HOST = "127.0.0.1"
START_SECONDS = 30
STOP_SECONDS = 10


class BinaryMissing(Exception):
    """A server cannot be started, because it is not installed."""


class ServerFailed(Exception):
    """A server did not start, or not in time; the message ends with its log."""


class Server:
    """One server process in a temporary directory.

    Args:
        tls: Offer TLS, with a certificate from the authority in `ca_file`.
        names: The hosts that the certificate is for.
        expired: Let the time of that certificate be over.
        settings: Settings of the server that differ from the ones here.
    """

    system_user: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(
        self,
        *,
        tls: bool = True,
        names: Sequence[str] = ("localhost", HOST),
        expired: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.tls = tls
        self.names = tuple(names)
        self.expired = expired
        self.settings = dict(settings or {})
        self.port = free_port()
        self._require_binaries()
        # Not below pytest's own directory: that one is closed to other users, the server's too.
        self.directory = Path(
            tempfile.mkdtemp(
                prefix=f"fastdb-{type(self).__name__.lower()}-", dir=_quick_directory()
            )
        )
        self.log = self.directory / "log"
        self.ca_file = self.directory / "ca.pem"
        self._account = _unprivileged(self.system_user)
        self._process: subprocess.Popen[bytes] | None = None
        self._undertaker: subprocess.Popen[bytes] | None = None
        self._populated = False

    def start(self) -> Self:
        """Start the process and wait until it answers. Its data outlives `stop` and `kill`."""
        if not self._populated:
            self._write_certificates()
            self._prepare()
        self._own(self.directory)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops the servers itself
                **self._account,
            )
        self._undertaker = _undertaker(self._process.pid, self.stop_signal, self.directory)
        self._wait_until_ready()
        if not self._populated:
            self._populate()
            self._populated = True
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
        if self._process is not None:
            self._signal_all(signal.SIGKILL)
            self._bury()

    @property
    def is_stopped(self) -> bool:
        """Tell whether there is no process now."""
        return self._process is None

    def pause(self) -> None:
        """Stop the process from running: its sockets stay open and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process run on."""
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        """Stop the process and remove its directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def ping(self) -> None:
        """Connect and ask something; raises what the driver raises."""
        raise NotImplementedError

    def _require_binaries(self) -> None:
        raise NotImplementedError

    def _prepare(self) -> None:
        """Make what the process needs to start."""
        raise NotImplementedError

    def _populate(self) -> None:
        """Make what takes a running server; once, after the first start."""

    def _command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def _run(self, command: Sequence[str | Path]) -> None:
        self._own(self.directory)
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            check=False,
            **self._account,
        )
        if done.returncode:
            output = done.stdout.decode(errors="replace")
            raise ServerFailed(f"{command[0]} ended with {done.returncode}:\n{output}")

    def _own(self, path: Path) -> None:
        if not self._account:
            return
        for entry in (path, *path.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # the server tidies up at the same time
                os.chown(entry, self._account["user"], self._account["group"])

    def _write_certificates(self) -> None:
        if not self.tls:
            return
        authority = trustme.CA()
        end = datetime.now(UTC) - timedelta(days=1) if self.expired else None
        server = authority.issue_cert(*self.names, not_after=end)
        authority.cert_pem.write_to_path(self.ca_file)
        server.cert_chain_pems[0].write_to_path(self.directory / "server.pem")
        server.private_key_pem.write_to_path(self.directory / "server.key")
        (self.directory / "server.key").chmod(0o600)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process is not None
            if self._process.poll() is not None:
                raise ServerFailed(
                    f"{self} ended with {self._process.returncode}:\n{self._log_tail()}"
                )
            try:
                return self.ping()
            except (psycopg.OperationalError, pymysql.err.OperationalError) as error:
                if time.monotonic() > deadline:
                    raise ServerFailed(
                        f"{self} did not answer within {START_SECONDS} s ({error}):\n"
                        f"{self._log_tail()}"
                    ) from error
            time.sleep(0.02)

    def _log_tail(self, lines: int = 30) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def _signal_all(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        parent = self._process.pid
        if number == signal.SIGKILL:
            self._process.send_signal(signal.SIGSTOP)  # it would recover from the children's death
        # PostgreSQL is a process per session. The children are asked for first: once the
        # parent is dead, nothing says any more whose they were.
        children = _children(parent)
        for pid in (*children, parent):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGKILL:
            _wait_until_dead(children)

    def _bury(self) -> None:
        assert self._process is not None
        self._process.wait()
        self._process = None
        if self._undertaker is not None:
            self._undertaker.communicate(b"\n")
            self._undertaker = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(port={self.port}, directory={str(self.directory)!r})"


def wait_until(holds: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Look again and again until `holds`; fail when that takes far too long."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise ServerFailed(f"what was waited for did not come within {seconds} s")
        time.sleep(0.005)


def free_port() -> int:
    """Return a TCP port that nothing listens on.

    Not one of those that the system gives to outgoing connections: a client that tries to reach
    a stopped server there may be given that very port, and connect to itself.
    """
    for port in random.sample(range(20000, 30000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise ServerFailed("no free port was found between 20000 and 30000")


def _quick_directory() -> str | None:
    # In memory, a new database takes 7 ms instead of 30 to 150. Containers often have 64 MB there.
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a private directory in it
    if memory.is_dir() and shutil.disk_usage(memory).free > 2 * 1024**3:
        return str(memory)
    return None


def _unprivileged(preferred: str) -> dict[str, Any]:
    """Return what `subprocess` needs to drop root's rights, or nothing where there are none."""
    if os.geteuid() != 0:
        return {}
    for name in (preferred, "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise BinaryMissing(f"Run by root, and there is neither {preferred} nor nobody to run it as")


def _undertaker(pid: int, number: signal.Signals, directory: Path) -> subprocess.Popen[bytes]:
    """Start a shell that outlives us and cleans up, should we be killed.

    It waits for a line from us. If the pipe ends without one, we are dead.
    """
    script = 'read -r _ || { kill -s "$1" "$2"; sleep 3; kill -s KILL "$2"; rm -rf "$3"; }'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "undertaker", number.name[3:], str(pid), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, check=True)
    pairs = (line.split() for line in table.stdout.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


def _wait_until_dead(pids: Sequence[int], seconds: float = 2) -> None:
    # A restart fails while a process of the last run still holds the shared memory. (Without
    # /proc there is nothing to look at, and the restart is soon tried again by hand.)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(_is_alive, pids)):
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in {"Z", "X"}  # a zombie holds nothing; some containers reap them late
