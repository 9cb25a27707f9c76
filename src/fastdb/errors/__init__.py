"""What can go wrong, by name.

FastdbError
├── ConfigurationError            what was asked for cannot work, whatever the database answers
│   ├── InvalidURL                the database URL, or one of its parameters
│   ├── MissingDriver             no installed driver fits (also an ImportError)
│   └── InvalidRoute              a route that would silently lose data (start-up)
├── ConnectionRefused             a new connection does not have what was asked for
│   ├── TLSNotEstablished         TLS was asked for, the connection is in plain text
│   └── ForeignKeysNotEnforced    SQLite did not turn foreign keys on
├── DatabaseNotBound              no Database belongs to the app that is serving
├── DatabaseClosed                the Database was closed, or is not open in this event loop
├── SessionEnded                  a session was used after its unit of work
├── SessionInUse                  two tasks used one session at the same time
├── LazyLoadRefused               a lazy load outside of an `await` (also a MissingGreenlet)
├── EventLoopBlocked              the synchronous twin on the thread of an event loop
├── TransactionFailed             an error was caught, and COMMIT attempted all the same
├── PoolExhausted                 no connection of the pool was free in time (SQLAlchemy's too)
├── WrongEventLoop                an engine was used in another event loop than before
├── CommitOutcomeUnknown          the connection was lost while COMMIT was in flight
├── WriteLockHeld                 a task waits for the SQLite write lock that it holds itself
├── MigrationFailed               a revision of Alembic's failed, here or in another worker
├── MigrationLocked               another worker migrates, for longer than was waited
├── NotAtHead                     the database is not at the revision that the code is written for
├── NotUndone                     what a test did cannot be rolled back (`fastdb.testing`)
├── UnitsOverlap                  two units of work of one test wait for each other (there)
├── ServerMissing                 no server is installed that tests could start (there)
└── ServerFailed                  a server's process did not start, or ended by itself (there)

LateWriteWarning (a UserWarning)  a `yield` dependency may write after its session has ended

SQLAlchemy's own exceptions pass through fastdb unwrapped: `classify` tells what they mean, for
every driver. Messages never hold a password.
"""

from fastdb.errors.classification import classify, constraint_name
from fastdb.errors.exceptions import (
    CommitOutcomeUnknown,
    ConfigurationError,
    ConnectionRefused,
    DatabaseClosed,
    DatabaseNotBound,
    EventLoopBlocked,
    FastdbError,
    ForeignKeysNotEnforced,
    InvalidRoute,
    InvalidURL,
    LateWriteWarning,
    LazyLoadRefused,
    MigrationFailed,
    MigrationLocked,
    MissingDriver,
    NotAtHead,
    NotUndone,
    PoolExhausted,
    ServerFailed,
    ServerMissing,
    SessionEnded,
    SessionInUse,
    TLSNotEstablished,
    TransactionFailed,
    UnitsOverlap,
    WriteLockHeld,
    WrongEventLoop,
)
from fastdb.errors.kinds import ErrorKind

__all__ = [
    "CommitOutcomeUnknown",
    "ConfigurationError",
    "ConnectionRefused",
    "DatabaseClosed",
    "DatabaseNotBound",
    "ErrorKind",
    "EventLoopBlocked",
    "FastdbError",
    "ForeignKeysNotEnforced",
    "InvalidRoute",
    "InvalidURL",
    "LateWriteWarning",
    "LazyLoadRefused",
    "MigrationFailed",
    "MigrationLocked",
    "MissingDriver",
    "NotAtHead",
    "NotUndone",
    "PoolExhausted",
    "ServerFailed",
    "ServerMissing",
    "SessionEnded",
    "SessionInUse",
    "TLSNotEstablished",
    "TransactionFailed",
    "UnitsOverlap",
    "WriteLockHeld",
    "WrongEventLoop",
    "classify",
    "constraint_name",
]
