"""One function in a process of its own, so that nobody else's modules and threads are counted.

    alone("peers.overload_trial:measure", {"candidate": "fastdb", …}, seconds=60)

The function takes and returns what JSON can hold. Run as a module, this is the other end.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

_BENCHMARKS = Path(__file__).parent.parent


def alone(function: str, arguments: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
    """Return what the function returns; or, under "failed", why there is nothing.

    Args:
        function: `module:name`.
        arguments: Of the function.
        seconds: After which the process is killed: a candidate that hangs must not stop the run.
    """
    command = [sys.executable, "-m", "peers.alone", function, json.dumps(arguments)]
    try:
        done = subprocess.run(
            command, cwd=_BENCHMARKS, timeout=seconds, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {seconds:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    function, arguments = sys.argv[1:]
    module, _, name = function.partition(":")
    found = getattr(import_module(module), name)(**json.loads(arguments))
    print(f"\n{json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
