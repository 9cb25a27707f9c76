"""How often a connection's thread is gone to: calls that really happen, counted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiosqlite
import pytest


class Hops:
    """Counts the ways to the threads of all connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        execute = aiosqlite.Connection._execute

        async def counted(
            connection: aiosqlite.Connection, function: Any, *args: Any, **kwargs: Any
        ) -> Any:
            self.count += 1
            return await execute(connection, function, *args, **kwargs)  # type: ignore[no-untyped-call]

        monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)

    @contextmanager
    def expected(self, count: int) -> Iterator[None]:
        """Fail unless the block takes exactly so many hops."""
        before = self.count
        yield
        assert self.count - before == count
