"""The candidates' apps, all open on one database at the same time."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from candidates import CANDIDATES
from fastapi import FastAPI
from targets import Target, table
from workloads import Workload

from asgi import Call, caller


@asynccontextmanager
async def open_apps(
    target: Target, reach: Callable[[str], str] = lambda url: url
) -> AsyncIterator[dict[str, FastAPI]]:
    """Give the app of each candidate that is for this database, by its name.

    Args:
        target: The database.
        reach: Returns the URL to reach the database by: through a proxy, for instance.
    """
    async with AsyncExitStack() as stack:
        apps: dict[str, FastAPI] = {}
        prepared = set()
        for candidate in CANDIDATES:
            if target.backend not in candidate.backends:
                continue
            url = target.new_url()
            if url not in prepared:
                await stack.enter_async_context(table(url))
                prepared.add(url)
            app = candidate.make_app(reach(url))
            await stack.enter_async_context(app.router.lifespan_context(app))
            apps[candidate.name] = app
        yield apps


def calls_of(workload: Workload, apps: dict[str, FastAPI]) -> dict[str, Call]:
    """Return what sends the workload's request, for each candidate that serves it."""
    return {name: caller(app, workload) for name, app in apps.items() if workload.is_served_by(app)}
