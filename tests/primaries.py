"""A primary that is demoted, its successor, and the address that leads to one of them."""

import asyncio
from dataclasses import dataclass

from sqlalchemy import delete
from sqlalchemy.engine import make_url

from asgi import Base, Item
from databases import render
from fastdb import Database
from proxy import Proxy
from servers import MariaDB, PostgreSQL
from standby import Standby


@dataclass
class Pair:
    """Two servers with the same database: a primary that is to be demoted, and its successor."""

    old: PostgreSQL | MariaDB
    new: PostgreSQL | MariaDB
    database: str

    async def prepare(self) -> None:
        """Make the tables, empty, on both."""
        for server in [self.new, self.old] if isinstance(self.old, MariaDB) else [self.new]:
            async with Database(server.url(self.database)) as db:
                await db.create_all(Base.metadata)
                async with db.session() as session:
                    await session.execute(delete(Item))
        if isinstance(self.old, Standby):
            await asyncio.to_thread(self.old.catch_up)

    async def demote(self) -> None:
        """Let the old primary take no writes; a hot standby does not in any case."""
        if isinstance(self.old, MariaDB):
            await asyncio.to_thread(self.old.administer, "SET GLOBAL read_only = ON")

    def restore(self) -> None:
        """As it was."""
        if isinstance(self.old, MariaDB):
            self.old.administer("SET GLOBAL read_only = OFF")


@dataclass
class Address:
    """Where the primary is to be found, for the time being: a DNS name, or a load balancer."""

    proxy: Proxy
    pair: Pair

    def url(self, drivername: str) -> str:
        """Return the URL that leads there."""
        return render(make_url(self.proxy.url).set(drivername=drivername))

    async def switch(self) -> None:
        """Demote the old primary, and lead to the new one; connections stay where they are."""
        await self.pair.demote()
        self.proxy.lead_to(self.pair.new.url(self.pair.database))

    @property
    def new_port(self) -> int:
        return self.pair.new.port
