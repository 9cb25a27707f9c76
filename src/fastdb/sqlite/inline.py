"""Which reads are so cheap that they may run on the event loop's own thread.

Going to a connection's thread and back costs more than SQLite needs for a row by its key. A
statement earns its place on the loop: its program must consist of steps of bounded cost only, and
it must have taken little time on the connection's thread, several times. It loses its place when
it has to be interrupted, or returns much. Steps alone are no bound (counting a million rows is one
step), and a page that comes from a cold disk may take a millisecond, so that measured time
decides: what was slow may take a twentieth of the time, and beyond that everything goes back to
the threads for a while.
"""

import sqlite3
import sys
from time import perf_counter

from fastdb.sqlite.intent import may_be_read

RUNS_TO_EARN = 5
EARNED_BELOW_SECONDS = 0.00005
LOST_ABOVE_SECONDS = 0.0001
STEPS_BETWEEN_LOOKS = 200
"""How many steps SQLite's virtual machine makes until it looks at the clock."""

# SQLite steps to each row without the interpreter's lock, and other threads may keep it for 5 ms
# when they get it; a large value is read and copied in one step. Neither can be interrupted.
MOST_ROWS = 10
MOST_BYTES = 100_000

# So many seconds of slow runs are forgiven at once, and beyond that a twentieth of the time. Some
# are not SQLite's doing: Python has let another thread run meanwhile.
_SLOW_SECONDS = 0.005
_PAUSE_FACTOR = 20

_REMEMBERED = 1000
_REFUSED = -1
_ALLOWED = RUNS_TO_EARN + 1

# https://www.sqlite.org/opcode.html: what is not named here may take as long as it likes in one
# step (Count, the sorter's, every function, virtual tables), or writes.
_BOUNDED_OPCODES = """
Add Affinity And BeginSubrtn BitAnd BitNot BitOr Cast Close CollSeq Column ColumnsUsed
Compare Concat Copy DecrJumpZero DeferredSeek Divide ElseEq EndCoroutine Eq Explain Found
Ge Gosub Goto Gt Halt HaltIfNull IdxGE IdxGT IdxInsert IdxLE IdxLT IdxRowid If IfNot
IfNotZero IfNullRow IfPos Init InitCoroutine Int64 IntCopy Integer Is IsNull IsTrue IsType
Jump Last Le Lt MakeRecord Move Multiply MustBeInt Ne Next NoConflict Noop Not NotExists
NotFound NotNull Null NullRow Offset OffsetLimit Once OpenEphemeral OpenRead Or
Permutation Prev Real RealAffinity ReleaseReg Remainder ReopenIdx ResultRow Return Rewind
Rowid SCopy SeekGE SeekGT SeekHit SeekLE SeekLT SeekRowid SeekScan Sequence SequenceTest
ShiftLeft ShiftRight SoftNull String String8 Subtract Transaction Variable Yield
ZeroOrNull
"""
_BOUNDED = frozenset(_BOUNDED_OPCODES.split())


class InlineReads:
    """What the statements of one engine have earned."""

    def __init__(self) -> None:
        self._runs: dict[str, int] = {}
        self._slow_until = 0.0
        self._begun = 0.0
        self._preemptions: int | None = None

    def allows(self, statement: str) -> bool:
        """Return whether the statement may run on the loop's thread now."""
        if self._runs.get(statement) != _ALLOWED:
            return False
        # Nearly always nothing was slow, and the clock need not be asked.
        return not self._slow_until or self._is_forgiven()

    def _is_forgiven(self) -> bool:
        now = perf_counter()
        if now > self._slow_until:
            self._slow_until = 0.0
        return now > self._slow_until - _SLOW_SECONDS * _PAUSE_FACTOR

    def is_candidate(self, statement: str) -> bool:
        """Return whether it is worth while to time the statement."""
        runs = self._runs.get(statement)
        if runs is None:
            if len(self._runs) >= _REMEMBERED:
                self._runs.clear()  # rather begin again than grow with statements that hold values
            runs = self._runs[statement] = 0 if may_be_read(statement) else _REFUSED
        return 0 <= runs <= RUNS_TO_EARN

    def has_earned_a_look(self, statement: str, *, seconds: float, rows: int) -> bool:
        """Take note of a run on the connection's thread; return whether `is_bounded` is to decide.

        Args:
            statement: Its text.
            seconds: Of processor time, rows fetched: waiting for the interpreter does not count.
            rows: How many it has returned.
        """
        runs = self._runs.get(statement, 0)
        if seconds > EARNED_BELOW_SECONDS or rows > MOST_ROWS:
            self._runs[statement] = 0
        elif 0 <= runs < RUNS_TO_EARN:
            self._runs[statement] = runs + 1
        return self._runs.get(statement) == RUNS_TO_EARN

    def was_looked_at(self, statement: str, bounded: bool) -> None:
        """Take note of what `is_bounded` says of the statement."""
        self._runs[statement] = _ALLOWED if bounded else _REFUSED

    def has_lost(self, statement: str) -> None:
        """Let the statement earn its place anew: it took too long, or returned too much."""
        self._runs[statement] = 0

    def begin_run(self) -> None:
        """Note that a run on the loop's thread begins now."""
        # Asking costs a microsecond: only while something was slow lately.
        self._preemptions = _preemptions() if self._slow_until else None
        self._begun = perf_counter()

    def end_run(self) -> None:
        """Take note of how long the run on the loop's thread has taken."""
        now = perf_counter()
        seconds = now - self._begun
        if seconds > LOST_ABOVE_SECONDS and not self._was_preempted():
            self._slow_until = max(self._slow_until, now) + seconds * _PAUSE_FACTOR

    def _was_preempted(self) -> bool:
        """Return whether the system has let somebody else run meanwhile: that is not the read's."""
        return self._preemptions is not None and _preemptions() != self._preemptions

    def is_over_time(self) -> bool:
        """Tell SQLite whether to interrupt what runs: its progress handler."""
        # Not simply at the first call: SQLite counts the steps of a statement over all its runs,
        # so that one call in a while means nothing.
        return perf_counter() > self._begun + LOST_ABOVE_SECONDS


if sys.platform == "linux":
    from resource import RUSAGE_THREAD, getrusage

    def _preemptions() -> int:
        """Return how often the system has taken the processor from this thread."""
        return getrusage(RUSAGE_THREAD).ru_nivcsw

else:

    def _preemptions() -> int:
        """Return nothing that counts: only Linux tells it of a thread."""
        return 0


def is_bounded(connection: sqlite3.Connection, statement: str, parameters: object) -> bool:
    """Return whether each step of the statement's program has a bounded cost, and none writes."""
    cursor = sqlite3.Cursor(connection)
    try:
        program = cursor.execute(f"EXPLAIN {statement}", parameters)  # type: ignore[arg-type]
        return all(step[1] in _BOUNDED for step in program)
    except sqlite3.Error:
        return False
    finally:
        cursor.close()
