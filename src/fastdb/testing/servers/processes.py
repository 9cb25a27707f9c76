"""The processes that a server has started, and the one that cleans up after us."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def children(pid: int) -> list[int]:
    """List the processes that a process has started."""
    with contextlib.suppress(FileNotFoundError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    command = ["/bin/ps", "-A", "-o", "pid=,ppid="]
    table = subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - fixed
    pairs = (line.split() for line in table.stdout.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; without /proc, nothing is said to."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the latter if it goes while it is read
        return False
    return state not in {"Z", "X"}  # a zombie holds nothing; some containers reap them late


def wait_until_dead(pids: Sequence[int], seconds: float = 2) -> None:
    """Wait until none of the processes runs any more, or it takes too long."""
    # A restart fails while a process of the last run still holds the shared memory. (Without
    # /proc there is nothing to look at, and the restart is soon tried again by hand.)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(is_alive, pids)):
        time.sleep(0.01)


def start_undertaker(
    pid: int, number: signal.Signals, directory: Path
) -> "subprocess.Popen[bytes]":
    """Start a shell that outlives us and cleans up, should we be killed.

    It waits for a line from us. If the pipe ends without one, we are dead.
    """
    script = 'read -r _ || { kill -s "$1" "$2"; sleep 3; kill -s KILL "$2"; rm -rf "$3"; }'
    return subprocess.Popen(  # noqa: S603 - nothing here comes from outside
        ["/bin/sh", "-c", script, "undertaker", number.name[3:], str(pid), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
