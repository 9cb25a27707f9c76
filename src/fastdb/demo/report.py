"""Tell what happened, in words and tables for people."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from fastdb.demo.checks import Check
from fastdb.demo.plan import Answer, latencies


class Report:
    """The demo's output. In a pipe, a log or a dumb terminal it is plain text.

    Args:
        console: Where it goes. Default: standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        can_draw = not self._console.options.ascii_only
        self._marks = {True: "✓" if can_draw else "yes", False: "✗" if can_draw else "NO"}

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(escape(text), soft_wrap=True)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a bar while the block runs; the function it gets moves it on."""
        self.say(title)
        progress = Progress(
            TextColumn("  "),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal or self._console.is_dumb_terminal,
        )
        with progress:
            task = progress.add_task(title, total=total)
            yield lambda: progress.advance(task)

    def show_latencies(self, answers: Sequence[Answer]) -> None:
        """Print the table of the requests: how many, how they were answered, and how fast."""
        table = Table("Requests", box=SIMPLE_HEAD)
        for heading in ("Sent", "Answered", "Half within", "99 % within"):
            table.add_column(heading, justify="right")
        for one in latencies(answers):
            table.add_row(
                one.kind.title,
                str(one.sent),
                _statuses(one.statuses),
                _milliseconds(one.median),
                _milliseconds(one.p99),
            )
        self._console.print(table)

    def show_checks(self, checks: Sequence[Check]) -> None:
        """Print the table of what must hold."""
        table = Table("What must hold", box=SIMPLE_HEAD)
        table.add_column("Expected", justify="right")
        table.add_column("Found", justify="right")
        table.add_column("", justify="center")
        for check in checks:
            colour = "green" if check.holds else "bold red"
            mark = f"[{colour}]{self._marks[check.holds]}[/]"
            table.add_row(check.statement, check.expected, check.found, mark)
        self._console.print(table)


def _statuses(statuses: Mapping[int | None, int]) -> str:
    if len(statuses) == 1:
        return "".join(str(status or "not") for status in statuses)
    return "\n".join(f"{status or 'not'}: {times}" for status, times in statuses.items())


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
