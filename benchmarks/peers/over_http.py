"""Each candidate behind uvicorn, and the load from wrk: the sockets and HTTP are in it too."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

from peers.measuring import measure
from peers.parts import Chart, Options
from peers.rounds import Turn
from peers.speed import chart_of
from peers.tables import TITLES, database_tables
from peers.variants import Variant
from peers.worker import Trial
from peers.workers import Worker
from peers.workloads import WORKLOADS, Load

NAME = "http"
TITLE = "Over HTTP, behind uvicorn"

_LOADS = tuple(Load(workload, clients) for workload in ("read", "insert") for clients in (16, 64))
_TIMEOUT_SECONDS = 10
_MOST_ROUNDS = 3

# wrk measures whole seconds, and in microseconds. What is no 2xx has failed.
_SCRIPT = """
wrk.method = "{method}"
wrk.body = '{body}'
wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency, requests)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '\\nRESULT {{"requests": %d, "us": %d, "status": %d, "broken": %d, ',
    summary.requests, summary.duration, errors.status, broken))
  io.write(string.format(
    '"p50": %d, "p99": %d, "max": %d}}\\n',
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def run(options: Options) -> dict[str, Any]:
    if shutil.which("wrk") is None:
        return {"databases": {}, "failed": "wrk was not found (Debian and Ubuntu: apt install wrk)"}
    with tempfile.TemporaryDirectory(prefix="fastdb-benchmark-") as directory:
        scripts = {load.workload: _write_script(Path(directory), load.workload) for load in _LOADS}
        return {
            "databases": {
                name: measure(
                    replace(options, rounds=min(options.rounds, _MOST_ROUNDS)),
                    name,
                    _LOADS,
                    prepare=lambda worker: _prepare(worker, scripts),
                    choose=_is_shown,
                )
                for name in options.databases.names
            }
        }


def _is_shown(variant: Variant) -> bool:
    """Return whether to measure it: wrk needs a whole second for each, so that not all can be."""
    if variant.kind == "limit":
        return variant.candidate == "no database"
    return variant.tuned or variant.candidate in {"fastdb", "by hand"}


def _write_script(directory: Path, name: str) -> Path:
    workload = WORKLOADS[name]
    path = directory / f"{name}.lua"
    path.write_text(_SCRIPT.format(method=workload.method, body=workload.body.decode()))
    return path


def _prepare(worker: Worker, scripts: Mapping[str, Path]) -> Turn:
    port = worker.serve()

    def take(_worker: Worker, load: Load, seconds: float) -> Trial:
        url = f"http://127.0.0.1:{port}{WORKLOADS[load.workload].path}"
        command = [
            "wrk", "--threads", "1", "--connections", str(load.clients),
            "--duration", f"{ceil(seconds)}s", "--timeout", f"{_TIMEOUT_SECONDS}s",
            "--script", str(scripts[load.workload]), url,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return _trial(done.stdout)

    return take


def _trial(output: str) -> Trial:
    (line,) = (line for line in output.splitlines() if line.startswith("RESULT "))
    said = json.loads(line.removeprefix("RESULT "))
    answered = said["requests"] - said["status"]
    errors = {"status": said["status"], "connection or timeout": said["broken"]}
    return Trial(
        per_second=answered / (said["us"] / 1e6),
        answered=answered,
        failures=said["status"] + said["broken"],
        errors={name: count for name, count in errors.items() if count},
        cpu_us=None,
        p50_ms=said["p50"] / 1000,
        p99_ms=said["p99"] / 1000,
        longest_ms=said["max"] / 1000,
    )


def render(found: Mapping[str, Any]) -> str:
    if failed := found.get("failed"):
        return f"Not measured: {failed}.\n"
    head = (
        "One process of uvicorn for each candidate, one thread of wrk; one of them at a time.\n\n"
    )
    return head + "\n".join(
        database_tables(database, measured, level=2)
        for database, measured in found["databases"].items()
    )


def charts(found: Mapping[str, Any]) -> list[Chart]:
    return [
        chart_of(
            f"{NAME}-{name}",
            f"{TITLES[name]}: requests per second over HTTP",
            measured,
            tuple(map(str, _LOADS)),
        )
        for name, measured in found["databases"].items()
    ]
