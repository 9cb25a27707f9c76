"""A forgotten `await`: a test fails where a coroutine was made and never awaited.

Python warns of one when it is collected, out of a finalizer, where nothing can be raised. Whether
anybody sees that is up to the filters of that moment: "ignore" hides it, and "error" leaves it to
`sys.unraisablehook`. So what is replaced here is the function by which Python warns.

It does not tell of tasks that failed while nobody awaited them: asyncio logs those without the
task, so that what an earlier test left behind would be held against this one.
"""

import gc
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import CoroutineType
from typing import Any

from fastdb.testing.lines import Line, users_line

# Frames that are remembered of each coroutine's making: the user's line stands behind those of
# libraries that pass on what they have made, as a scoped session does.
_DEPTH = 10


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A coroutine that was never awaited, so that nothing of it has run.

    Attributes:
        name: The function's.
        line: The user's line that made it; None where that is not known, as in other threads.
        defined: Where the function is.
    """

    name: str
    line: Line | None
    defined: Line

    def __str__(self) -> str:
        return f"{self.name}() at {self.line}" if self.line else f"{self.name}() of {self.defined}"


class NeverAwaited(AssertionError):
    """Coroutines were made and never awaited.

    Attributes:
        coroutines: Each of them.
    """

    def __init__(self, coroutines: Sequence[Forgotten]) -> None:
        self.coroutines = tuple(coroutines)
        super().__init__(self.coroutines)

    def __str__(self) -> str:
        is_one = len(self.coroutines) == 1
        what, them = ("A coroutine was", "it") if is_one else ("Coroutines were", "them")
        lines = "\n  ".join(map(str, self.coroutines))
        return (
            f"{what} never awaited, so that nothing of {them} was done:\n  {lines}\nWrite `await`."
        )


@contextmanager
def all_awaited(*, collect: bool = True) -> Iterator[None]:
    """Fail if a coroutine that is made within the block is never awaited.

    What is in use even at its end does not count, nor what was made before.

    Args:
        collect: Collect garbage at the end, and look at the beginning for what is older: some tens
            of milliseconds. Without it, what is kept in a cycle is held against the block in which
            it happens to be collected. Default True.

    Raises:
        NeverAwaited: At the end of the block, if that ended well. Else the error is what came out
            of the block, with a note that tells of the coroutines.
    """
    forgotten: list[Forgotten] = []
    try:
        with _noting(forgotten.append, collect=collect):
            yield
    except Exception as error:
        if forgotten:
            error.add_note(str(NeverAwaited(forgotten)))
        raise
    if forgotten:
        raise NeverAwaited(forgotten)


@contextmanager
def _noting(note: Callable[[Forgotten], None], *, collect: bool) -> Iterator[None]:
    """Call `note` for what is made from now on, and collected by the end, without being awaited."""
    # Held by the error of a test that failed, they may be collected in any later one. A number
    # that is given again to a new object costs an alarm and never makes a false one.
    objects = gc.get_objects() if collect else []
    older = {id(each) for each in objects if type(each) is CoroutineType}
    del objects
    # There is no public name for it. It is looked up at each call.
    warn = warnings._warn_unawaited_coroutine  # type: ignore[attr-defined] # noqa: SLF001

    def see(coroutine: "CoroutineType[Any, Any, Any]") -> None:
        if id(coroutine) in older:
            warn(coroutine)
        else:
            note(_describe(coroutine))

    depth = sys.get_coroutine_origin_tracking_depth()
    sys.set_coroutine_origin_tracking_depth(max(depth, _DEPTH))
    warnings._warn_unawaited_coroutine = see  # type: ignore[attr-defined] # noqa: SLF001
    try:
        yield
    finally:
        try:
            if collect:
                gc.collect()
        finally:
            warnings._warn_unawaited_coroutine = warn  # type: ignore[attr-defined] # noqa: SLF001
            sys.set_coroutine_origin_tracking_depth(depth)


def _describe(coroutine: "CoroutineType[Any, Any, Any]") -> Forgotten:
    # Only its origin is kept: the coroutine is being collected.
    lines = [Line(*each) for each in coroutine.cr_origin or ()]
    code = coroutine.cr_code
    defined = Line(code.co_filename, code.co_firstlineno, code.co_name)
    return Forgotten(coroutine.__qualname__, users_line(lines) or next(iter(lines), None), defined)
