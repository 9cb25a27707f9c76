"""Several processes write to one SQLite file, and some of them are killed.

`FASTDB_TEST_KILLS` says how many: a few by default, some hundreds for an hour's soak.
"""

import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter as Count
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

import sqlite_stress_worker
from fastdb import Database
from models import Base

KILLS = int(os.environ.get("FASTDB_TEST_KILLS", "4"))
ACKNOWLEDGED_BEFORE_KILL = 25
PATIENCE_SECONDS = 20


@dataclass
class Process:
    """A process that writes, and its log."""

    worker: "subprocess.Popen[bytes]"
    log: Path

    def acknowledged(self) -> int:
        """How many units of work it has finished so far."""
        return self.log.read_text().count("+ ") if self.log.exists() else 0


@dataclass
class Crowd:
    """Processes that write to one file."""

    url: str
    logs: Path

    def __post_init__(self) -> None:
        self.processes: list[Process] = []
        self._started = 0

    def start(self) -> None:
        """Start one more; every third has SQLAlchemy's own dialect."""
        self._started += 1
        log = self.logs / f"{self._started}.log"
        dialect = "plain" if self._started % 3 == 0 else "accelerated"
        worker = subprocess.Popen(
            [
                sys.executable,
                sqlite_stress_worker.__file__,
                self.url,
                str(self._started),
                str(log),
                dialect,
            ],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.processes.append(Process(worker, log))

    def kill(self) -> None:
        """Kill one as soon as it is well at work, in the middle of whatever it does."""
        victim = random.choice(self.processes)  # noqa: S311
        deadline = time.monotonic() + PATIENCE_SECONDS
        while victim.acknowledged() < ACKNOWLEDGED_BEFORE_KILL:
            assert victim.worker.poll() is None, self._complaint(victim)
            assert time.monotonic() < deadline, "no unit of work has ended for a long time"
            time.sleep(0.01)
        victim.worker.kill()
        victim.worker.communicate()
        self.processes.remove(victim)

    def stop(self) -> None:
        """Let all of them end; none may have met an error."""
        for process in self.processes:
            _, complaint = process.worker.communicate(timeout=PATIENCE_SECONDS)
            assert process.worker.returncode == 0, complaint.decode()

    def _complaint(self, process: Process) -> str:
        return process.worker.communicate()[1].decode()

    def outcomes(self) -> dict[str, str]:
        """What is known of each unit of work: "+", "-", or "?"."""
        known = {}
        for log in self.logs.glob("*.log"):
            for line in log.read_text().splitlines():
                what, key = line.split()
                known[key] = what
        return known


@pytest.fixture
def crowd(sqlite_url: str, tmp_path: Path) -> Iterator[Crowd]:
    """Processes that write to a file with the tables of `models`; all have ended afterwards."""
    db = Database(sqlite_url).sync
    with db:
        db.create_all(Base.metadata)
        with db.session() as session:
            sqlite_stress_worker.set_up(session)
    crowd = Crowd(sqlite_url, tmp_path)
    yield crowd
    for process in crowd.processes:
        if process.worker.poll() is None:
            process.worker.kill()
            process.worker.communicate()


@pytest.mark.timeout(60 + 10 * KILLS)
def test_nothing_acknowledged_is_lost(crowd: Crowd, sqlite_url: str) -> None:
    """Whatever was cancelled or killed: each unit of work is there as a whole, or not at all."""
    for _ in range(3):
        crowd.start()
    for _ in range(KILLS):
        crowd.kill()
        crowd.start()
    crowd.kill()
    crowd.stop()

    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        rows = [name for (name,) in connection.execute("SELECT name FROM hero")]
        [(value,)] = connection.execute("SELECT value FROM counter")
    outcomes = crowd.outcomes()
    counts = Count(outcomes.values())
    assert value == len(rows) == len(set(rows))
    assert counts["+"] <= value <= counts["+"] + counts["?"]
    assert [key for key, what in outcomes.items() if what == "+" and key not in rows] == []
    assert [key for key in rows if outcomes[key] == "-"] == []
    assert min(counts["+"], counts["-"], counts["?"]) > 0
