"""The command line of the bank: long runs, whose figures go into the documentation."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import text

from backends import BACKENDS
from bank.judge import INNOCENT, judge
from bank.place import make_server, open_place
from bank.report import circumstances, figures, render, write
from bank.run import Record, run
from fastdb import Database

DATABASES = [name for name in BACKENDS if name != "sqlite-memory"]


def main(arguments: Sequence[str]) -> int:
    """Run the bank on one database after another; return 1 where something was wrong."""
    wanted = _parser().parse_args(arguments)
    runs: dict[str, Any] = {}
    for database in wanted.database:
        _say(f"{database}: {wanted.seconds:g} s of faults, seed {wanted.seed} …")
        runs[database] = _run(database, wanted)
    _say(render(runs))
    if not wanted.dry:
        write(runs)
    return int(any(_is_wrong(each) for each in runs.values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bank", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300, help="of faults; default 300")
    parser.add_argument("--seed", type=int, default=7, help="of all that happens; default 7")
    parser.add_argument("--clients", type=int, default=16, help="default 16")
    parser.add_argument("--database", nargs="+", choices=DATABASES, default=DATABASES)
    parser.add_argument("--dry", action="store_true", help="leave docs/reliability as it is")
    return parser


def _run(database: str, wanted: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = make_server(database)
        if server is not None:
            stack.enter_context(server)

        async def work() -> tuple[Record, str]:
            async with open_place(database, server, directory) as place:
                record = await run(
                    place, seconds=wanted.seconds, seed=wanted.seed, clients=wanted.clients
                )
                return record, await asyncio.to_thread(_server_version, place.url)

        record, told = asyncio.run(work())
    verdict = judge(record.opening, record.answers, record.books)
    if verdict != INNOCENT:
        _say(f"{database}: GUILTY: {verdict}")
    command = (
        f"python -m bank --seconds {wanted.seconds:g} --seed {wanted.seed}"
        f" --clients {wanted.clients} --database {database}"
    )
    _, driver = BACKENDS[database]
    return {
        **figures(record, verdict),
        **circumstances(driver, told),
        "command": command,
        "seconds": wanted.seconds,
        "seed": wanted.seed,
        "clients": wanted.clients,
    }


def _server_version(url: str) -> str:
    with Database(url).sync as db, db.read_session() as session:
        if db.engine.dialect.name == "sqlite":
            return ""
        told = str(session.execute(text("SELECT version()")).scalar_one())
    return " ".join(told.split()[:2]) if told.startswith("PostgreSQL") else f"MariaDB {told}"


def _is_wrong(run: dict[str, Any]) -> bool:
    wrongs = ("lost", "doubled", "kept_though_refused", "never_asked_for", "wrong_balances")
    return any(run[wrong] for wrong in (*wrongs, "sum_changed_by"))


def _say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
