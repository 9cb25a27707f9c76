"""What fastdb adds to every `Session`: the twin's own, and the one inside an async session."""

from contextlib import suppress
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, event, exc
from sqlalchemy.orm import Session, SessionTransaction

from fastdb.errors import CommitOutcomeUnknown, SessionEnded
from fastdb.guards import failed
from fastdb.session.callbacks import Callbacks
from fastdb.sockets import abort

# `close_resets_only=False`: a session used after its end must not open a connection that nobody
# closes. `expire_on_commit=False`: what was loaded stays readable while the response is made.
SESSION_OPTIONS: dict[str, Any] = {"expire_on_commit": False, "close_resets_only": False}


S = TypeVar("S", bound="UnitSession")


class UnitSession(Session):
    """A session that commits or rolls back, never half, and knows when it has ended."""

    reads_only = False
    has_committed = False
    runs_callbacks = True  # else the async session around this one awaits them
    _ended = False
    _failed_flush: BaseException | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.callbacks = Callbacks()
        self._connections: list[Connection] = []
        self._driver_connections: list[Any] = []

    def commit(self) -> None:
        """COMMIT, or roll back and raise; then run the `on_commit` callbacks.

        Raises:
            TransactionFailed: A statement failed earlier and the error was caught.
            CommitOutcomeUnknown: The connection was lost while COMMIT was in flight.
        """
        self.commit_only()
        if self.runs_callbacks:
            self.callbacks.run()

    def commit_only(self) -> None:
        """COMMIT, or roll back and raise; the callbacks are left to the caller."""
        self.refuse_if_ended()
        # By itself first: what fails after this, failed in COMMIT.
        self.flush()
        try:
            super().commit()
        except BaseException as error:
            cause = self._failed_flush or error
            # SQLAlchemy leaves this to the caller. On SQLite the transaction is still open.
            self.rollback()
            if isinstance(error, exc.PendingRollbackError):
                raise failed(cause) from cause
            raise_if_unknown(error)
            raise

    def flush(self, *args: Any, **kwargs: Any) -> None:
        """Write what is pending, and remember why that failed."""
        self.refuse_if_ended()
        try:
            super().flush(*args, **kwargs)
        except BaseException as error:
            self._failed_flush = error
            raise

    def end(self) -> None:
        """Close the session for good; a transaction that is still open is rolled back."""
        try:
            if self.in_transaction() or len(self.identity_map):
                self._close_or_invalidate()
        finally:
            self._ended = True
            self._failed_flush = None
            self.callbacks.drop()

    def _close_or_invalidate(self) -> None:
        try:
            self.close()
        except BaseException:
            # It has stopped before the connections were given back, which nobody else would do.
            for connection in self._connections.copy():
                with suppress(Exception):
                    connection.invalidate()
                    connection.close()
            raise

    def holds_changes(self) -> bool:
        """Return whether there are objects that were not written yet."""
        return self.is_active and bool(self.new or self.deleted or self.dirty)

    def cut(self) -> None:
        """Abort the connections this session has used, without waiting for the network."""
        for driver_connection in self._driver_connections:
            abort(driver_connection)

    def note_connection(self, _transaction: SessionTransaction, connection: Connection) -> None:
        """Remember the connection, for the end."""
        self._connections.append(connection)
        self._driver_connections.append(connection.connection.driver_connection)

    def note_committed(self) -> None:
        """Remember a COMMIT, by whichever call, and release the callbacks that waited for it."""
        # SQLAlchemy tells of savepoints that are released as well.
        if self.get_nested_transaction() is None:
            self.has_committed = True
            self.callbacks.committed()

    def note_ended(self, ended: SessionTransaction) -> None:
        """Forget the connections of a transaction that has ended: others may have them now."""
        if ended.parent is None:
            self._connections.clear()
            self._driver_connections.clear()

    def note_rolled_back(self, ended: SessionTransaction) -> None:
        """Drop the callbacks of what was rolled back."""
        if ended.parent is None:
            self._failed_flush = None
        self.callbacks.rolled_back(ended)

    # What every use of a session comes through. SQLAlchemy would refuse most of it as well, but
    # its message cannot say what to do here.

    def get_bind(self, *args: Any, **kwargs: Any) -> Any:
        """Return the engine, as long as the unit of work lasts."""
        self.refuse_if_ended()
        return super().get_bind(*args, **kwargs)

    def begin(self, nested: bool = False) -> SessionTransaction:
        """Begin, as long as the unit of work lasts."""
        self.refuse_if_ended()
        return super().begin(nested=nested)

    def add(self, instance: object, *args: Any, **kwargs: Any) -> None:
        """Add an object, as long as the unit of work lasts."""
        self.refuse_if_ended()
        super().add(instance, *args, **kwargs)

    def merge(self, instance: Any, *args: Any, **kwargs: Any) -> Any:
        """Merge an object, as long as the unit of work lasts."""
        self.refuse_if_ended()
        return super().merge(instance, *args, **kwargs)

    def refresh(self, instance: object, *args: Any, **kwargs: Any) -> None:
        """Load an object again, as long as the unit of work lasts."""
        self.refuse_if_ended()
        super().refresh(instance, *args, **kwargs)

    def delete(self, instance: object) -> None:
        """Delete an object, as long as the unit of work lasts."""
        self.refuse_if_ended()
        super().delete(instance)

    def refuse_if_ended(self) -> None:
        """Raise SessionEnded if the unit of work is over."""
        if self._ended:
            raise SessionEnded(
                "This session has ended with its unit of work: the request's session ends before"
                " the response is sent, so a stream or a background task cannot use it. Open one"
                " there, with `async with db.session() as session:`; for a stream that only"
                " reads, take StreamSessionDep."
            )


def unit_session_class(session_class: type[Session], addition: type[S]) -> type[S]:
    """Return `session_class` with `addition`, a kind of `UnitSession`, in front."""
    made = cast("type[S]", type(session_class.__name__, (addition, session_class), {}))
    event.listen(made, "after_begin", UnitSession.note_connection)
    event.listen(made, "after_commit", UnitSession.note_committed)
    event.listen(made, "after_soft_rollback", made.note_rolled_back)
    event.listen(made, "after_transaction_end", UnitSession.note_ended)
    return made


def raise_if_unknown(error: BaseException) -> None:
    """Raise CommitOutcomeUnknown if `error`, which came out of COMMIT, is a lost connection."""
    if _lost(error):
        raise CommitOutcomeUnknown(
            "The connection was lost while COMMIT was in flight: the transaction may or may not"
            " have been committed. Look for its rows before you run it again."
        ) from error


def _lost(error: BaseException) -> bool:
    if isinstance(error, exc.DBAPIError):
        return error.connection_invalidated
    return isinstance(error, ConnectionError | TimeoutError)  # asyncpg lets these through
