"""Workflows that tests use."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx

T = TypeVar("T")

#       facts ─┬─ pros ─┬─ verdict
#              └─ cons ─┘
DIAMOND: list[dict[str, Any]] = [
    {"name": "facts", "component": "facts"},
    {"name": "pros", "component": "pros", "needs": ["facts"]},
    {"name": "cons", "component": "cons", "needs": ["facts"]},
    {"name": "verdict", "component": "verdict", "needs": ["pros", "cons"]},
]
PROMPTS = {
    "facts": "Facts of $input",
    "pros": "Pros of $facts",
    "cons": "Cons of $facts",
    "verdict": "$pros or $cons?",
    "fails": "FAIL",
    "hostile": "HOSTILE",
    "word": "Say $input",
}


async def create(client: httpx.AsyncClient, steps: list[dict[str, Any]]) -> int:
    """Create the components and a workflow; return its id."""
    for name, prompt in PROMPTS.items():
        answer = await client.post("/components", json={"name": name, "prompt": prompt})
        assert answer.status_code in {201, 409}
    answer = await client.post("/workflows", json={"name": "story", "steps": steps})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


async def start(client: httpx.AsyncClient, workflow: int, given: str = "tea") -> int:
    """Start a run; return its id."""
    answer = await client.post(f"/workflows/{workflow}/runs", json={"input": given})
    assert answer.status_code == 202, answer.text
    return int(answer.json()["id"])


async def read_run(client: httpx.AsyncClient, run: int) -> dict[str, Any]:
    """Return a run and its steps."""
    found: dict[str, Any] = (await client.get(f"/runs/{run}")).json()
    return found


async def ended(client: httpx.AsyncClient, run: int) -> dict[str, Any]:
    """Wait until a run has ended."""
    return await until(
        lambda: read_run(client, run), lambda found: found["run"]["status"] != "running"
    )


async def interrupted(client: httpx.AsyncClient) -> list[int]:
    """Wait until there are runs that nobody is at work on; return their ids."""

    async def look() -> list[int]:
        return [run["id"] for run in (await client.get("/runs?interrupted=true")).json()]

    return await until(look, bool)


async def until(look: Callable[[], Awaitable[T]], is_it: Callable[[T], bool]) -> T:
    """Look until it is there; return what was seen."""
    async with asyncio.timeout(30):
        while True:
            if is_it(seen := await look()):
                return seen
            await asyncio.sleep(0.05)


def outcomes(found: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Return what has become of each step."""
    return {step["name"]: (step["status"], step["output"]) for step in found["steps"]}
