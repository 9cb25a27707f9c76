"""A stand-in for the language model: OpenAI's chat completions, as far as this example needs them.

    uvicorn stand_in:app --port 9000

It answers after `STAND_IN_SECONDS` seconds. Tests hold its answers back, and look at who waits.
"""

import asyncio
import os

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

SECONDS = float(os.environ.get("STAND_IN_SECONDS", "0"))
TOKENS = 10
REFUSED = "Refuse this."

app = FastAPI(title="Stand-in")


class Message(BaseModel):
    role: str
    content: str


class Prompt(BaseModel):
    model: str
    messages: list[Message]


class Gate:
    """Lets answers through, or holds them back."""

    def __init__(self) -> None:
        self.waiting = 0
        self._open = asyncio.Event()
        self._open.set()

    async def passed(self) -> None:
        self.waiting += 1
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()


gate = Gate()


@app.post("/v1/chat/completions")
async def complete(prompt: Prompt) -> dict[str, object]:
    await gate.passed()
    await asyncio.sleep(SECONDS)
    article = prompt.messages[-1].content
    if article == REFUSED:
        raise HTTPException(400, "This is not to be summed up.")
    message = {"role": "assistant", "content": f"In short: {article}"}
    return {
        "id": "stand-in",
        "object": "chat.completion",
        "created": 0,
        "model": prompt.model,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 4, "completion_tokens": TOKENS - 4, "total_tokens": TOKENS},
    }


@app.put("/gate", status_code=204)
async def set_gate(*, is_open: bool) -> None:
    if is_open:
        gate.open()
    else:
        gate.close()


@app.get("/waiting")
async def count_waiting() -> int:
    return gate.waiting
