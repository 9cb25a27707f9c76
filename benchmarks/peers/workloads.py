"""What is asked of every candidate, by how many clients at once, and the right answers."""

from dataclasses import dataclass
from random import Random

from fastapi import FastAPI
from workloads import INSERT, NOTHING, READ, Workload

from asgi import Call, caller
from peers.databases import TEAMS

CORE = Workload("core", "one row by key, Core", "/core/{hero_id}", "/core/1")
LIST = Workload("list", "100 rows with a relationship", "/heroes", "/heroes")
INCREMENT = Workload("increment", "read-modify-write", "/increment", "/increment", method="POST")
LOCKED = Workload(
    "locked", "read-modify-write FOR UPDATE", "/increment-locked", "/increment-locked", "POST"
)
MIXED = Workload("mixed", "90 % reads, 10 % inserts", "/heroes/{hero_id}", "/heroes/1")

WORKLOADS = {
    each.name: each for each in (READ, CORE, LIST, INSERT, INCREMENT, LOCKED, MIXED, NOTHING)
}
COUNTING = frozenset({"increment", "locked"})  # what they have done can be counted afterwards

# What is answered on new tables: one that answers something else has not won.
_FIRST = {"id": 1, "name": "Hero 0", "age": 0}
ANSWERS = {
    "read": _FIRST,
    "core": _FIRST,
    "list": [
        {
            "id": n + 1,
            "name": f"Hero {n}",
            "age": n % 90,
            "team": {"id": n % TEAMS + 1, "name": f"Team {n % TEAMS}"},
        }
        for n in range(100)
    ],
    "insert": {"id": 1001, "name": "Deadpond", "age": 30},
    "increment": {"id": 1, "value": 1},
    "locked": {"id": 1, "value": 2},
    "nothing": None,
}

_INSERTS = 0.1


@dataclass(frozen=True)
class Load:
    """A workload, and how many clients ask for it at the same time, each again and again."""

    workload: str
    clients: int

    def __str__(self) -> str:
        return f"{self.workload}@{self.clients}"


def call_of(app: FastAPI, name: str) -> Call:
    """Return what sends a request of the workload once."""
    if name != MIXED.name:
        return caller(app, WORKLOADS[name])
    read, insert, chance = caller(app, READ), caller(app, INSERT), Random(0)

    async def mixed() -> None:
        await (insert if chance.random() < _INSERTS else read)()

    return mixed
