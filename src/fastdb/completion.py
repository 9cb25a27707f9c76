"""Letting what has begun come to its end although the caller is cancelled, but not for ever."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from anyio import CancelScope

T = TypeVar("T")

# After a connection was cut, who waited on it is woken by an error: this is the time for that.
_GRACE_SECONDS = 1.0


async def run_to_completion(
    work: Coroutine[Any, Any, T], *, seconds: float, give_up: Callable[[], object]
) -> T:
    """Run `work` in a task of its own; once the caller is cancelled, for `seconds` more at most.

    The cancellation is raised when `work` has ended, or was given up: then `give_up()` is called,
    which must make it fail soon.

    Raises:
        CancelledError: The caller was cancelled.
        Exception: What `work` raised.
    """
    task = _start(work)
    if task.done():
        return task.result()
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _end(task, seconds, give_up)
        raise


async def run_within(
    work: Coroutine[Any, Any, T], *, seconds: float, give_up: Callable[[], object]
) -> T:
    """Run `work` in a task of its own, for `seconds` at most, cancelled or not.

    Raises:
        CancelledError: The caller was cancelled meanwhile.
        TimeoutError: `work` was given up, and has raised nothing.
        Exception: What `work` raised.
    """
    task = _start(work)
    if task.done():
        return task.result()
    cancelled = await _end(task, seconds, give_up)
    if cancelled is not None:
        raise cancelled
    if not task.done() or task.cancelled():
        raise TimeoutError(f"It has not ended within {seconds:g} s, and was given up.")
    return task.result()


def _start(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    if sys.version_info >= (3, 12):
        # Runs up to the first wait at once, which saves the event loop a turn.
        return asyncio.Task(work, loop=asyncio.get_running_loop(), eager_start=True)
    else:  # noqa: RET505 - so that type checkers see which branch is whose
        return asyncio.create_task(work)


async def _end(
    task: asyncio.Task[Any], seconds: float, give_up: Callable[[], object]
) -> asyncio.CancelledError | None:
    """Wait until `task` is done; return the cancellation that arrived meanwhile."""
    cancelled = await _wait(task, seconds)
    if not task.done():
        give_up()
        cancelled = await _wait(task, _GRACE_SECONDS) or cancelled
    if not task.done():
        task.cancel()
        cancelled = await _wait(task, _GRACE_SECONDS) or cancelled
    if task.done() and not task.cancelled():
        task.exception()  # looked at, so that asyncio does not report it where it is not raised
    return cancelled


async def _wait(task: asyncio.Task[Any], seconds: float) -> asyncio.CancelledError | None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    cancelled = None
    # Shielded from anyio's scopes, which cancel again at every further await.
    with CancelScope(shield=True):
        while not task.done() and (left := deadline - loop.time()) > 0:
            try:
                await asyncio.wait({task}, timeout=left)
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled
