"""Private servers for tests, from the programs on this machine: no docker.

    with PostgreSQL() as server:
        server.url("postgres")  # postgresql://fastdb:fastdb@127.0.0.1:24123/postgres
        server.kill()           # SIGKILL, as the out-of-memory killer does it
        server.start()          # same port, same data

Each server has a directory and a loopback port of its own, so a server that the machine already
runs is neither used nor disturbed. Nothing of it is left in the end, even where the tests are
killed. No driver is needed to start one. `AppServer` is the app itself, under uvicorn.
"""

from fastdb.errors import ServerFailed, ServerMissing
from fastdb.testing.servers.app import AppServer
from fastdb.testing.servers.mariadb import MariaDB
from fastdb.testing.servers.postgresql import PostgreSQL

__all__ = ["AppServer", "MariaDB", "PostgreSQL", "ServerFailed", "ServerMissing"]
