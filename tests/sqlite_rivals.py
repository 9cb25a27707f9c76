"""Others who want the write lock of an SQLite file: another process, another event loop."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import IO, Any, Self, TypeVar

T = TypeVar("T")

# One line in, one line out: a statement, and what came of it.
_PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5)
for statement in sys.stdin:
    try:
        print(connection.execute(statement).fetchall(), flush=True)
    except sqlite3.Error as error:
        print(repr(error), flush=True)
connection.close()
"""


# Does as a process does that has found the index of the WAL damaged, after another was killed.
RECOVERY = """
import fcntl, os, sys
WRITE, CHECKPOINT, RECOVER = 120, 121, 122
sys.stdin.readline()
index = os.open(sys.argv[1] + "-shm", os.O_RDWR)
for lock in (WRITE, CHECKPOINT, RECOVER):
    fcntl.lockf(index, fcntl.LOCK_EX, 1, lock)
header = os.pread(index, 96, 0)
os.pwrite(index, bytes(96), 0)
print("recovering", flush=True)
sys.stdin.readline()
os.pwrite(index, header, 0)
fcntl.lockf(index, fcntl.LOCK_UN, 3, WRITE)
print("recovered", flush=True)
sys.stdin.readline()
"""


class OtherProcess:
    """A process that executes on the same file what it is told."""

    def __init__(self, url: str, program: str = _PROGRAM) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, url.removeprefix("sqlite:///")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def execute(self, statement: str) -> str:
        """Execute there, and return the rows or the error as they are printed."""
        return await asyncio.to_thread(self._execute, statement)

    def _execute(self, statement: str) -> str:
        stdin, stdout = self._pipes()
        print(statement, file=stdin, flush=True)
        return stdout.readline().strip()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError
        return self._process.stdin, self._process.stdout

    def end(self) -> None:
        """Let it come to its end, whatever it holds."""
        self._process.communicate(timeout=10)


@contextmanager
def other_process(url: str, program: str = _PROGRAM) -> Iterator[OtherProcess]:
    """Run another process for as long as the block lasts."""
    process = OtherProcess(url, program)
    try:
        yield process
    finally:
        process.end()


class OtherLoop:
    """An event loop that runs in a thread of its own, for as long as the block lasts."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="other loop")

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            self._ended = asyncio.Event()
            runner.run(self._ended.wait())

    async def __aenter__(self) -> Self:
        started = threading.Event()
        self._loop.call_soon(started.set)
        self._thread.start()
        await asyncio.to_thread(started.wait)
        return self

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` there."""
        return await asyncio.wrap_future(self.start(work))

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start `work` there, without waiting for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, function: Callable[[], object]) -> None:
        """Let a plain function be called there."""
        self._loop.call_soon_threadsafe(function)

    async def __aexit__(self, *_: object) -> None:
        self.call(lambda: self._ended.set())
        await asyncio.to_thread(self._thread.join)
