"""`python benchmarks peers`: run the parts, write a JSON file for each, and the pages."""

import argparse
import json
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from peers.candidates import CANDIDATES
from peers.databases import NAMES, open_databases
from peers.machine import describe_run
from peers.page import write_pages
from peers.parts import Options, Part

# In the order of the pages. Each is a module of this package.
_MODULES = (
    "claims", "speed", "over_http", "delayed", "contended", "overload", "dependency", "growth",
    "startup", "guards",
)  # fmt: skip
OUT = Path(__file__).parent.parent.parent / "docs" / "benchmarks"


def parts() -> list[Part]:
    return [cast(Part, import_module(f"peers.{n}")) for n in _MODULES if find_spec(f"peers.{n}")]


def run(arguments: Sequence[str]) -> None:
    everything = parts()
    chosen = _parser([part.NAME for part in everything]).parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    wanted = [part for part in everything if part.NAME in chosen.part and not chosen.page]
    told = _without_out(arguments)
    failed = [part.NAME for part in wanted if not _run_part(part, chosen, told)]
    write_pages(chosen.out, everything)
    print(f"written to {chosen.out}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _run_part(part: Part, chosen: Any, told: Sequence[str]) -> bool:
    """Run a part; return whether that went well, since the others are to be run in any case."""
    print(f"{part.TITLE} …", flush=True)
    begun = time.monotonic()
    try:
        with open_databases(chosen.database) as databases:
            options = Options(chosen.rounds, chosen.seconds, databases, tuple(chosen.candidate))
            described = describe_run(databases, told, options)
            found = {"run": described, **part.run(options)}
    except Exception:  # noqa: BLE001 - told, and counted
        traceback.print_exc()
        return False
    path = chosen.out / f"{part.NAME}.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"    {time.monotonic() - begun:.0f} s", flush=True)
    return True


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks peers", description=__doc__)
    parser.add_argument("--part", nargs="+", choices=names, default=names)
    parser.add_argument("--database", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--candidate", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="of one turn, default 0.1")
    parser.add_argument("--out", type=Path, default=OUT, help="where results and pages go")
    parser.add_argument("--page", action="store_true", help="only write the pages anew")
    return parser


def _without_out(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as the report tells them: where it was written is nobody's business."""
    told = list(arguments)
    if "--out" in told:
        at = told.index("--out")
        del told[at : at + 2]
    return [f'"{each}"' if " " in each else each for each in told]
