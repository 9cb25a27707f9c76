"""What a test can look at of the callbacks that wait for a COMMIT."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastdb.session import Captured, capturing


@contextmanager
def captured_on_commit(*, run: bool = True) -> Iterator[Captured]:
    """Keep the `on_commit` callbacks of all that is committed in the block.

        with captured_on_commit(run=False) as captured:
            await client.post("/orders")

        assert len(captured.callbacks) == 1

    Those of the requests, tasks and threads that are started in it as well; not those of an app in
    another process, nor of a server that was started before.

    Args:
        run: Run them too. Default True; else nobody does.
    """
    captured = Captured(runs=run)
    token = capturing.set(captured)
    try:
        yield captured
    finally:
        capturing.reset(token)
