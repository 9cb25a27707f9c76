"""A forked child keeps away from its parent's connections.

Both would write to one socket, and each read the other's rows. The child opens connections of its
own; those that were in its parent's pools are neither used nor closed there, as closing them would
tell the server to end the parent's. What is in use at that moment is not protected: nobody should
fork inside of a transaction.
"""

import os
from typing import Any
from weakref import WeakSet

from sqlalchemy import Engine

_engines: WeakSet[Engine] = WeakSet()

# Never looked at again: what nobody refers to would be closed by the garbage collector.
_of_parents: list[Any] = []


def forget_in_children(engine: Engine) -> None:
    """Give `engine` a new pool in each child process that is forked from now on."""
    _engines.add(engine)


def _forget() -> None:
    for engine in list(_engines):
        _of_parents.append(engine.pool)
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_forget)
