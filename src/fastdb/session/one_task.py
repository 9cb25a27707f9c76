"""Only one task at a time is inside a session.

A session is one transaction on one connection. Of two tasks that use it at once, one commits what
the other has half done, or ends it beneath the other; drivers make them wait for one another, or
mix up their answers. So the second one is refused. The first is left alone, also by the end of the
unit of work: who is inside when the session is to be ended, ends it on leaving.

Who is inside is known by the greenlet that the call runs in. The task is only a name for it, as
one call may go on in another task: a COMMIT does, so that it is not cut in two.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Never, Self

from greenlet import getcurrent, greenlet

from fastdb.errors import SessionInUse


class OneTask:
    """Lets the calls of one task at a time into a session: `with one_task("execute"): …`.

    Attributes:
        greenlet: In which the call runs that is inside; None where nobody is.
        refused: The first call that was refused, until all is rolled back.
    """

    __slots__ = ("_call", "_depth", "_last", "_task", "greenlet", "refused")

    def __init__(self) -> None:
        self._depth = 0
        self._call = ""
        self.greenlet: greenlet | None = None
        self._task: asyncio.Task[Any] | None = None
        self._last: tuple[Callable[[], None], asyncio.Future[None]] | None = None
        self.refused: SessionInUse | None = None

    def __call__(self, call: str) -> Self:
        """Let the current task in; calls inside of its own call are let in as well.

        Raises:
            SessionInUse: Another task is inside.
        """
        here = getcurrent()
        if not self._depth:
            self.greenlet, self._task, self._call = here, _current_task(), call
        elif self.greenlet is not here:
            task = _current_task()
            if task is None or task is not self._task:
                self._raise(call, task, self._task, self._call)
        self._depth += 1
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        try:
            if self._depth == 1 and self._last is not None:
                self._last[0]()
        finally:
            self._depth -= 1
            if not self._depth:
                self.greenlet = self._task = None
                if self._last is not None and not self._last[1].done():
                    self._last[1].set_result(None)

    @property
    def is_inside(self) -> bool:
        """Whether a call has not returned yet."""
        return self._depth > 0

    @property
    def is_to_end(self) -> bool:
        """Whether who is inside has been asked to end the session on leaving."""
        return self._last is not None

    def when_left(self, end: Callable[[], None]) -> asyncio.Future[None]:
        """Let who is inside call `end` on leaving; return a future that is done after that."""
        if self._last is None:
            self._last = end, asyncio.get_running_loop().create_future()
        return self._last[1]

    def refuse(self, call: str, other: asyncio.Task[Any], other_call: str) -> Never:
        """Refuse the current task, while `other` is inside the block of its call.

        Raises:
            SessionInUse: Always.
        """
        self._raise(call, _current_task(), other, other_call)

    def _raise(
        self,
        call: str,
        task: asyncio.Task[Any] | None,
        other: asyncio.Task[Any] | None,
        other_call: str,
    ) -> Never:
        error = SessionInUse(
            f"{_name(task)} calls session.{call}() while {_name(other)} is inside"
            f" session.{other_call}(): a session is one transaction on one connection, and serves"
            " one task at a time. Open a session for each task, `async with db.session() as"
            " session:`; or await one call before the next."
        )
        self.refused = self.refused or error
        raise error


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None  # no event loop runs here


def _name(task: asyncio.Task[Any] | None) -> str:
    return "A callback" if task is None else f"Task {task.get_name()!r}"
