"""A fail-over under load: the primary is killed, its standby promoted, and an app goes on.

python tests/fail_over.py asyncpg        # prints the figures of one
"""

import asyncio
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

from fastapi import FastAPI
from sqlalchemy import select

from asgi import Base, Client, Item, until
from databases import add_database
from fastdb import Database, SessionDep, Timeouts, install_error_handlers
from server_process import HOST
from servers import PostgreSQL
from standby import Standby

CLIENTS = 4


@dataclass(slots=True)
class FailOver:
    """What the clients of an app saw of a fail-over, and what was left in the database.

    Attributes:
        promotion_seconds: What the promotion itself took.
        recovery_seconds: From its end until every client had written something again.
        answers: How many there were, by status and kind.
        acknowledged: Rows of which a client was told that they were saved.
        unknown: Rows of which it was told that nobody knows.
        rows: Those that there are.
    """

    promotion_seconds: float = 0
    recovery_seconds: float = 0
    answers: Counter[tuple[int, str | None]] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    rows: set[str] = field(default_factory=set)

    def note(self, row: str, status: int, kind: str | None) -> None:
        """Note what a client was answered."""
        self.answers[status, kind] += 1
        if status == 201:
            self.acknowledged.add(row)
        elif kind == "commit_outcome_unknown":
            self.unknown.add(row)


def url_of_both(primary: PostgreSQL, standby: Standby, driver: str, name: str) -> str:
    """Return the URL that leads to whichever of the two takes writes."""
    hosts = f"{HOST}:{primary.port},{HOST}:{standby.port}"
    return f"postgresql+{driver}://fastdb:fastdb@{hosts}/{name}?target_session_attrs=read-write"


def app_on(db: Database) -> FastAPI:
    """Return an app that adds items and tells them."""
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/items/{name}", status_code=201)
    async def create(name: str, session: SessionDep) -> None:
        session.add(Item(name=name))

    @app.get("/items")
    async def read(session: SessionDep) -> list[str]:
        return list(await session.scalars(select(Item.name)))

    return app


async def fail_over(client: Client, primary: PostgreSQL, standby: Standby) -> FailOver:
    """Kill the primary and promote the standby while clients write without a pause.

    Args:
        client: Calls an app of `app_on`, which is connected to both servers.
        primary: Has a table for the app's items.
        standby: Is waited for by the primary's COMMIT.
    """
    seen = FailOver()
    loop = asyncio.get_running_loop()
    last_saved = [0.0] * CLIENTS
    stop = asyncio.Event()

    async def write(number: int) -> None:
        for turn in count():
            if stop.is_set():
                return
            began, row = loop.time(), f"{number}/{turn}".replace("/", "-")
            answer = await client.post(f"/items/{row}")
            assert answer.status is not None, answer.error
            kind = answer.json()["kind"] if answer.status != 201 else None
            seen.note(row, answer.status, kind)
            if answer.status == 201:
                last_saved[number] = began
            await asyncio.sleep(0.002)  # what is refused is refused at once

    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(write(number))
        await until(lambda: len(seen.acknowledged) > 5 * CLIENTS)
        await asyncio.to_thread(primary.kill)
        await until(lambda: any(status != 201 for status, _ in seen.answers))
        begun = loop.time()
        await asyncio.to_thread(standby.promote)
        promoted = loop.time()
        await until(lambda: min(last_saved) > promoted)
        stop.set()
    seen.promotion_seconds = promoted - begun
    seen.recovery_seconds = loop.time() - promoted
    seen.rows = set((await client.get("/items")).json())
    return seen


async def main(driver: str) -> None:
    """Make one fail-over and print what was seen."""
    with PostgreSQL() as primary:
        name = add_database(primary).rpartition("/")[2]
        with Standby(primary) as standby:
            standby.synchronise()
            url = url_of_both(primary, standby, driver, name)
            async with Database(url, timeouts=Timeouts(connect=2)) as db:
                await db.create_all(Base.metadata)
                app = app_on(db)
                async with db.lifespan(app):
                    seen = await fail_over(Client(app, None, db), primary, standby)
    sys.stdout.write(
        f"{driver}: promoted in {seen.promotion_seconds:.3f} s, all clients served again"
        f" {seen.recovery_seconds:.3f} s later; {len(seen.acknowledged)} rows acknowledged,"
        f" {len(seen.acknowledged - seen.rows)} of them lost, {len(seen.unknown)} of unknown"
        f" outcome; answers: {dict(seen.answers)}\n"
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
