"""What users write inside a unit of work: a part that is all or nothing, a step for afterwards."""

from typing import overload

from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction
from sqlalchemy.orm import Session, SessionTransaction

from fastdb.errors import ConfigurationError
from fastdb.session.capture import Callback
from fastdb.session.unit import UnitSession


@overload
def atomic(session: AsyncSession) -> AsyncSessionTransaction: ...
@overload
def atomic(session: Session) -> SessionTransaction: ...
def atomic(session: AsyncSession | Session) -> AsyncSessionTransaction | SessionTransaction:
    """Return a block that is all or nothing: `async with atomic(session): …`.

    What is written inside is undone when the block raises; what came before it stays. In a
    fastdb session it is always a savepoint, so that an error after the block still undoes it.
    Elsewhere it is the transaction itself where none has begun.

    Args:
        session: An `AsyncSession`, for `async with`; or a `Session`, for `with`.
    """
    unit = session.sync_session if isinstance(session, AsyncSession) else session
    if isinstance(unit, UnitSession) or session.in_transaction():
        return session.begin_nested()
    return session.begin()


def on_commit(session: AsyncSession | Session, callback: Callback) -> None:
    """Call `callback()` once the transaction that is open now has been committed.

    It runs after COMMIT has succeeded and the connection and every lock are released, and is
    awaited if it returns an awaitable (in an async session). It is dropped when the transaction,
    or the savepoint it was registered in, is rolled back. All callbacks run even if one fails;
    a failure is logged and never undoes the answer.

    Args:
        session: A session made by fastdb.
        callback: Called without arguments.

    Raises:
        ConfigurationError: The session was not made by fastdb, or it only reads.
        SessionEnded: The session's unit of work is over.
    """
    unit = session.sync_session if isinstance(session, AsyncSession) else session
    if not isinstance(unit, UnitSession):
        raise ConfigurationError(
            f"on_commit() needs a session made by fastdb, not {type(session).__name__}: open it"
            " with db.session() or take SessionDep."
        )
    unit.refuse_if_ended()
    if unit.reads_only:
        raise ConfigurationError(
            "on_commit() in a read session: nothing is ever committed there, so the callback"
            " would never run. Use db.session() or SessionDep."
        )
    if not unit.in_transaction():
        unit.begin()
    unit.callbacks.add(callback, unit.get_nested_transaction() or unit.get_transaction())
