"""Private database servers for the tests, from the binaries on this machine.

    with PostgreSQL() as server:
        server.url()        # postgresql://fastdb:fastdb@127.0.0.1:41234/postgres
        server.kill()       # SIGKILL, as the out-of-memory killer does it
        server.start()      # same port, same data

Each server has a directory and a loopback port of its own, so a server that the machine already
runs is neither used nor disturbed. Started by root they run as an unprivileged user, because
PostgreSQL and MariaDB refuse to run as root.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, LiteralString
from urllib.parse import quote

import psycopg
import pymysql

from server_process import HOST, BinaryMissing, Server

AWKWARD_PASSWORD = "p@ss/w:ord%"
"""The password of the role `awkward`: every character in it has a meaning in a URL."""


class PostgreSQL(Server):
    """A PostgreSQL server with the roles `admin` (superuser), `fastdb` and `awkward`."""

    system_user = "postgres"
    stop_signal = signal.SIGINT  # "fast": does not wait for the clients to go
    DURABLE: ClassVar = {"synchronous_commit": "on"}
    """Settings with which what was committed survives `kill()`, as on servers in earnest."""

    def url(self, database: str = "postgres", *, user: str = "fastdb") -> str:
        """Return a URL without a driver's name."""
        return f"postgresql://{_userinfo(user)}@{HOST}:{self.port}/{database}"

    def ping(self) -> None:
        with psycopg.connect(self.url(user="admin"), connect_timeout=5) as connection:
            connection.execute("SELECT 1")

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

    def _require_binaries(self) -> None:
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

    def _populate(self) -> None:
        with psycopg.connect(self.url(user="admin")) as connection:
            # No superuser: to one, much that the users of fastdb meet never happens.
            connection.execute("CREATE ROLE fastdb LOGIN CREATEDB PASSWORD 'fastdb'")
            connection.execute(f"CREATE ROLE awkward LOGIN PASSWORD '{AWKWARD_PASSWORD}'")

    def _command(self) -> Sequence[str | Path]:
        settings = {
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
        if self.tls:
            settings["ssl"] = "on"
            settings["ssl_cert_file"] = str(self.directory / "server.pem")
            settings["ssl_key_file"] = str(self.directory / "server.key")
        options = [f"--{name}={value}" for name, value in (settings | self.settings).items()]
        return [self._binaries / "postgres", "-D", self.directory / "data", *options]


class MariaDB(Server):
    """A MariaDB server with the users `admin` (every right), `fastdb` and `awkward`."""

    system_user = "mysql"
    DURABLE: ClassVar = {"innodb-flush-log-at-trx-commit": "2"}
    """Settings with which what was committed survives `kill()`, as on servers in earnest."""

    def url(self, database: str = "", *, user: str = "fastdb") -> str:
        """Return a URL without a driver's name."""
        return f"mysql://{_userinfo(user)}@{HOST}:{self.port}/{database}"

    def ping(self) -> None:
        self._connect().close()

    def administer(self, *statements: str) -> None:
        """Execute statements as the administrator."""
        with self._connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _connect(self) -> "pymysql.Connection[Any]":
        return pymysql.connect(
            host=HOST,
            port=self.port,
            user="admin",
            password="admin",
            connect_timeout=5,
            autocommit=True,
        )

    def _require_binaries(self) -> None:
        hint = "install MariaDB (Debian and Ubuntu: apt install mariadb-server)"
        self._server = _binary("mariadbd", hint)
        self._install = _binary("mariadb-install-db", hint)

    def _prepare(self) -> None:
        self._run(
            [
                self._install,
                "--no-defaults",  # must come first
                f"--datadir={self.directory / 'data'}",
                f"--tmpdir={self.directory}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ]
        )
        (self.directory / "init.sql").write_text(
            "CREATE USER IF NOT EXISTS admin@'%' IDENTIFIED BY 'admin';\n"
            "GRANT ALL ON *.* TO admin@'%' WITH GRANT OPTION;\n"
            # No READ_ONLY ADMIN: who has it can write to a demoted primary.
            "CREATE USER IF NOT EXISTS fastdb@'%' IDENTIFIED BY 'fastdb';\n"
            "GRANT PROCESS ON *.* TO fastdb@'%';\n"
            "GRANT ALL ON `fastdb\\_%`.* TO fastdb@'%';\n"
            f"CREATE USER IF NOT EXISTS awkward@'%' IDENTIFIED BY '{AWKWARD_PASSWORD}';\n"
        )

    def _command(self) -> Sequence[str | Path]:
        settings = {
            "datadir": str(self.directory / "data"),
            # Not the machine's: a server that starts deletes there what others are using.
            "tmpdir": str(self.directory),
            "socket": str(self.directory / "socket"),
            "pid-file": str(self.directory / "pid"),
            "init-file": str(self.directory / "init.sql"),
            "bind-address": HOST,
            "port": str(self.port),
            "skip-name-resolve": "ON",
            "max-connections": "200",
            "innodb-buffer-pool-size": "32M",
            "innodb-log-file-size": "32M",
            "innodb-flush-log-at-trx-commit": "0",
            "innodb-flush-method": "nosync",
            "innodb-fast-shutdown": "2",
            "innodb-buffer-pool-dump-at-shutdown": "OFF",
            "innodb-buffer-pool-load-at-startup": "OFF",
            "performance-schema": "OFF",
        }
        if self.tls:
            settings["ssl-cert"] = str(self.directory / "server.pem")
            settings["ssl-key"] = str(self.directory / "server.key")
        options = [f"--{name}={value}" for name, value in (settings | self.settings).items()]
        return [self._server, "--no-defaults", *options]


class PgBouncer(Server):
    """PgBouncer in transaction mode, in front of a PostgreSQL server.

    Few server connections serve many clients, so that what belongs to a session soon shows.
    """

    system_user = "postgres"

    def __init__(
        self, upstream: PostgreSQL, *, tls: bool = True, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(tls=tls, settings=settings)
        self.upstream = upstream

    def url(self, database: str = "postgres", *, user: str = "fastdb") -> str:
        """Return a URL without a driver's name. The database `pgbouncer` is its console."""
        return f"postgresql://{_userinfo(user)}@{HOST}:{self.port}/{database}"

    def ping(self) -> None:
        with psycopg.connect(self.url(user="admin"), connect_timeout=5) as connection:
            connection.execute("SELECT 1")

    def _require_binaries(self) -> None:
        hint = "install PgBouncer (Debian and Ubuntu: apt install pgbouncer)"
        self._server = _binary("pgbouncer", hint)

    def _prepare(self) -> None:
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
            settings["client_tls_cert_file"] = str(self.directory / "server.pem")
            settings["client_tls_key_file"] = str(self.directory / "server.key")
        lines = [f"{name} = {value}" for name, value in (settings | self.settings).items()]
        upstream = f"* = host={HOST} port={self.upstream.port}"
        configuration = self.directory / "pgbouncer.ini"
        configuration.write_text("\n".join(["[databases]", upstream, "[pgbouncer]", *lines, ""]))
        return [self._server, configuration]


def postgresql_binaries() -> Path:
    """Return the directory of the newest PostgreSQL's binaries.

    Debian keeps them off the PATH, and its `pg_config` is in a package that servers do not have.

    Raises:
        BinaryMissing: There is none.
    """
    candidates = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name)
    )
    if on_path := shutil.which("postgres"):
        candidates.append(Path(on_path).resolve().parent)  # where a link may lead, the others are
    if pg_config := shutil.which("pg_config"):
        found = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        candidates.insert(0, Path(found.stdout.strip()))
    for directory in reversed(candidates):
        if (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    raise BinaryMissing(
        "PostgreSQL's initdb and postgres were not found:"
        " install PostgreSQL (Debian and Ubuntu: apt install postgresql)"
    )


def _binary(name: str, hint: str) -> Path:
    # Debian's sbin is not on an ordinary user's PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise BinaryMissing(f"{name} was not found: {hint}")
    return Path(found)


def _userinfo(user: str) -> str:
    password = AWKWARD_PASSWORD if user == "awkward" else user
    return f"{user}:{quote(password, safe='')}"
