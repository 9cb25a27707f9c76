"""Passwords that are asked for at each new connection: rotated secrets, cloud tokens."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.util import await_only

PasswordSource = Callable[[], str | Awaitable[str]]


def ask_for_password(engine: Engine, source: PasswordSource) -> None:
    """Call `source` before each new connection of `engine` and connect with what it returns.

    An async `source` is awaited; on the synchronous twin, in an event loop of its own.
    """
    is_async = engine.dialect.is_async

    def connect(_dialect: Any, _entry: Any, _arguments: Any, keywords: dict[str, Any]) -> None:
        answer = source()
        if not isinstance(answer, str):
            answer = await_only(answer) if is_async else asyncio.run(_wait(answer))
        keywords["password"] = answer

    event.listen(engine, "do_connect", connect)


async def _wait(answer: Awaitable[str]) -> str:
    return await answer
