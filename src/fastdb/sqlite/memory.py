"""In-memory databases, which are private temporary files.

SQLite's own shared memory (shared cache, the memdb VFS) knows no WAL and fails under two
sessions; a plain `:memory:` belongs to one connection, so that sessions would share one
transaction and a cancelled query would destroy it. A temporary file behaves like the file that
production uses, because it is one.
"""

import os
import shutil
import tempfile
import weakref
from pathlib import Path


class TemporaryDatabase:
    """The path of a database file that nobody else knows and that is gone after `delete()`.

    The file is also deleted when the object is collected or the interpreter exits.
    """

    def __init__(self) -> None:
        directory = tempfile.mkdtemp(prefix="fastdb-")
        self.path = Path(directory) / "memory.db"
        self._finalizer = weakref.finalize(self, _delete, directory, os.getpid())

    def delete(self) -> None:
        """Remove the file and its directory; nothing happens the second time."""
        self._finalizer()


def _delete(directory: str, owner: int) -> None:
    # A forked child that exits must not take its parent's database with it.
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)
