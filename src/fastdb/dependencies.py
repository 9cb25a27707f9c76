"""The dependencies that FastAPI endpoints take, for the database of the app that is serving.

Each is a coroutine without `yield`, so that it is safe however it is declared: with
`Depends(get_session)`, `Depends(get_session, scope="function")`, `Security(get_session,
scopes=…)`, an alias or `db.get_session`, all of them in one request are one session, which is
committed before the response starts. What has to end is beneath them, in `per_request`.
"""

from typing import Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection

from fastdb.binding import database_of
from fastdb.database import Database
from fastdb.per_request import Sessions, StreamSessions
from fastdb.routes import SessionKind, hands_over
from fastdb.units import end_strays


async def get_database(
    connection: HTTPConnection, _: Annotated[None, Depends(end_strays)]
) -> Database:
    """Hand over the Database of the app that is serving.

    For what outlives the endpoint or repeats inside it, with `async with db.session()`: background
    tasks, the messages of a WebSocket, generators. What a stream has opened is rolled back when
    its client leaves.

    Raises:
        DatabaseNotBound: The app has no Database, or more than one.
    """
    database: Database = database_of(connection)
    return database


@hands_over(SessionKind())
async def get_session(connection: HTTPConnection, sessions: Sessions) -> AsyncSession:
    """Hand over the request's session, one unit of work for the whole request.

    COMMIT when the endpoint has returned and before the response starts; ROLLBACK on any
    exception. No connection is taken before the first statement. On SQLite, a request whose
    method may write takes the write lock with its first statement.

    Raises:
        DatabaseNotBound: The app has no Database, or more than one.
    """
    return sessions.session(database_of(connection))


@hands_over(SessionKind())
async def get_read_session(connection: HTTPConnection, sessions: Sessions) -> AsyncSession:
    """Hand over a session that only reads, in one round trip per statement.

    The database itself refuses writes. Each statement sees what is committed when it runs; on
    SQLite all of them see one snapshot.

    Raises:
        DatabaseNotBound: The app has no Database, or more than one.
    """
    return sessions.read_session(database_of(connection), "read")


@hands_over(SessionKind())
async def get_snapshot_session(connection: HTTPConnection, sessions: Sessions) -> AsyncSession:
    """Hand over a session that only reads, all statements from one consistent view.

    Raises:
        DatabaseNotBound: The app has no Database, or more than one.
    """
    return sessions.read_session(database_of(connection), "snapshot")


@hands_over(SessionKind(outlives_response=True))
async def get_stream_session(connection: HTTPConnection, sessions: StreamSessions) -> AsyncSession:
    """Hand over a snapshot that lives until the response has been sent.

    For streams and server-sent events. It holds a connection for as long as the client listens.

    Raises:
        DatabaseNotBound: The app has no Database, or more than one.
    """
    return sessions.read_session(database_of(connection), "snapshot")


@hands_over(SessionKind(is_async=False))
async def get_sync_session(connection: HTTPConnection, sessions: Sessions) -> Session:
    """Hand over the request's session of the synchronous twin, for `def` endpoints.

    The same rules as for `get_session`; what blocks runs in FastAPI's thread pool.

    Raises:
        DatabaseNotBound: The app has no Database, or more than one.
        MissingDriver: The twin's driver is not installed.
    """
    return sessions.sync_session(database_of(connection))


DatabaseDep = Annotated[Database, Depends(get_database)]
SessionDep = Annotated[AsyncSession, Depends(get_session)]
ReadSessionDep = Annotated[AsyncSession, Depends(get_read_session)]
SnapshotSessionDep = Annotated[AsyncSession, Depends(get_snapshot_session)]
StreamSessionDep = Annotated[AsyncSession, Depends(get_stream_session)]
SyncSessionDep = Annotated[Session, Depends(get_sync_session)]
