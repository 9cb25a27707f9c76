"""Where a private server lives: its port, its directory, and the account that it runs under."""

import contextlib
import os
import random
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fastdb.errors import ServerFailed, ServerMissing

HOST = "127.0.0.1"
"""Where every private server listens, and nowhere else."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server's programs, as `subprocess` takes it; None is whoever runs the tests."""

    name: str
    user: int | None = None
    group: int | None = None
    extra_groups: tuple[int, ...] | None = None

    @classmethod
    def unprivileged(cls, preferred: str) -> Self:
        """Return somebody other than root: PostgreSQL and MariaDB refuse to run as root.

        Raises:
            ServerMissing: Root runs the tests, and there is nobody else.
        """
        import pwd  # not on Windows

        if os.geteuid() != 0:
            return cls("whoever runs the tests")
        for name in (preferred, "nobody"):
            with contextlib.suppress(KeyError):
                account = pwd.getpwnam(name)
                return cls(name, account.pw_uid, account.pw_gid, ())
        raise ServerMissing(
            "A database server refuses to run as root, and this system has neither an account"
            f" {preferred!r} nor 'nobody' to run it as: run the tests as another user."
        )

    def own(self, directory: Path) -> None:
        """Give a directory to this account, with all that is in it."""
        if self.user is None or self.group is None:
            return
        for entry in (directory, *directory.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # the server tidies up at the same time
                os.chown(entry, self.user, self.group)


@dataclass(frozen=True, slots=True)
class Place:
    """What a server keeps from its first start to its end."""

    port: int
    directory: Path
    account: Account

    @classmethod
    def take(cls, kind: str, system_user: str) -> Self:
        """Find a port and an account, and make a directory.

        Raises:
            ServerMissing: This system is Windows, or has no account to run a server.
            ServerFailed: No port is free.
        """
        if os.name != "posix":
            raise ServerMissing(
                "Private database servers can be started on Linux and macOS only:"
                " run the tests there, or on SQLite."
            )
        account = Account.unprivileged(system_user)
        port = free_port()
        # Not below pytest's own directory: that one is closed to other users, the server's too.
        directory = tempfile.mkdtemp(prefix=f"fastdb-{kind.lower()}-", dir=_quick_directory())
        return cls(port, Path(directory), account)

    def leave(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port() -> int:
    """Return a TCP port that nothing listens on.

    Not one of those that the system gives to outgoing connections: a client that tries to reach
    a stopped server there may be given that very port, and connect to itself.

    Raises:
        ServerFailed: There is none.
    """
    for port in random.sample(range(20000, 30000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise ServerFailed(f"No free port was found on {HOST} between 20000 and 30000.")


def _quick_directory() -> str | None:
    # In memory, a new database takes 7 ms instead of 30 to 150. Containers often have 64 MB there.
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a private directory in it
    if memory.is_dir() and shutil.disk_usage(memory).free > 2 * 1024**3:
        return str(memory)
    return None
