"""The exceptions that fastdb raises; their tree is told in the package."""

from sqlalchemy import exc


class FastdbError(Exception):
    """Everything that fastdb itself raises."""


class ConfigurationError(FastdbError):
    """What was asked for cannot work, whatever the database answers."""


class InvalidURL(ConfigurationError, ValueError):
    """The database URL, or one of its parameters, cannot be used as written."""


class MissingDriver(ConfigurationError, ImportError):
    """No driver that fits the URL is installed; the message names the extra to install."""


class InvalidRoute(ConfigurationError):
    """A route uses a session in a way that would silently lose data."""


class ConnectionRefused(FastdbError):
    """A new connection was closed, because it does not have what was asked for."""


class TLSNotEstablished(ConnectionRefused):
    """TLS was asked for, but the server agreed to plain text only."""


class ForeignKeysNotEnforced(ConnectionRefused):
    """SQLite was told to enforce foreign keys and does not."""


class DatabaseNotBound(FastdbError):
    """No Database, or more than one, belongs to the app that is serving the request."""


class DatabaseClosed(FastdbError):
    """The Database was closed, or belongs to another event loop."""


class SessionEnded(FastdbError):
    """A session was used after its unit of work had ended."""


class SessionInUse(FastdbError):
    """A task used a session while another task was inside one of its calls."""


class LazyLoadRefused(FastdbError, exc.MissingGreenlet):
    """Something was to be loaded lazily outside of an `await`, where nothing can be waited for."""

    code = ""  # no link to SQLAlchemy's page: the message says what to write


class EventLoopBlocked(FastdbError):
    """The synchronous twin was used on the thread of an event loop, which it would block."""


class TransactionFailed(FastdbError):
    """A part of this transaction failed, so its COMMIT was refused and it was rolled back."""


class CommitOutcomeUnknown(FastdbError):
    """The connection was lost while COMMIT was in flight: the rows may be there or not.

    Never retry on this error without checking first; the original error is its `__cause__`.
    """


class WriteLockHeld(FastdbError):
    """A task asked for the SQLite write lock while another of its own sessions holds it."""


class LateWriteWarning(UserWarning):
    """A `yield` dependency in the default scope outlives the session that it depends on."""


class PoolExhausted(FastdbError, exc.TimeoutError):
    """No connection of a pool was free within `Timeouts.pool`; also SQLAlchemy's `TimeoutError`.

    Attributes:
        database: The name of the database; on SQLite, its path.
        size: How many connections the pool holds at most.
        in_use: How many are taken.
        holder: Who has held one longest, such as "GET /reports/{id}" or "Task 'import'".
        held_seconds: For how long.
        holds_one_itself: Whether the task that waited, or another one of the same request, holds
            one of them: where many do so, they may wait for each other.
    """

    def __init__(
        self,
        message: str,
        *,
        database: str = "",
        size: int = 0,
        in_use: int = 0,
        holder: str | None = None,
        held_seconds: float | None = None,
        holds_one_itself: bool = False,
    ) -> None:
        super().__init__(message)
        self.database = database
        self.size = size
        self.in_use = in_use
        self.holder = holder
        self.held_seconds = held_seconds
        self.holds_one_itself = holds_one_itself


class WrongEventLoop(FastdbError):
    """An engine was used in another event loop than the one that its connections belong to."""


class MigrationFailed(FastdbError):
    """A revision failed, here or in another worker; the message says what stands and what to do.

    Attributes:
        revision: The one that failed; None where another worker ran it.
        standing: The statements of this revision that were committed before it failed.
    """

    def __init__(
        self, message: str, *, revision: str | None = None, standing: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.revision = revision
        self.standing = standing


class MigrationLocked(FastdbError):
    """Another worker migrates, and has not come to an end in time; the message names it."""


class NotAtHead(FastdbError):
    """The database is not at the revision that this code was written for.

    Attributes:
        current: The revisions that the database is at.
        heads: Those that this code has.
    """

    def __init__(
        self, message: str, *, current: tuple[str, ...] = (), heads: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.current = current
        self.heads = heads


class NotUndone(FastdbError):
    """What a test did cannot be undone by a rollback, or was not."""


class UnitsOverlap(FastdbError):
    """Two units of work of a test that is rolled back would have to be open at the same time."""


class ServerMissing(FastdbError):
    """A database server for tests cannot be started here; the message says what to install."""


class ServerFailed(FastdbError):
    """A server's process did not start, or ended by itself; the message ends with its log."""
