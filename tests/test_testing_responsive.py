"""`responsive_loop`: a line that holds the event loop fails the test; nothing else does."""

import asyncio
import itertools
import json
import os
import pdb  # noqa: T100 - its prompt is what is tested
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from sqlalchemy.util import greenlet_spawn

from fastdb.testing import responsive
from fastdb.testing.lines import Line
from fastdb.testing.responsive import EventLoopHeld, Hold, responsive_loop
from pytest_runs import MODES, environment, run_pytest

LIMIT = 0.05


@pytest.fixture(autouse=True)
def may_block(no_blocking_calls: BlockBuster) -> None:
    """Here the loop is held on purpose, which the other detector would not let happen."""
    no_blocking_calls.deactivate()


def hold() -> None:
    time.sleep(0.3)


def line_of(function: Callable[..., object], offset: int = 1) -> tuple[str, int, str]:
    code = function.__code__
    return code.co_filename, code.co_firstlineno + offset, code.co_name


def place(line: Line | None) -> tuple[str, int, str] | None:
    return None if line is None else (line.path, line.number, line.function)


async def test_a_call_that_waits_is_named() -> None:
    """The error tells how long the loop was held, by which line, and what to do."""
    with pytest.raises(EventLoopHeld) as raised:
        async with responsive_loop(LIMIT):
            hold()
    (held,) = raised.value.holds
    assert place(held.line) == line_of(hold)
    assert held.inside is None
    assert raised.value.limit == LIMIT
    path, number, _ = line_of(hold)
    assert re.sub(r"\d+ ms: ", "300 ms: ", str(raised.value)) == (
        "The event loop was held for longer than 50 ms. No other task could run meanwhile:\n"
        f"  300 ms: {path}:{number} in hold(): time.sleep(0.3)\n"
        "Await an asynchronous driver there, or call what blocks in a thread: `await"
        " asyncio.to_thread(…)`."
    )


async def test_computing_is_named() -> None:
    """What holds the loop need not wait for anything."""

    def compute() -> None:
        started = time.thread_time()
        while time.thread_time() - started < 0.2: sum(range(100))  # noqa: E701 # fmt: skip

    with pytest.raises(EventLoopHeld) as raised:
        async with responsive_loop(LIMIT):
            compute()
    assert place(raised.value.holds[0].line) == line_of(compute, 2)


async def test_a_call_that_keeps_the_interpreter_is_named() -> None:
    """A heavy serialisation lets no other thread look: it is known by what it has computed."""
    rows, used = [{"id": 1}], 0.0
    while used < 0.2:
        rows, started = rows * 2, time.thread_time()
        json.dumps(rows)
        used = time.thread_time() - started

    def serialise() -> None:
        json.dumps(rows)

    with pytest.raises(EventLoopHeld) as raised:
        async with responsive_loop(LIMIT):
            serialise()
    held = raised.value.holds[0]
    assert place(held.line) == line_of(serialise)
    assert held.inside is not None
    assert "json" in held.inside.path


async def test_a_callback_is_named() -> None:
    """Not everything on a loop is a task."""
    with pytest.raises(EventLoopHeld) as raised:
        async with responsive_loop(LIMIT):
            asyncio.get_running_loop().call_soon(hold)
            await asyncio.sleep(0)
    assert place(raised.value.holds[0].line) == line_of(hold)


async def test_synchronous_code_of_sqlalchemy_is_named() -> None:
    """What runs in a greenlet is named by its own line, or else by the line that awaits it."""

    async def call() -> None:
        await greenlet_spawn(hold)
        await asyncio.sleep(0.05)
        await greenlet_spawn(time.sleep, 0.3)

    with pytest.raises(EventLoopHeld) as raised:
        async with responsive_loop(LIMIT):
            await call()
    lines = {place(held.line) for held in raised.value.holds}
    assert lines == {line_of(hold), line_of(call, 3)}


async def test_several_holds_are_told_worst_first() -> None:
    """Each of them counts; the five longest are shown."""
    with pytest.raises(EventLoopHeld) as raised:
        async with responsive_loop(0.02):
            for duration in (0.1, 0.1, 0.1, 0.4, 0.1, 0.1, 0.1):
                time.sleep(duration)
                await asyncio.sleep(0.05)
    seconds = [held.seconds for held in raised.value.holds]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > 0.2 > seconds[1]
    text = str(raised.value)
    assert f"longer than 20 ms, {len(seconds)} times." in text
    assert text.count(" ms: ") == 5
    assert f"\n  … and {len(seconds) - 5} more\n" in text


async def test_an_idle_loop_is_not_blamed() -> None:
    """Waiting for others is what it is for."""
    async with responsive_loop(LIMIT):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(time.sleep, 0.3)


async def test_a_loop_that_waits_runs_nothing() -> None:
    """There are frames below it then, too: they are the loop's own."""
    loop, thread = asyncio.get_running_loop(), threading.current_thread()
    stack = responsive._Stack(sys._getframe())

    def look() -> object:
        for _ in range(100):
            step, lines = stack.look(loop, thread)
            if step is None:
                return lines
            time.sleep(0.05)
        return None

    assert await asyncio.to_thread(look) == ()


async def test_threads_are_not_the_loop() -> None:
    """What a thread computes may keep the interpreter from the loop; no line of the loop does."""
    async with responsive_loop(LIMIT):
        numbers = itertools.repeat(1, 20_000_000)
        computing = asyncio.create_task(asyncio.to_thread(sum, numbers))
        while not computing.done():
            time.sleep(0)  # lets go of the interpreter, and has to wait for it
            await asyncio.sleep(0)


