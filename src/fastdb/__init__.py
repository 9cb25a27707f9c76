"""Database sessions for FastAPI on SQLAlchemy: SQLite, PostgreSQL and MySQL/MariaDB.

db = Database("sqlite:///app.db")
app = FastAPI(lifespan=db.lifespan)

@app.post("/heroes", status_code=201)
async def create_hero(hero: HeroIn, session: SessionDep): ...
"""

from fastdb.database import Database
from fastdb.dependencies import (
    DatabaseDep,
    ReadSessionDep,
    SessionDep,
    SnapshotSessionDep,
    StreamSessionDep,
    SyncSessionDep,
    get_database,
    get_read_session,
    get_session,
    get_snapshot_session,
    get_stream_session,
    get_sync_session,
)
from fastdb.engines import create_async_engine, create_sync_engine
from fastdb.errors import (
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
    PoolExhausted,
    SessionEnded,
    SessionInUse,
    TLSNotEstablished,
    TransactionFailed,
    WriteLockHeld,
    WrongEventLoop,
)
from fastdb.handlers import install_error_handlers
from fastdb.options import PoolOptions, SQLiteOptions, Timeouts, TLSOptions
from fastdb.session import atomic, on_commit
from fastdb.sync import SyncDatabase

__version__ = "0.1.0"

__all__ = [
    "CommitOutcomeUnknown",
    "ConfigurationError",
    "ConnectionRefused",
    "Database",
    "DatabaseClosed",
    "DatabaseDep",
    "DatabaseNotBound",
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
    "PoolExhausted",
    "PoolOptions",
    "ReadSessionDep",
    "SQLiteOptions",
    "SessionDep",
    "SessionEnded",
    "SessionInUse",
    "SnapshotSessionDep",
    "StreamSessionDep",
    "SyncDatabase",
    "SyncSessionDep",
    "TLSNotEstablished",
    "TLSOptions",
    "Timeouts",
    "TransactionFailed",
    "WriteLockHeld",
    "WrongEventLoop",
    "__version__",
    "atomic",
    "create_async_engine",
    "create_sync_engine",
    "get_database",
    "get_read_session",
    "get_session",
    "get_snapshot_session",
    "get_stream_session",
    "get_sync_session",
    "install_error_handlers",
    "on_commit",
]
