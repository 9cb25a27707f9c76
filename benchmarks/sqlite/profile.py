"""Where the time of one request goes, of a candidate and of the floor beside it.

The stack is looked at a thousand times a second, by a timer. Unlike a profiler that is called at
every call, this makes nothing slower that is called often, and it sees through greenlets.
"""

import argparse
import asyncio
import re
import signal
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import CodeType, FrameType

from greenlet import getcurrent, greenlet
from rich.console import Console

from asgi import Call, caller
from sqlite.candidates import CANDIDATES, FLOOR
from sqlite.models import make_file
from sqlite.report import new_table, write_json
from sqlite.workloads import WORKLOADS

_TICK_SECONDS = 0.001
_BLOCK_SECONDS = 0.5
_WARM_UP_REQUESTS = 300
_FUNCTIONS_SHOWN = 60
_FUNCTIONS_KEPT = 300
_WAITING = "waiting for another thread"

# The first that matches the path of the file, innermost frame first.
_PARTS = (
    ("benchmark itself", r"benchmarks/"),
    ("fastdb: dialect", r"/fastdb/sqlite/"),
    ("fastdb: session, dependency", r"/fastdb/"),
    ("aiosqlite, plain dialect", r"/aiosqlite|sqlalchemy/dialects/"),
    ("SQLAlchemy: pool", r"sqlalchemy/pool/"),
    ("SQLAlchemy: events", r"sqlalchemy/event/"),
    ("SQLAlchemy: asyncio, greenlets", r"sqlalchemy/ext/asyncio/|util/_?concurrency"),
    ("SQLAlchemy: ORM", r"sqlalchemy/orm/"),
    ("SQLAlchemy: engine, result", r"sqlalchemy/engine/"),
    ("SQLAlchemy: SQL, other", r"sqlalchemy/|sqlalchemy generated"),
    ("FastAPI, Starlette, pydantic", r"/fastapi/|/starlette/|/pydantic|/typing"),
    ("asyncio, anyio, contextlib", r"/asyncio/|/anyio/|contextlib|/threading|concurrent"),
)


Place = tuple[CodeType, int]


@dataclass(slots=True)
class Samples:
    """What was seen of one candidate: stacks of functions and lines, innermost first."""

    outermost: CodeType  # what is around it is not looked at
    requests: int = 0
    seconds: float = 0.0  # without the sampling
    stacks: Counter[tuple[Place, ...]] = field(default_factory=Counter)

    @property
    def request_us(self) -> float:
        return self.seconds / max(1, self.requests) * 1e6

    def look(self, _signal: int, frame: FrameType | None) -> None:
        """Take note of what is running: a handler of signals, to be quick."""
        stack = []
        inside: greenlet | None = getcurrent()
        while inside is not None:
            # What waits for a greenlet is not behind its last frame, but in the one that made it.
            while frame is not None and frame.f_code is not self.outermost:
                stack.append((frame.f_code, frame.f_lineno))
                frame = frame.f_back
            inside = inside.parent
            frame = None if inside is None else inside.gr_frame
        stack = stack or [(self.outermost, 0)]
        self.stacks[tuple(stack)] += 1

    def parts(self) -> Counter[str]:
        """Return microseconds of a request by the part whose own code was running."""
        return self._us((_part(stack[0][0]), number) for stack, number in self.stacks.items())

    def functions(self) -> Counter[str]:
        """Return microseconds by function, with what it calls."""
        return self._us(
            (name, number)
            for stack, number in self.stacks.items()
            for name in {_function(code) for code, _ in stack}
        )

    def lines(self) -> Counter[str]:
        """Return microseconds by line, without the Python code that it calls."""
        return self._us(
            (f"{_function(stack[0][0])}, line {stack[0][1]}", number)
            for stack, number in self.stacks.items()
        )

    def _us(self, numbers: Iterable[tuple[str, int]]) -> Counter[str]:
        us_of_one = self.request_us / max(1, self.stacks.total())
        counts: Counter[str] = Counter()
        for name, number in numbers:
            counts[name] += number * us_of_one  # type: ignore[assignment]
        return counts


@dataclass(frozen=True, slots=True)
class Result:
    candidate: str
    workload: str
    request_us: float
    parts_us: dict[str, float]
    functions_us: dict[str, float]
    lines_us: dict[str, float]


