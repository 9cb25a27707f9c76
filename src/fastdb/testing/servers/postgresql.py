"""A private PostgreSQL server."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from fastdb.testing.servers.binaries import postgresql_binaries
from fastdb.testing.servers.places import HOST
from fastdb.testing.servers.server import Server


class PostgreSQL(Server):
    """A PostgreSQL server with the roles `fastdb`, which may create databases, and `admin`.

    `admin` is the superuser. The password of each is its name. Settings are made for speed: what
    was committed a moment before `kill()` may be lost, unless they are `PostgreSQL.DURABLE`.

        with PostgreSQL(settings={"max_connections": "20"}) as server:
            server.url("postgres")

    Args:
        settings: Parameters of the server that differ from the ones here.
    """

    scheme = "postgresql"
    system_user = "postgres"
    stop_signal = signal.SIGINT  # "fast": does not wait for the clients to go
    DURABLE: ClassVar = {"synchronous_commit": "on"}
    """Settings with which what was committed survives `kill()`, as on servers in earnest."""

    _binaries: Path

    def url(self, database: str = "postgres", *, user: str = "fastdb") -> str:
        """Return the URL of a database on this server, without a driver's name."""
        return super().url(database, user=user)

    def _find_binaries(self) -> None:
        self._binaries = postgresql_binaries()

    def _prepare(self) -> None:
        password = self.directory / "password"
        password.write_text("admin")
        self._run(
            [
                self._binaries / "initdb",
                "--no-sync",
                "--locale=C",
                "--encoding=UTF8",
                "--auth=scram-sha-256",
                "--username=admin",
                f"--pwfile={password}",
                f"--pgdata={self.directory / 'data'}",
            ]
        )
        # As a single user before the first start: it takes neither a driver nor psql.
        self._run(
            [
                self._binaries / "postgres",
                "--single",
                "-D",
                self.directory / "data",
                "--fsync=off",
                "--exit_on_error=on",  # it would go on with the next line, and end with 0
                "postgres",
            ],
            told="".join(f"{statement}\n" for statement in self._roles()),
        )

    def _roles(self) -> list[str]:
        """Return the statements that create the roles, each in one line."""
        # No superuser: to one, much that the users of fastdb meet never happens.
        return ["CREATE ROLE fastdb LOGIN CREATEDB PASSWORD 'fastdb'"]

    def _server_settings(self) -> dict[str, str]:
        return {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # in the directory, so that kill() leaves nothing
            "max_connections": "200",
            "shared_buffers": "32MB",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
            "max_wal_size": "256MB",
            "log_min_messages": "warning",
        }

    def _command(self) -> Sequence[str | Path]:
        settings = self._server_settings() | self.settings
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self._binaries / "postgres", "-D", self.directory / "data", *options]

    def _is_ready(self) -> bool:
        # What pg_ctl waits for as well: it takes no driver, leaves nothing in the log, and cannot
        # be the answer of another server that was quicker to take the port. A file that an
        # earlier run has left has the number of an earlier process.
        try:
            status = (self.directory / "data" / "postmaster.pid").read_text(errors="replace")
        except FileNotFoundError:
            return False
        lines = [line.strip() for line in status.splitlines()]
        return lines[:1] == [str(self._running.pid)] and lines[7:8] == ["ready"]
