"""What is asked of every candidate, and by how many at once."""

from collections.abc import Iterable
from dataclasses import dataclass

from workloads import INSERT, READ, Workload

from sqlite.candidates import READERS

CORE = Workload("core", "one row by key, Core", "/core/{hero_id}", "/core/1")
ROWS = Workload("list", "100 rows", "/heroes", "/heroes")
INCREMENT = Workload("increment", "read-modify-write", "/increment", "/increment", method="POST")

WORKLOADS = (READ, CORE, ROWS, INSERT, INCREMENT)

# What they answer on a new file: one that answers something else has not won.
ANSWERS = {
    "read": {"id": 1, "name": "Hero 0", "age": 0},
    "core": {"id": 1, "name": "Hero 0", "age": 0},
    "list": [{"id": n + 1, "name": f"Hero {n}", "age": n % 90} for n in range(100)],
    "insert": {"id": 1001, "name": "Deadpond", "age": 30},
    "increment": {"id": 1, "value": 1},
}


_WRITES_LONGER = 2


@dataclass(frozen=True, slots=True)
class Load:
    """A workload, and how many clients ask for it at the same time, each again and again."""

    workload: Workload
    clients: int

    @property
    def name(self) -> str:
        return f"{self.workload.name}@{self.clients}"

    def served_by(self, names: Iterable[str]) -> list[str]:
        """Return those of the candidates that are to be measured."""
        return [name for name in names if self.workload.method == "GET" or name not in READERS]

    def block_seconds(self, seconds: float) -> float:
        """Return how long a block takes: writers that wait badly do so for seconds."""
        return seconds * (1 if self.workload.method == "GET" else _WRITES_LONGER)


# At 50 since applications are compared there, at 64 so that reads and writes are.
LOADS = tuple(
    Load(workload, clients)
    for workload in WORKLOADS
    for clients in ((1, 16, 50, 64) if workload is INSERT else (1, 16, 64))
)
SERVER_LOADS = tuple(Load(workload, clients) for workload in (READ, INSERT) for clients in (16, 64))