def main(arguments: Sequence[str]) -> None:
    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(prog="benchmarks sqlite profile", description=__doc__)
    parser.add_argument("--candidate", choices=CANDIDATES, default="fastdb")
    parser.add_argument("--workload", choices=names, default="read")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    chosen = parser.parse_args(arguments)
    console = Console(width=130)
    candidates = list(dict.fromkeys((chosen.candidate, FLOOR)))
    samples = asyncio.run(_sample(candidates, chosen.workload, chosen.rounds))
    _print_parts(samples, console)
    mine = samples[chosen.candidate]
    _print_most("functions, with what they call", mine.functions(), mine, console)
    _print_most("lines, by themselves", mine.lines(), mine, console)
    results = [
        Result(
            name,
            chosen.workload,
            each.request_us,
            dict(each.parts()),
            dict(each.functions().most_common(_FUNCTIONS_KEPT)),
            dict(each.lines().most_common(_FUNCTIONS_KEPT)),
        )
        for name, each in samples.items()
    ]
    write_json(results, chosen.json)


async def _sample(names: Sequence[str], workload: str, rounds: int) -> dict[str, Samples]:
    samples = {name: Samples(_call_for_a_while.__code__) for name in names}
    (wanted,) = (each for each in WORKLOADS if each.name == workload)
    with tempfile.TemporaryDirectory(prefix="fastdb-benchmark-") as directory:
        apps = {}
        for number, name in enumerate(names):
            path = Path(directory) / f"{number}.db"
            make_file(path)
            apps[name] = CANDIDATES[name](path)
        # They take turns, as a machine is never as quick as it was a second ago.
        for _ in range(rounds):
            for name, app in apps.items():
                async with app.router.lifespan_context(app):
                    await _block(caller(app, wanted), samples[name])
    return samples


async def _block(call: Call, samples: Samples) -> None:
    for _ in range(_WARM_UP_REQUESTS):
        await call()
    # The time is taken without samples, which say only how it is divided.
    requests, seconds = await _call_for_a_while(call)
    samples.requests += requests
    samples.seconds += seconds
    with _looking(samples):
        await _call_for_a_while(call)


async def _call_for_a_while(call: Call) -> tuple[int, float]:
    begun, requests = perf_counter(), 0
    while (seconds := perf_counter() - begun) < _BLOCK_SECONDS:
        await call()
        requests += 1
    return requests, seconds


@contextmanager
def _looking(samples: Samples) -> Iterator[None]:
    former = signal.signal(signal.SIGALRM, samples.look)
    signal.setitimer(signal.ITIMER_REAL, _TICK_SECONDS, _TICK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def _part(code: CodeType) -> str:
    if code.co_filename.endswith("selectors.py"):
        return _WAITING
    for name, pattern in _PARTS:
        if re.search(pattern, code.co_filename):
            return name
    return "other"


def _function(code: CodeType) -> str:
    path = Path(code.co_filename)
    return f"{path.parent.name}/{path.name} {code.co_qualname}"


def _print_parts(samples: Mapping[str, Samples], console: Console) -> None:
    headings = [heading for name in samples for heading in (f"{name} µs", "%")]
    table = new_table("a request, by whose own code runs", "part", *headings, "more µs")
    everybody = [(each.parts(), each.request_us) for each in samples.values()]
    for part in [*(name for name, _ in _PARTS), _WAITING, "other"]:
        cells = []
        for parts, request in everybody:
            cells += [f"{parts[part]:.0f}", f"{parts[part] / request * 100:.0f}"]
        table.add_row(part, *cells, f"{everybody[0][0][part] - everybody[-1][0][part]:+.0f}")
    table.add_section()
    totals = [cell for _, request in everybody for cell in (f"{request:.0f}", "100")]
    table.add_row("all", *totals, f"{everybody[0][1] - everybody[-1][1]:+.0f}")
    console.print(table)


def _print_most(title: str, counts: Counter[str], mine: Samples, console: Console) -> None:
    table = new_table(title, "where", "µs", "%")
    for where, us in counts.most_common(_FUNCTIONS_SHOWN):
        table.add_row(where, f"{us:.1f}", f"{us / mine.request_us * 100:.1f}")
    console.print(table)
