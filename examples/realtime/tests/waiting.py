"""Waiting for operations."""

import asyncio
from typing import Any

import httpx


async def start(client: httpx.AsyncClient, headers: dict[str, str], *names: str) -> int:
    """Start an operation; return its id."""
    answer = await client.post("/operations", json={"files": names}, headers=headers)
    assert answer.status_code == 202, answer.text
    return int(answer.json()["id"])


async def ended(
    client: httpx.AsyncClient, headers: dict[str, str], operation: int
) -> dict[str, Any]:
    """Wait until an operation has ended."""
    async with asyncio.timeout(30):
        while True:
            listed = (await client.get("/operations", headers=headers)).json()
            (found,) = (each for each in listed if each["id"] == operation)
            if found["status"] != "running":
                return dict(found)
            await asyncio.sleep(0.02)
