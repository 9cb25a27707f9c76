"""What is asked of every candidate: one request each.

To add one, list it below and give the candidates its route.
"""

from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.routing import APIRoute


@dataclass(frozen=True, slots=True)
class Workload:
    """One request, sent over and over.

    Attributes:
        name: As on the command line and in the report.
        title: What it is, in a few words.
        route: The path as the app declares it.
        path: The path as it is requested.
        status: What a candidate must answer: one that fails quickly has not won.
    """

    name: str
    title: str
    route: str
    path: str
    method: str = "GET"
    body: bytes = b""
    status: int = 200

    def is_served_by(self, app: FastAPI) -> bool:
        return any(
            isinstance(route, APIRoute)
            and route.path == self.route
            and self.method in (route.methods or ())
            for route in app.routes
        )


NOTHING = Workload("nothing", "session not used", "/nothing", "/nothing")
READ = Workload("read", "one row by key", "/heroes/{hero_id}", "/heroes/1")
INSERT = Workload(
    "insert",
    "one row inserted",
    "/heroes",
    "/heroes",
    method="POST",
    body=b'{"name": "Deadpond", "age": 30}',
    status=201,
)

WORKLOADS = (NOTHING, READ, INSERT)
