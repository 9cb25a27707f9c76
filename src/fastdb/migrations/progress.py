"""What becomes of each revision: told when it is done, explained when it fails."""

import logging
import re
import time
from collections.abc import Callable
from threading import Event
from types import TracebackType
from typing import Any

from alembic.runtime.migration import MigrationInfo
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from fastdb.errors import MigrationFailed
from fastdb.migrations.foreign_keys import Orphans, describe, orphans
from fastdb.migrations.requests import Stopped

logger = logging.getLogger("fastdb.migrations")

Show = Callable[[str], None]

# MySQL commits before each of these, whatever becomes of it, and after it.
_COMMITS = re.compile(
    r"\s*(CREATE|ALTER|DROP|RENAME|TRUNCATE|GRANT|REVOKE|ANALYZE|OPTIMIZE|LOCK)\b", re.IGNORECASE
)
_CHANGES_NOTHING = re.compile(r"\s*(SELECT|SHOW|DESCRIBE|DESC|SET|PRAGMA|BEGIN)\b", re.IGNORECASE)
_STATEMENT_LENGTH = 200


class Progress:
    """The way of one connection through the revisions, each in a transaction of its own.

    Args:
        connection: The one that migrates.
        version_table: The name of Alembic's own table.
        show: Called with a line for each revision that is done.
        stop: Set when no further revision is to begin.
        before: On SQLite, who referred to nothing before; None where that is not looked at.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        version_table: str,
        show: Show,
        stop: Event,
        before: Orphans | None,
    ) -> None:
        self._connection = connection
        self._version_table = version_table
        self._show = show
        self._stop = stop
        self._before = before
        self._committing: MigrationInfo | None = None
        self._is_between = True
        self._begun_at = time.perf_counter()
        self._statements: list[str] = []
        self._committed = 0  # how many of them an autocommit_block() has committed
        event.listen(connection, "begin", self._begin)
        event.listen(connection, "before_cursor_execute", self._execute)

    def applied(self, *, step: MigrationInfo, **_: Any) -> None:
        """Look at what a revision has done, before its COMMIT: Alembic's `on_version_apply`."""
        if self._committing is not None:  # in a transaction of the caller's, one for all of them
            self._begin_revision()
        if self._before is not None:
            found = orphans(self._connection) - self._before
            if found:
                raise _failed(
                    step, f"it would leave foreign keys that refer to nothing: {describe(found)}",
                    "It was rolled back.",
                )  # fmt: skip
        self._committing = step
        self._is_between = True

    def end(self) -> None:
        """Tell of the revision that was committed last."""
        step, self._committing = self._committing, None
        if step is None or step.is_stamp:
            return
        seconds = time.perf_counter() - self._begun_at
        before, after = (
            "+".join(name[:12] for name in names) or "base"
            for names in (step.source_revision_ids, step.destination_revision_ids)
        )
        self._show(f"{before} -> {after}: {_title(step)}, {seconds:.2f} s")

    def explain(self, error: Exception) -> Exception:
        """Return what to raise in the place of an error: one that names the revision, if it can."""
        if isinstance(error, MigrationFailed | Stopped):
            return error
        name, title = self._failed_revision(error)
        if name is None:
            return error
        standing = self._standing()
        return MigrationFailed(
            f"Revision {name} ({title}) failed: {_words(error)}. {self._remedy(standing)}",
            revision=name,
            standing=standing,
        )

    def _begin(self, _: Connection) -> None:
        if not self._is_between:
            # The transaction that goes on after an autocommit_block(), or that is in it.
            self._committed = len(self._statements)
            return
        self._begin_revision()

    def _begin_revision(self) -> None:
        self.end()
        if self._stop.is_set():
            raise Stopped
        self._is_between = False
        self._begun_at = time.perf_counter()
        self._statements.clear()
        self._committed = 0

    def _execute(self, _: Connection, _cursor: Any, statement: str, *_more: Any) -> None:
        if not _CHANGES_NOTHING.match(statement) and self._version_table not in statement:
            self._statements.append(statement)

    def _failed_revision(self, error: Exception) -> tuple[str | None, str]:
        if self._committing is not None:
            step = self._committing
            return step.up_revision_id, _title(step)
        module = _revision_module(error.__traceback__)
        if module is None:
            return None, ""
        title = (module.get("__doc__") or "").strip().partition("\n")[0]
        return str(module["revision"]), title

    def _standing(self) -> tuple[str, ...]:
        """Return what was committed of the revision that failed."""
        mark = self._committed
        if self._commits_ddl:
            for at, statement in enumerate(self._statements):
                if _COMMITS.match(statement):
                    # Itself as well, unless it is the last one, which has failed.
                    mark = min(at + 1, len(self._statements) - 1)
        return tuple(_shortened(statement) for statement in self._statements[:mark])

    @property
    def _commits_ddl(self) -> bool:
        return self._connection.dialect.name not in ("sqlite", "postgresql")

    def _remedy(self, standing: tuple[str, ...]) -> str:
        if self._committing is not None and self._connection.invalidated:
            return (
                "The connection was lost during its COMMIT, so it may stand: `alembic current` says"
                " whether it does, and running the upgrade again is right in either case."
            )
        if not standing:
            return "It was rolled back: mend it, and run the upgrade again."
        because = (
            "MySQL commits with each DDL statement"
            if self._commits_ddl
            else "of autocommit_block()"
        )
        listed = "".join(f"\n    {statement};" for statement in standing)
        return (
            f"The version is as before, but as {because}, these of its statements stand:{listed}\n"
            "Undo them by hand, mend the revision and run the upgrade again; or do by hand what is"
            " missing, and `alembic stamp` the revision."
        )


def _failed(step: MigrationInfo, why: str, remedy: str) -> MigrationFailed:
    name = step.up_revision_id
    return MigrationFailed(
        f"Revision {name} ({_title(step)}) failed: {why}. {remedy}", revision=name
    )


def _title(step: MigrationInfo) -> str:
    doc = getattr(step.up_revision, "doc", None)
    return str(doc or "no message")


def _revision_module(traceback: TracebackType | None) -> dict[str, Any] | None:
    """Return the names in the revision's file that an error came through, if it did."""
    while traceback is not None:
        names = traceback.tb_frame.f_globals
        if {"revision", "down_revision"} <= names.keys():
            return names
        traceback = traceback.tb_next
    return None


def _words(error: Exception) -> str:
    """Say what went wrong, without the values of the rows."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    first = str(cause).strip().partition("\n")[0].strip().rstrip(".")
    return f"{type(cause).__name__}: {first}" if first else type(cause).__name__


def _shortened(statement: str) -> str:
    words = " ".join(statement.split())
    return words if len(words) <= _STATEMENT_LENGTH else words[:_STATEMENT_LENGTH] + " …"
