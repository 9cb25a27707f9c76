"""The blocks of `session.begin()`, `begin_nested()` and `atomic()`, for one task at a time."""

import asyncio
from functools import partial
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from fastdb.errors import SessionInUse
from fastdb.greenlets import in_greenlet
from fastdb.session.inner import InnerSession


class UnitTransaction(AsyncSessionTransaction):
    """A transaction or savepoint that is ended only while no other task uses the session."""

    __slots__ = ("_task",)

    async def start(self, is_ctxmanager: bool = False) -> AsyncSessionTransaction:
        """Begin; as SQLAlchemy's."""
        self._task = asyncio.current_task()
        return await super().start(is_ctxmanager)

    async def commit(self) -> None:
        """COMMIT, or release the savepoint."""
        if self.sync_transaction is None:
            await super().commit()  # raises
        elif self.nested:
            await in_greenlet(self._unit.alone, "commit", self.sync_transaction.commit)
        else:
            await self._session.commit_block(self.sync_transaction.commit)

    async def rollback(self) -> None:
        """Roll back, to the savepoint if it is one."""
        if self.sync_transaction is None:
            await super().rollback()  # raises
        else:
            await in_greenlet(self._unit.alone, "rollback", self.sync_transaction.rollback)

    async def __aexit__(self, type_: Any, value: Any, traceback: Any) -> None:
        if self.sync_transaction is None:
            await super().__aexit__(type_, value, traceback)
            return
        leave, call = self.sync_transaction.__exit__, self._call
        try:
            refuse_around_anothers(self.session, call, self)
            if type_ is None and not self.nested:
                await self._session.commit_block(partial(leave, None, None, None))
            else:
                await in_greenlet(self._unit.alone, call, leave, type_, value, traceback)
        except SessionInUse:
            # What the block has raised is what the caller must see. Nothing will be committed.
            if type_ is None:
                raise

    @property
    def _session(self) -> Any:
        return self.session  # an AsyncUnitSession, which imports this module

    @property
    def _unit(self) -> InnerSession:
        return cast("InnerSession", self.session.sync_session)  # it makes no other

    @property
    def _call(self) -> str:
        return "begin_nested" if self.nested else "begin"

    def is_of_another_task(self) -> bool:
        """Return whether another task is still in the block."""
        task = self._task
        return task is not None and task is not asyncio.current_task() and not task.done()

    def refuse(self, call: str) -> None:
        """Refuse `call`, which would end this block of another task.

        Raises:
            SessionInUse: Always.
        """
        self._unit.one_task.refuse(call, cast("asyncio.Task[Any]", self._task), self._call)


def refuse_around_anothers(
    session: AsyncSession, call: str, ours: AsyncSessionTransaction | None = None
) -> None:
    """Refuse `call` if a block of another task is open, which would end with it.

    Args:
        session: The session.
        call: What was called.
        ours: The block that is being left.

    Raises:
        SessionInUse: Another task is in a block of `atomic()` or `begin_nested()`.
    """
    innermost = session.get_nested_transaction()
    if innermost is ours or not isinstance(innermost, UnitTransaction):
        return
    if innermost.is_of_another_task():
        innermost.refuse(call)
