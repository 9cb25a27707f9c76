"""The exceptions that fastdb raises; their tree is told in the package."""


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


class TransactionFailed(FastdbError):
    """A statement of this transaction failed, so its COMMIT was refused and it was rolled back."""


class CommitOutcomeUnknown(FastdbError):
    """The connection was lost while COMMIT was in flight: the rows may be there or not.

    Never retry on this error without checking first; the original error is its `__cause__`.
    """


class WriteLockHeld(FastdbError):
    """A task asked for the SQLite write lock while another of its own sessions holds it."""


class LateWriteWarning(UserWarning):
    """A `yield` dependency in the default scope outlives the session that it depends on."""
