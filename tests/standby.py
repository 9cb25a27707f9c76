"""A PostgreSQL server that streams from another one, and can take its place.

with PostgreSQL() as primary, Standby(primary) as standby:
    standby.synchronise()       # from now on, COMMIT waits for it
    primary.kill()
    standby.promote()           # now it takes writes
    primary.start_demoted()     # and this one does not
"""

from collections.abc import Mapping

import psycopg

from server_process import wait_until
from servers import PostgreSQL


class Standby(PostgreSQL):
    """A copy of another PostgreSQL server, which streams from it until it is promoted.

    It is a hot standby: it can be read from, and refuses writes with SQLSTATE 25006.

    Args:
        primary: Runs when this one is started for the first time.
    """

    def __init__(self, primary: PostgreSQL, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(tls=primary.tls, settings=settings)
        self.primary = primary

    def synchronise(self) -> None:
        """Let the primary's COMMIT, to users who connect from now on, wait for this server.

        What they are told is committed can be read here.
        """
        self.primary.administer(
            "ALTER ROLE fastdb SET synchronous_commit = remote_apply",
            "ALTER SYSTEM SET synchronous_standby_names = '*'",
            "SELECT pg_reload_conf()",
        )
        with psycopg.connect(self.primary.url(user="admin"), autocommit=True) as admin:
            in_time = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
            wait_until(lambda: admin.execute(in_time).fetchone() is not None)

    def catch_up(self) -> None:
        """Wait until everything that the primary has written so far can be read here."""
        with (
            psycopg.connect(self.primary.url(user="admin"), autocommit=True) as there,
            psycopg.connect(self.url(user="admin"), autocommit=True) as here,
        ):
            written = there.execute("SELECT pg_current_wal_lsn()").fetchone()
            behind = "SELECT pg_last_wal_replay_lsn() < %s::pg_lsn"
            wait_until(lambda: here.execute(behind, written).fetchone() == (False,))

    def promote(self) -> None:
        """Become a primary; returns when it takes writes."""
        self.administer("SELECT pg_promote()")

    def _prepare(self) -> None:
        self._write_certificates()
        self._run(
            [
                self._binaries / "pg_basebackup",
                f"--dbname={self.primary.url(user='admin')}",
                f"--pgdata={self.directory / 'data'}",
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
            ]
        )
