"""Which line of the user's caused a statement that reaches a driver.

Between the two are SQLAlchemy, fastdb, perhaps pydantic or a template, and a greenlet: what waits
in the greenlet around it goes on in the next.
"""

import inspect
import linecache
import os
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import sqlalchemy
from greenlet import getcurrent

from fastdb.callers import caller, served_request

# The standard library, what is installed, also beside SQLAlchemy, and this package.
_LIBRARIES = tuple(
    f"{path}{os.sep}"
    for path in (
        *map(sysconfig.get_paths().get, ("stdlib", "platstdlib", "purelib", "platlib")),
        Path(sqlalchemy.__file__).parents[1],
        Path(__file__).parents[1],
    )
)

# Who executes here does it of its own accord, or of the test's: settings with BEGIN, and faults.
_OURS = ("fastdb.server.", "fastdb.testing.faults")

# Outside of these, a request's line is not the user's any more, but the test's that has made it.
_ROUTING = ("fastapi.routing", "starlette.routing")


def _started_in() -> str:
    """Return the directory that the paths of messages begin in."""
    with suppress(OSError):  # it may be gone
        return str(Path.cwd()) + os.sep
    return ""


_STARTED_IN = _started_in()


@dataclass(frozen=True, slots=True)
class Origin:
    """A line of the user's own code.

    Attributes:
        path: Of its file, from the directory that the tests were started in.
        number: Of the line; 0 where there is no such line.
        function: It is in this one; or who has executed, where there is no such line.
        in_batches: SQLAlchemy's `selectinload` asks for many rows at once, as often as need be.
    """

    path: str
    number: int
    function: str
    in_batches: bool = False
    _file: str = field(default="", repr=False)

    @property
    def line(self) -> str:
        """As an editor opens it: `app/heroes.py:12`."""
        return f"{self.path}:{self.number}" if self.number else ""

    @property
    def code(self) -> str:
        """The line itself, where it can be read."""
        # Some tests forbid to read files on the thread of an event loop.
        with suppress(Exception):
            return linecache.getline(self._file, self.number).strip()
        return ""

    def __str__(self) -> str:
        if not self.number:
            return f"{self.function}, in no line of yours"
        code = self.code
        return f"{self.line} in {self.function}()" + (f": {code}" if code else "")


def find_origin() -> Origin | None:
    """Return whose statement SQLAlchemy is about to execute; None if it is fastdb's own."""
    endpoint = _endpoint()
    package = str(getattr(endpoint, "__module__", "")).partition(".")[0]
    in_batches = is_outside = False
    for frame in _frames_above_sqlalchemy():
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("sqlalchemy."):
            in_batches = in_batches or "SelectInLoader" in frame.f_code.co_qualname
            continue
        if not is_outside and module.startswith(_OURS):
            return None
        is_outside = True
        if module in _ROUTING:
            break
        # The application may be installed, as it is where tox or nox run its tests.
        if _is_users(frame.f_code) or module.partition(".")[0] == package:
            return _origin(frame.f_code, _line_number(frame), in_batches)
    code = getattr(endpoint, "__code__", None)
    if isinstance(code, CodeType):
        return _origin(code, code.co_firstlineno, in_batches)
    return Origin("", 0, str(caller()), in_batches)


def _endpoint() -> Any:
    endpoint = (served_request() or {}).get("endpoint")
    return inspect.unwrap(endpoint) if callable(endpoint) else None


def _frames_above_sqlalchemy() -> Iterator[FrameType]:
    frames = _frames()
    for frame in frames:
        if str(frame.f_globals.get("__name__")).startswith("sqlalchemy."):
            break
    yield from frames


def _frames() -> Iterator[FrameType]:
    """Yield what is being executed, from the innermost, and what waits for that."""
    frame = inspect.currentframe()
    here: Any = getcurrent()
    while True:
        while frame is not None:
            yield frame
            frame = frame.f_back
        here = here.parent
        if here is None:
            return
        frame = here.gr_frame


def _is_users(code: CodeType) -> bool:
    return not code.co_filename.startswith(("<", *_LIBRARIES))


def _line_number(frame: FrameType) -> int:
    # Jinja runs a template as code with the template's file name, and lines of its own.
    template = frame.f_globals.get("__jinja_template__")
    if template is not None:
        return int(template.get_corresponding_lineno(frame.f_lineno))
    return frame.f_lineno


def _origin(code: CodeType, number: int, in_batches: bool) -> Origin:
    file = code.co_filename
    path = file.removeprefix(_STARTED_IN)
    # A comprehension is told by the function that it is in.
    names = [name for name in code.co_qualname.split(".") if not name.startswith("<")]
    return Origin(path, number, names[-1] if names else code.co_name, in_batches, file)
