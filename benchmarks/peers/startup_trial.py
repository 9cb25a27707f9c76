"""A process that starts, and answers its first request: run through `alone`."""

import asyncio
from time import monotonic
from typing import Any

from workloads import READ

from asgi import caller
from peers.candidates import CANDIDATES
from peers.places import Place


def first_answer(candidate: str, url: str) -> dict[str, Any]:
    """Return when it was answered, by the clock that all processes of a machine share."""
    return asyncio.run(_first_answer(candidate, url))


async def _first_answer(candidate: str, url: str) -> dict[str, Any]:
    app = CANDIDATES[candidate].make_app(Place(url))
    async with app.router.lifespan_context(app):
        await caller(app, READ)()
        return {"answered": monotonic()}
