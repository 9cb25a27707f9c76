"""A private MariaDB server."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from fastdb.testing.servers.binaries import MariaDBBinaries, mariadb_binaries
from fastdb.testing.servers.places import HOST
from fastdb.testing.servers.server import Server

_GREETING_SECONDS = 5
_PROTOCOL_VERSION = 10  # the first byte of a greeting; of a refusal, it is 255


class MariaDB(Server):
    r"""A MariaDB server with the users `fastdb` and `admin`.

    `fastdb` has every right on databases called `fastdb_…` or `test_…`, and may create them;
    `admin` has every right. The password of each is its name. Settings are made for speed: what
    was committed a moment before `kill()` may be lost, unless they are `MariaDB.DURABLE`.

        with MariaDB(settings={"max-connections": "20"}) as server:
            server.url("test_heroes")

    Args:
        settings: Options of the server that differ from the ones here.
    """

    scheme = "mysql"
    system_user = "mysql"
    DURABLE: ClassVar = {"innodb-flush-log-at-trx-commit": "2"}
    """Settings with which what was committed survives `kill()`, as on servers in earnest."""

    _binaries: MariaDBBinaries

    def _find_binaries(self) -> None:
        self._binaries = mariadb_binaries()

    def _prepare(self) -> None:
        self._run(
            [
                self._binaries.install,
                "--no-defaults",  # must come first
                *self._binaries.options,
                f"--datadir={self.directory / 'data'}",
                f"--tmpdir={self.directory}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ]
        )
        (self.directory / "init.sql").write_text(
            "".join(f"{statement};\n" for statement in self._users())
        )

    def _users(self) -> list[str]:
        """Return the statements that create the users; they are executed at each start."""
        return [
            "CREATE USER IF NOT EXISTS admin@'%' IDENTIFIED BY 'admin'",
            "GRANT ALL ON *.* TO admin@'%' WITH GRANT OPTION",
            # No READ_ONLY ADMIN: who has it can write to a demoted primary.
            "CREATE USER IF NOT EXISTS fastdb@'%' IDENTIFIED BY 'fastdb'",
            "GRANT PROCESS ON *.* TO fastdb@'%'",
            r"GRANT ALL ON `fastdb\_%`.* TO fastdb@'%'",
            r"GRANT ALL ON `test\_%`.* TO fastdb@'%'",
        ]

    def _server_settings(self) -> dict[str, str]:
        return {
            "datadir": str(self.directory / "data"),
            # Not the machine's: a server that starts deletes there what others are using.
            "tmpdir": str(self.directory),
            "socket": str(self._socket),
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

    @property
    def _socket(self) -> Path:
        return self.directory / "socket"

    def _command(self) -> Sequence[str | Path]:
        settings = self._server_settings() | self.settings
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self._binaries.server, "--no-defaults", *self._binaries.options, *options]

    def _is_ready(self) -> bool:
        # The greeting is the first thing that a server says, and it says so once init.sql was
        # executed. It takes no driver to read one; and on this socket, which is in our directory,
        # it cannot be the greeting of another server that was quicker to take the port.
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_GREETING_SECONDS)
            try:
                client.connect(str(self._socket))
                packet = client.recv(5)  # a header of four bytes goes before
            except OSError:
                return False
        return packet[4:] == bytes([_PROTOCOL_VERSION])
