"""What SQLAlchemy compiles for SQLite, and what is remembered of it for `intent`."""

from typing import Any, Literal

from sqlalchemy.dialects.sqlite.base import SQLiteCompiler


class LockingCompiler(SQLiteCompiler):
    """Notices `with_for_update()`, for which SQLite has no words: it takes the write lock."""

    takes_write_lock = False

    def for_update_clause(self, select: Any, **kw: Any) -> Literal[""]:
        """Leave the clause out, as SQLAlchemy does, but remember that it was asked for."""
        self.takes_write_lock = True
        return ""
