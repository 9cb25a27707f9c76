"""The test kit's private servers, with what only the tests of fastdb itself need.

    with PostgreSQL() as server:
        server.url()        # postgresql://fastdb:fastdb@127.0.0.1:24123/postgres
        server.kill()       # SIGKILL, as the out-of-memory killer does it
        server.start()      # same port, same data

That is TLS, a user whose password is awkward, SQL as the administrator, and PgBouncer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import LiteralString

import psycopg
import pymysql

from fastdb.testing import servers
from fastdb.testing.servers.binaries import find_program
from server_process import HOST, ServerMissing, ServerWithTLS

AWKWARD_PASSWORD = "p@ss/w:ord%"
"""The password of the role `awkward`: every character in it has a meaning in a URL."""


class ServerOfTests(ServerWithTLS):
    """A server that knows the user `awkward`, too."""

    def _password(self, user: str) -> str:
        return AWKWARD_PASSWORD if user == "awkward" else super()._password(user)


class PostgreSQL(ServerOfTests, servers.PostgreSQL):
    """A PostgreSQL server with the roles `admin` (superuser), `fastdb` and `awkward`."""

    def administer(self, *statements: LiteralString, database: str = "postgres") -> None:
        """Execute statements as the superuser, each for itself."""
        url = self.url(database, user="admin")
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def start_demoted(self) -> None:
        """Start as one that can be read from only, as whoever repairs a fail-over does."""
        (self.directory / "data" / "standby.signal").touch()
        self.start()

    def _roles(self) -> list[str]:
        awkward = f"CREATE ROLE awkward LOGIN PASSWORD '{AWKWARD_PASSWORD}'"
        return [*super()._roles(), awkward]

    def _server_settings(self) -> dict[str, str]:
        settings = super()._server_settings()
        if self.tls:
            settings["ssl"] = "on"
            settings["ssl_cert_file"] = str(self.certificate)
            settings["ssl_key_file"] = str(self.key)
        return settings


class MariaDB(ServerOfTests, servers.MariaDB):
    """A MariaDB server with the users `admin` (every right), `fastdb` and `awkward`."""

    def administer(self, *statements: str) -> None:
        """Execute statements as the administrator."""
        with (
            pymysql.connect(
                host=HOST,
                port=self.port,
                user="admin",
                password="admin",
                connect_timeout=5,
                autocommit=True,
            ) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)

    def _users(self) -> list[str]:
        awkward = f"CREATE USER IF NOT EXISTS awkward@'%' IDENTIFIED BY '{AWKWARD_PASSWORD}'"
        return [*super()._users(), awkward]

    def _server_settings(self) -> dict[str, str]:
        settings = super()._server_settings()
        if self.tls:
            settings["ssl-cert"] = str(self.certificate)
            settings["ssl-key"] = str(self.key)
        return settings


class PgBouncer(ServerOfTests):
    """PgBouncer in transaction mode, in front of a PostgreSQL server.

    Few server connections serve many clients, so that what belongs to a session soon shows.
    """

    scheme = "postgresql"
    system_user = "postgres"

    def __init__(
        self, upstream: PostgreSQL, *, tls: bool = True, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(tls=tls, settings=settings)
        self.upstream = upstream

    def url(self, database: str = "postgres", *, user: str = "fastdb") -> str:
        """Return a URL without a driver's name. The database `pgbouncer` is its console."""
        return super().url(database, user=user)

    def _find_binaries(self) -> None:
        program = find_program("pgbouncer")
        if program is None:
            raise ServerMissing("PgBouncer was not found: apt install pgbouncer, on Debian")
        self._program = program

    def _prepare(self) -> None:
        self._write_certificates()
        (self.directory / "users.txt").write_text(
            f'"admin" "admin"\n"fastdb" "fastdb"\n"awkward" "{AWKWARD_PASSWORD}"\n'
        )

    def _command(self) -> Sequence[str | Path]:
        settings = {
            "listen_addr": HOST,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(self.directory / "users.txt"),
            "admin_users": "admin",
            "pool_mode": "transaction",
            "default_pool_size": "2",
            "max_client_conn": "200",
            "server_tls_sslmode": "prefer",
            "ignore_startup_parameters": "extra_float_digits",
        }
        if self.tls:
            settings["client_tls_sslmode"] = "allow"
            settings["client_tls_cert_file"] = str(self.certificate)
            settings["client_tls_key_file"] = str(self.key)
        lines = [f"{name} = {value}" for name, value in (settings | self.settings).items()]
        upstream = f"* = host={HOST} port={self.upstream.port}"
        configuration = self.directory / "pgbouncer.ini"
        configuration.write_text("\n".join(["[databases]", upstream, "[pgbouncer]", *lines, ""]))
        return [self._program, configuration]

    def _is_ready(self) -> bool:
        try:
            with psycopg.connect(self.url(user="admin"), connect_timeout=5) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True