async def test_many_steps_are_not_one() -> None:
    """A crowd of tasks takes long, and none of them holds the loop."""

    async def step() -> None:
        started = time.thread_time()
        while time.thread_time() - started < 0.004:
            pass

    async with responsive_loop(LIMIT):
        await asyncio.gather(*(step() for _ in range(100)))


def test_a_loop_that_nobody_runs_is_not_blamed() -> None:
    """As between two tests that share one."""
    with asyncio.Runner() as runner:
        block = responsive_loop(LIMIT)
        runner.run(block.__aenter__())
        hold()
        runner.run(block.__aexit__(None, None, None))


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGSTOP")
def test_a_process_that_is_stopped_is_not_blamed(tmp_path: Path) -> None:
    """A debugger, or a machine that sleeps, stops all of its threads."""
    program = tmp_path / "stopped.py"
    program.write_text("""
import asyncio, os, signal, time
from fastdb.testing.responsive import responsive_loop

def compute():
    started = time.thread_time()
    while time.thread_time() - started < 0.07:
        pass

async def main():
    async with responsive_loop(0.2):
        compute()
        os.kill(os.getpid(), signal.SIGSTOP)
        compute()

asyncio.run(main())
""")
    process = subprocess.Popen([sys.executable, str(program)], env=environment())
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(30) == 0


def test_waiting_for_a_processor_is_not_holding() -> None:
    """Even if that is only known after the step: of a busy machine, nobody is guilty."""
    watchdog = responsive._Watchdog(LIMIT)
    lines = [Line(__file__, 1, "step")]

    def look(at: float, waited: float, step: object = "step") -> responsive._Look:
        account = responsive._Account(used=0.0, waited=waited)
        quick = responsive._Account(0.0, 0.0)
        return responsive._Look(at, 1 if step else 0, step, lines, account, quick)

    for waited, expected in ((0.0, 1), (0.09, 0)):
        looks = [*(look(n * 0.01, 0.0) for n in range(11)), look(0.11, waited, step=None)]
        for before, now in itertools.pairwise(looks):
            watchdog._judge(before, now)
        assert len(watchdog.holds) == expected
        watchdog.holds.clear()


async def test_a_debugger_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody reads at its prompt."""

    class Debugger(pdb.Pdb):
        def interaction(self, *_: object) -> None:
            time.sleep(0.3)

    debugger = Debugger(nosigint=True)
    trace = sys.gettrace()
    async with responsive_loop(LIMIT):
        debugger.set_trace()
        debugger.set_continue()
        sys.settrace(trace)


async def test_an_error_keeps_its_type() -> None:
    """What the block raises is what one has to read; it notes that the loop was held."""
    with pytest.raises(ValueError, match="its own") as raised:
        async with responsive_loop(LIMIT):
            hold()
            raise ValueError("its own")
    (note,) = raised.value.__notes__
    assert note.startswith("The event loop was held for longer than 50 ms.")


async def test_a_cancelled_block_ends() -> None:
    """The thread that watches stops with it, and nothing is awaited."""

    async def wait() -> None:
        async with responsive_loop(LIMIT):
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_error_can_be_pickled() -> None:
    """Test runners send errors to other processes."""
    error = EventLoopHeld(LIMIT, [Hold(0.1, Line("a.py", 1, "f"), Line("b.py", 2, "g"))])
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert str(copy) == str(error)
    assert "100 ms: a.py:1 in f()\n    inside b.py:2 in g()" in str(copy)


@pytest.mark.skipif(not find_spec("uvloop"), reason="uvloop is not installed")
@pytest.mark.parametrize("what", ["hold", "callback", "idle", "nobody"])
def test_uvloop(what: str, tmp_path: Path) -> None:
    """A loop without frames of its own is watched as well."""
    program = tmp_path / "on_uvloop.py"
    program.write_text("""
import asyncio, sys, time, uvloop
from fastdb.testing.responsive import responsive_loop

async def main(what):
    async with responsive_loop(0.05):
        if what == "hold":
            time.sleep(0.3)
        if what == "callback":
            asyncio.get_running_loop().call_later(0.01, lambda: time.sleep(0.3))
        await asyncio.sleep(0.4)

def nobody():
    loop, block = uvloop.new_event_loop(), responsive_loop(0.05)
    loop.run_until_complete(block.__aenter__())
    (lambda: time.sleep(0.3))()
    loop.run_until_complete(block.__aexit__(None, None, None))
    loop.close()

nobody() if sys.argv[1] == "nobody" else uvloop.run(main(sys.argv[1]))
""")
    command = [sys.executable, str(program), what]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    is_held = what in {"hold", "callback"}
    assert ("EventLoopHeld" in run.stderr, run.returncode) == (is_held, int(is_held)), run.stderr
    assert ("time.sleep(0.3)" in run.stderr) == is_held


TESTS = """
import asyncio, time
from fastdb.testing.responsive import responsive_loop

@fixture
async def responsive():
    async with responsive_loop(0.05):
        yield

async def test_held(responsive):
    time.sleep(0.3)

async def test_fine(responsive):
    await asyncio.sleep(0.2)
"""


@pytest.mark.timeout(180)  # a whole run of pytest
@pytest.mark.parametrize("mode", MODES)
def test_as_a_fixture(mode: str, tmp_path: Path) -> None:
    """A fixture fails the test, whichever plugin runs it."""
    output = run_pytest(tmp_path, mode, TESTS, "-W", "error")
    assert "2 passed, 1 error" in output, output
    assert re.search(r"\d+ ms: .*test_app.py:\d+ in test_held\(\): time.sleep", output), output
