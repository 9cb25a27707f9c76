"""Lines of code, as a failing test names them."""

import linecache
from collections.abc import Iterable
from dataclasses import dataclass

from fastdb.callers import is_library


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a program that runs.

    Attributes:
        path: The file it is in.
        number: Its number there, from 1.
        function: The function it belongs to.
    """

    path: str
    number: int
    function: str

    def __str__(self) -> str:
        source = linecache.getline(self.path, self.number).strip()
        place = f"{self.path}:{self.number} in {self.function}()"
        return f"{place}: {source}" if source else place


def users_line(lines: Iterable[Line]) -> Line | None:
    """Return the first line that is not a library's."""
    return next((line for line in lines if not is_library(line.path)), None)
