"""Components and workflows: what can be brought into an order."""

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from stories import DIAMOND, create

from workflows.models import Run, Workflow


def step(name: str, *needs: str, component: str = "facts") -> dict[str, Any]:
    return {"name": name, "component": component, "needs": list(needs)}


async def test_component_of_one_name(client: httpx.AsyncClient) -> None:
    """There is one."""
    new = {"name": "facts", "prompt": "Facts of $input"}
    assert (await client.post("/components", json=new)).status_code == 201
    assert (await client.post("/components", json=new)).status_code == 409
    assert [each["name"] for each in (await client.get("/components")).json()] == ["facts"]


@pytest.mark.parametrize("name", ["a\x00b", "half of a smile: \ud83d", "", "a" * 101])
async def test_names_that_are_refused(name: str, client: httpx.AsyncClient) -> None:
    """What no column can hold is 422."""
    answer = await client.post(
        "/components",
        content=json.dumps({"name": name, "prompt": "Facts"}),  # httpx would refuse half of one
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([], "at least 1 item"),
        ([step("a", "a")], "steps wait for each other"),
        ([step("a", "b"), step("b", "c"), step("c", "a")], "steps wait for each other"),
        ([step("a"), step("a")], "two steps have the same name"),
        ([step("a", "b")], "there are no steps b"),
        ([step("input")], "`input` is what the run is given"),
        ([step("a", component="nothing")], "There are no components nothing."),
        ([step("A")], "should match pattern"),
    ],
)
async def test_steps_that_are_refused(
    steps: list[dict[str, Any]], reason: str, client: httpx.AsyncClient, session: AsyncSession
) -> None:
    """422 says why, and nothing of it is kept."""
    await create(client, DIAMOND)
    answer = await client.post("/workflows", json={"name": "story", "steps": steps})
    assert answer.status_code == 422
    assert reason in answer.text
    assert await session.scalar(select(func.count()).select_from(Workflow)) == 1


async def test_run_of_nothing(client: httpx.AsyncClient, session: AsyncSession) -> None:
    """404, and no run."""
    answer = await client.post("/workflows/1000000/runs", json={"input": "tea"})
    assert answer.status_code == 404
    assert (await client.get("/runs/1000000")).status_code == 404
    assert (await client.post("/runs/1000000/resume")).status_code == 404
    assert await session.scalar(select(func.count()).select_from(Run)) == 0
