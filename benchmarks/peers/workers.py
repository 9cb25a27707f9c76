"""The processes of the candidates, as their parent sees them."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.context import BaseContext
from typing import Any

from peers import worker
from peers.databases import Databases
from peers.variants import Variant
from peers.worker import Trial
from peers.workloads import Load

_OPEN_SECONDS = 60
_ANSWER_SECONDS = 90  # three times the longest that a pool lets wait
_END_SECONDS = 10


class WorkerLost(Exception):
    """A candidate's process came to nothing: it could not open, hangs, or has ended."""


class Worker:
    """A variant that is open on a database of its own, or on shared tables.

    Args:
        variant: What runs there.
        url: Of the tables, as the parent reaches them.
        reach: Returns the URL as the candidate reaches them: through a proxy, for instance.
    """

    def __init__(self, variant: Variant, url: str, reach: Callable[[str], str] = str) -> None:
        self.variant = variant
        self.url = url
        context = _context()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(  # type: ignore[attr-defined]
            target=worker.main,
            args=(theirs, variant.candidate, variant.place(reach(url))),
            daemon=True,
        )
        self._process.start()
        theirs.close()

    def wait_until_open(self) -> None:
        """Wait until the app is open and has answered everything rightly once."""
        if failure := self._answer(_OPEN_SECONDS):
            raise WorkerLost(failure)

    def load(self, load: Load, seconds: float) -> Trial:
        trial = self._ask("load", workload=load.workload, clients=load.clients, seconds=seconds)
        assert isinstance(trial, Trial)
        return trial

    def serve(self) -> int:
        """Serve over HTTP from now on; return the port."""
        return int(self._ask("serve"))

    def checked_out(self) -> int | None:
        """Return the connections that were not given back; None where there is no pool."""
        found: int | None = self._ask("checked_out")
        return found

    def close(self) -> None:
        """End the process, in good order if it can; a second time does nothing."""
        if self._connection.closed:
            return
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(_END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()

    def _ask(self, order: str, **arguments: Any) -> Any:
        try:
            self._connection.send((order, arguments))
        except OSError as error:
            raise WorkerLost("its process has ended") from error
        return self._answer(_ANSWER_SECONDS)

    def _answer(self, seconds: float) -> Any:
        try:
            if not self._connection.poll(seconds):
                raise WorkerLost(f"no answer for {seconds:.0f} s")
            return self._connection.recv()
        except EOFError as error:
            raise WorkerLost("its process has ended") from error


@contextmanager
def open_workers(
    chosen: Sequence[Variant],
    databases: Databases,
    database: str,
    reach: Callable[[str], str] = str,
) -> Iterator[tuple[list[Worker], dict[str, str]]]:
    """Open all variants on a database; give those that are open, and why the others are not."""
    with ExitStack() as stack:
        shared = None if database == "sqlite" else databases.new_url(database)
        started = []
        for variant in chosen:
            started.append(Worker(variant, shared or databases.new_url(database), reach))
            stack.callback(started[-1].close)
        workers, lost = [], {}
        for each in started:
            try:
                each.wait_until_open()
            except WorkerLost as error:
                lost[each.variant.name] = str(error)
            else:
                workers.append(each)
        yield workers, lost


def _context() -> BaseContext:
    """Return how to start processes: with what all import already there, where that can be had."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["peers.worker"])
    return context
