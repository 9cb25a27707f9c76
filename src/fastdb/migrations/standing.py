"""Which statements of a revision stand, whatever becomes of it."""

import re
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, event

from fastdb.migrations.literals import readable

_CHANGES_NOTHING = re.compile(
    r"(SELECT|SHOW|DESCRIBE|DESC|EXPLAIN|SET|PRAGMA|USE|BEGIN|START|COMMIT|END|ROLLBACK|ABORT"
    r"|SAVEPOINT|RELEASE)\b",
    re.IGNORECASE,
)
_ROLLS_BACK = re.compile(r"(ROLLBACK|ABORT)\b(?!.*\bTO\b)", re.IGNORECASE)
_ENDS = re.compile(r"(COMMIT|END)\b", re.IGNORECASE)

# MySQL commits before all but these, even if they fail then. The list of those is longer than this
# one, and grows with each version.
_COMMITS_NOTHING = re.compile(
    r"(SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH|VALUES|TABLE|SHOW|DESCRIBE|DESC|EXPLAIN|SET|USE|DO"
    r"|SAVEPOINT|RELEASE|ROLLBACK|HANDLER|PREPARE|DEALLOCATE|LOAD DATA|CHECKSUM|KILL|HELP|SIGNAL"
    r"|(CREATE|DROP) TEMPORARY)\b(?! PASSWORD\b)",
    re.IGNORECASE,
)
# Of these it goes on in a transaction, or may, so that its state does not show the COMMIT.
_COMMITS_UNSEEN = re.compile(r"(BEGIN|START|CALL|EXECUTE)\b", re.IGNORECASE)


class Standing:
    """The statements of one revision, and how many of them have been committed.

    The driver knows after each statement whether a transaction is open: none is after a COMMIT, in
    an autocommit_block(), and after MySQL's DDL.

    Args:
        connection: The one that migrates.
        version_table: The name of Alembic's own table. What it writes there is not listed.

    Attributes:
        version_stands: Whether the new version was committed.
        ended_by_hand: Whether the revision has executed a COMMIT.
    """

    def __init__(self, connection: Connection, version_table: str) -> None:
        self._connection = connection
        self._version_table = version_table
        self._on_mysql = connection.dialect.name in ("mysql", "mariadb")
        self._statements: list[str] = []
        self._committed = 0
        self._has_version = False
        self.version_stands = False
        self.ended_by_hand = False
        self._running: str | None = None  # or failed, if nothing came after it
        event.listen(connection, "begin", self._begin)
        event.listen(connection, "before_cursor_execute", self._execute)
        event.listen(connection, "after_cursor_execute", self._executed)
        event.listen(connection, "rollback", self._roll_back)

    def leave(self) -> None:
        """Listen no longer."""
        event.remove(self._connection, "begin", self._begin)
        event.remove(self._connection, "before_cursor_execute", self._execute)
        event.remove(self._connection, "after_cursor_execute", self._executed)
        event.remove(self._connection, "rollback", self._roll_back)

    def clear(self) -> None:
        """Begin with another revision."""
        self._statements.clear()
        self._committed = 0
        self._has_version = self.version_stands = self.ended_by_hand = False
        self._running = None

    def commit(self) -> None:
        """Note that all up to here has been committed."""
        self._committed = len(self._statements)
        self.version_stands = self._has_version

    def __call__(self) -> tuple[str, ...]:
        """Return what has been committed."""
        self._settle()
        return tuple(self._statements[: self._committed])

    def failed(self) -> str:
        """Return the statement that has failed; empty if it was none."""
        return self._running or ""

    def _begin(self, _: Connection) -> None:
        # Within a revision: in an autocommit_block() or after it, which has committed what was.
        self.commit()

    def _execute(self, _: Connection, _cursor: Any, statement: str, *_more: Any) -> None:
        self._settle()
        self._running = self._readable(statement)

    def _readable(self, statement: str) -> str:
        return readable(statement, mysql=self._on_mysql).lstrip("( ")

    def _executed(
        self, _: Connection, cursor: Any, statement: str, _values: Any, context: Any, _many: bool
    ) -> None:
        # Not what is running: it may have had a BEGIN of its own executed before it.
        statement, self._running = self._readable(statement), None
        if _ROLLS_BACK.match(statement):
            self._forget()
        if self._is_alembics(context, "table"):
            self._has_version = True
        elif not self._is_alembics(context, "element"):
            self._add(statement)
        if self._has_committed(statement, has_rows=cursor.description is not None):
            self.commit()

    def _add(self, statement: str) -> None:
        # Once, though a loop may execute it for each row.
        if not _CHANGES_NOTHING.match(statement) and self._statements[-1:] != [statement]:
            self._statements.append(statement)

    def _has_committed(self, statement: str, *, has_rows: bool) -> bool:
        if _ENDS.match(statement):
            self.ended_by_hand = True
            return True
        if not self._on_mysql:
            return not self._is_in_transaction(commits=False)
        if _COMMITS_UNSEEN.match(statement):
            return True
        commits = not _COMMITS_NOTHING.match(statement)
        if commits and has_rows:  # with which the driver overlooks the session's state
            return not self._ask_whether_in_transaction(commits)
        return not self._is_in_transaction(commits)

    def _settle(self) -> None:
        """Look at what a statement that failed has done to those before it."""
        if self._running is None or not self._on_mysql:
            return
        commits = not _COMMITS_NOTHING.match(self._running)
        if self._ask_whether_in_transaction(commits):
            return
        if commits:
            self.commit()
        else:  # after a deadlock
            self._forget()

    def _ask_whether_in_transaction(self, commits: bool) -> bool:
        if self._connection.closed or self._connection.invalidated:
            return not commits
        with suppress(Exception):  # it may be lost
            cursor = self._connection.connection.cursor()
            try:
                cursor.execute(
                    "DO 0"
                )  # an error does not say in what state it has left the session
            finally:
                cursor.close()
            return self._is_in_transaction(commits)
        return not commits

    def _is_in_transaction(self, commits: bool) -> bool:
        """Ask the driver; where it does not tell, go by what the statement should have done."""
        driver: Any = self._connection.connection.driver_connection
        match self._connection.dialect.name:
            case "sqlite":
                return bool(driver.in_transaction)
            case "postgresql" if hasattr(driver, "is_in_transaction"):
                return bool(driver.is_in_transaction())
            case "postgresql" if hasattr(driver, "info"):
                return bool(driver.info.transaction_status)
            case "mysql" | "mariadb" if hasattr(driver, "server_status"):
                return bool(driver.server_status & 1)
            case _:
                return not commits

    def _is_alembics(self, context: Any, attribute: str) -> bool:
        """Look at the table that an INSERT and the like, or a CREATE, was compiled from."""
        statement = getattr(getattr(context, "compiled", None), "statement", None)
        name = getattr(getattr(statement, attribute, None), "name", None)
        return bool(name == self._version_table)

    def _roll_back(self, _: Connection) -> None:
        self._settle()
        self._forget()

    def _forget(self) -> None:
        del self._statements[self._committed :]
        self._has_version = self.version_stands
