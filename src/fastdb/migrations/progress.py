"""What becomes of each revision: told as it begins and ends, explained when it fails."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from threading import Event
from typing import Any

from alembic.runtime.migration import MigrationInfo, RevisionStep, StampStep
from sqlalchemy import Connection

from fastdb.errors import MigrationFailed, TransactionFailed
from fastdb.migrations.foreign_keys import References, describe, references
from fastdb.migrations.literals import reason
from fastdb.migrations.requests import Stopped
from fastdb.migrations.standing import Standing

logger = logging.getLogger("fastdb.migrations")

Show = Callable[[str], None]
Step = RevisionStep | StampStep


class Progress:
    """The way of one connection through the revisions, each in a transaction of its own.

    Args:
        connection: The one that migrates.
        version_table: The name of Alembic's own table.
        show: Called with a line for each revision that begins, and for each that is done.
        stop: Set when no further revision is to begin.
        before: On SQLite, who referred to nothing before; None where that is not looked at.

    Attributes:
        is_callers: Whether the connection was handed over inside of a transaction.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        version_table: str,
        show: Show,
        stop: Event,
        before: References | None,
    ) -> None:
        self._connection = connection
        self._show = show
        self._stop = stop
        self._before = before
        self.is_callers = connection.in_transaction()
        self._step: MigrationInfo | None = None  # that runs, or ran last
        self._is_at_its_commit = False
        self._lines: list[str] = []  # of revisions that are not committed yet
        self._together = 0  # how many revisions the transaction has in it that ran to their end
        self._begun_at = time.perf_counter()
        self._standing = Standing(connection, version_table)

    def announced(self, steps: Iterable[Step]) -> Iterator[Step]:
        """Pass on what Alembic is about to do, and tell of each revision before it begins."""
        for step in steps:
            self._note()
            if not self._connection.in_transaction():  # or they are in one, which may yet fail
                self._tell()
                self._together = 0
            if self._stop.is_set():
                raise Stopped
            self._begin(step.info)
            yield step

    def applied(self, *, step: MigrationInfo, **_: Any) -> None:
        """Look at what a revision has done, before its COMMIT: Alembic's `on_version_apply`."""
        if self._before is not None:
            found = references(self._connection)
            more = found.came_after(self._before)
            if more:
                why = f"it would leave foreign keys that refer to nothing: {describe(more)}"
                standing = self._standing()
                remedy = self._remedy(standing) if standing else "It was rolled back."
                raise _failed(step, why, remedy, standing)
            self._before = found
        self._is_at_its_commit = True
        self._together += 1

    def end(self) -> None:
        """Tell of the revision that was committed last, and look at the connection no longer."""
        self._note()
        self._tell()
        self._standing.leave()

    def explain(self, error: Exception) -> Exception:
        """Return what to raise in the place of an error: one that names the revision, if it can."""
        try:
            if isinstance(error, MigrationFailed | Stopped):
                return error
            step = self._step
            if step is None or step.is_stamp:
                return error
            standing = self._standing()
            remedy = self._remedy(standing, is_at_its_commit=self._is_at_its_commit)
            return _failed(step, _reason(error), remedy, standing)
        finally:
            self._standing.leave()

    def _begin(self, step: MigrationInfo) -> None:
        self._step = step
        self._is_at_its_commit = False
        self._begun_at = time.perf_counter()
        self._standing.clear()
        if not step.is_stamp:
            self._show(f"{_way(step)} ...")

    def _tell(self) -> None:
        """Show what was committed."""
        for line in self._lines:
            self._show(line)
        self._lines.clear()

    def _note(self) -> None:
        if self._step is not None and not self._step.is_stamp:
            seconds = time.perf_counter() - self._begun_at
            self._lines.append(f"{_way(self._step)}, {seconds:.2f} s")

    def _remedy(self, standing: tuple[str, ...], *, is_at_its_commit: bool = False) -> str:
        if is_at_its_commit and self._connection.invalidated:
            return (
                "The connection was lost during its COMMIT, so it may stand: `alembic current` says"
                " whether it does, and running the upgrade again is right in either case."
            )
        said = self._what_stands(standing) if standing else self._rolled_back(is_at_its_commit)
        if "CONCURRENTLY" in self._standing.failed().upper():
            said += " PostgreSQL may have left an INVALID index, which is to be dropped first."
        return said

    def _rolled_back(self, is_at_its_commit: bool) -> str:
        others = self._together - is_at_its_commit
        if self.is_callers:
            said = (
                "It is in a transaction of the caller's, who is to roll back: mend it, and run the"
                " upgrade again."
            )
        elif others > 0:
            said = (
                f"It was rolled back, and so were the {others} before it in the same transaction:"
                " mend it, and run the upgrade again."
            )
            if is_at_its_commit:
                said += " Any of them may be to blame, as it was their COMMIT that failed."
        else:
            said = "It was rolled back: mend it, and run the upgrade again."
        if self._commits_ddl:
            said += (
                " If an earlier attempt was killed, its DDL may stand: compare the tables with the"
                " revision."
            )
        return said

    def _what_stands(self, standing: tuple[str, ...]) -> str:
        if self._commits_ddl:
            because = "MySQL commits with each DDL statement"
        elif self._standing.ended_by_hand:
            because = "of a COMMIT in the revision"
        else:
            because = "of autocommit_block()"
        listed = "".join(f"\n    {statement};" for statement in standing)
        if self._standing.version_stands:
            return (
                f"As {because}, its version was committed, and so were these of its statements:"
                f"{listed}\nDo by hand what is missing; or undo them, `alembic stamp` the revision"
                " before, mend this one and run the upgrade again."
            )
        return (
            f"The version is as before, but as {because}, these of its statements stand:{listed}\n"
            "Undo them by hand, mend the revision and run the upgrade again; or do by hand what is"
            " missing, and `alembic stamp` the revision."
        )

    @property
    def _commits_ddl(self) -> bool:
        return self._connection.dialect.name not in ("sqlite", "postgresql")


def _failed(
    step: MigrationInfo, why: str, remedy: str, standing: tuple[str, ...]
) -> MigrationFailed:
    name = step.up_revision_id
    message = f"Revision {name} ({_title(step)}) failed: {why}. {remedy}"
    return MigrationFailed(message, revision=name, standing=standing)


def _way(step: MigrationInfo) -> str:
    before, after = (
        "+".join(name[:12] for name in names) or "base"
        for names in (step.source_revision_ids, step.destination_revision_ids)
    )
    return f"{before} -> {after}: {_title(step)}"


def _title(step: MigrationInfo) -> str:
    doc = getattr(step.up_revision, "doc", None)
    return str(doc or "no message")


def _reason(error: Exception) -> str:
    if not isinstance(error, TransactionFailed) or error.__cause__ is None:
        return reason(error)
    # COMMIT was refused, as a statement had failed; in autocommit_block() while its error goes on.
    was_caught = error.__context__ is None
    return reason(error.__cause__) + " (its error was caught, so COMMIT was refused)" * was_caught
