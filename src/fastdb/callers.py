"""Who asks: a request, a task or a thread, by a name that an operator knows.

Connections are taken and locks are waited for far below the code that wants them. What is noted
there has to say whose doing it is.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from os import sep
from pathlib import Path
from typing import Any
from weakref import ref

import sqlalchemy

from fastdb.route_names import route_path

Scope = Mapping[str, Any]

# A thread of a pool is nobody: a request's blocking work may run in several, and each of them
# works for other requests in between. Worker threads inherit the context of whom they work for.
# Weak, as the context belongs to the task.
_working_for: ContextVar[Callable[[], asyncio.Task[Any] | None]] = ContextVar(
    "fastdb_working_for", default=lambda: None
)


class Serving:
    """A request that is being served. Tasks that outlive it inherit this, and find it empty.

    Attributes:
        scope: Its ASGI scope; None when it is over.
    """

    __slots__ = ("scope",)

    def __init__(self, scope: Scope | None) -> None:
        self.scope = scope

    def end(self) -> None:
        """Let nobody bear its name any more."""
        self.scope = None


_serving: ContextVar[Serving] = ContextVar("fastdb_serving", default=Serving(None))  # noqa: B039 - never changed


@dataclass(frozen=True, slots=True)
class Caller:
    """Who does something.

    Attributes:
        owner: A task, or a thread that works for no task; None if it is gone.
        request: The ASGI scope of the request that it is done for, if any.
    """

    owner: object
    request: Scope | None

    def __str__(self) -> str:
        if self.request is not None:
            return self.kind
        if isinstance(self.owner, asyncio.Task):
            return f"Task {self.owner.get_name()!r}"
        return "a task that is gone" if self.owner is None else self.kind

    @property
    def kind(self) -> str:
        """What it has in common with others that do the same."""
        if self.request is not None:
            return f"{self.request.get('method', 'WebSocket')} {route_path(self.request)}"
        if isinstance(self.owner, asyncio.Task):
            coroutine = self.owner.get_coro()
            return f"Task of {getattr(coroutine, '__qualname__', coroutine)}()"
        return f"Thread {getattr(self.owner, 'name', '?')!r}"


def work_for_this_task() -> None:
    """Let what threads do from now on in this context count as done by the current task."""
    task = asyncio.current_task()
    if task is not None:
        _working_for.set(ref(task))


def serve(request: Scope) -> Serving:
    """Let what is done from now on in this context bear the name of this request.

    Args:
        request: Its ASGI scope.

    Returns:
        What to `end` when it is over.
    """
    serving = Serving(request)
    _serving.set(serving)
    return serving


def served_request() -> Scope | None:
    """Return the ASGI scope of the request that is being served, if any."""
    return _serving.get().scope


def current_serving() -> Serving:
    """Return what stands for the request that is or was served here; always the same for none."""
    return _serving.get()


def current_owner() -> object:
    """Return the current task, or the thread, or the task that the thread works for."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = _working_for.get()()
    return task or threading.current_thread()


def caller() -> Caller:
    """Return who calls."""
    return Caller(current_owner(), served_request())


# The standard library, what is installed beside SQLAlchemy, this package, and what has no file.
_LIBRARIES = (
    f"{Path(asyncio.__file__).parents[1]}{sep}",
    f"{Path(sqlalchemy.__file__).parents[1]}{sep}",
    f"{Path(__file__).parent}{sep}",
    "<frozen ",
)


def is_library(filename: str) -> bool:
    """Return whether code of this file is not the user's own."""
    return filename.startswith(_LIBRARIES)
