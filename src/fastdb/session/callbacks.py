"""What is to be done once a transaction has been committed."""

import logging
from collections.abc import Awaitable, Coroutine

from sqlalchemy.orm import SessionTransaction

from fastdb.session.capture import Callback, due

logger = logging.getLogger("fastdb.session")


class Callbacks:
    """The `on_commit` callbacks of one session: waiting for COMMIT, then to be run once."""

    __slots__ = ("_committed", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[tuple[Callback, list[SessionTransaction]]] = []
        self._committed: list[Callback] = []

    def add(self, callback: Callback, innermost: SessionTransaction | None) -> None:
        """Keep `callback` for as long as nothing that is open around it is rolled back."""
        around = []
        while innermost is not None:
            around.append(innermost)
            innermost = innermost.parent
        self._waiting.append((callback, around))

    def committed(self) -> None:
        """Release what was waiting: its transaction was committed, by whichever call."""
        self._committed += [callback for callback, _ in self._waiting]
        self._waiting.clear()

    def rolled_back(self, ended: SessionTransaction) -> None:
        """Drop what was registered inside the transaction or savepoint that has ended."""
        self._waiting = [kept for kept in self._waiting if ended not in kept[1]]

    def drop(self) -> None:
        """Drop what still waits."""
        self._waiting.clear()

    def are_due(self) -> bool:
        """Return whether there is anything to run."""
        return bool(self._committed)

    def run(self) -> None:
        """Call those whose COMMIT has succeeded, all of them."""
        for callback in self._take():
            try:
                answer = callback()
                if isinstance(answer, Coroutine):
                    answer.close()
                    logger.error("An on_commit callback cannot be async here: %r", callback)
            except Exception:
                logger.exception("An on_commit callback failed: %r", callback)

    async def run_async(self) -> None:
        """Call those whose COMMIT has succeeded, all of them, and await what they return."""
        for callback in self._take():
            try:
                answer = callback()
                if isinstance(answer, Awaitable):
                    await answer
            except Exception:
                logger.exception("An on_commit callback failed: %r", callback)

    def _take(self) -> list[Callback]:
        committed, self._committed = self._committed, []
        return due(committed)
