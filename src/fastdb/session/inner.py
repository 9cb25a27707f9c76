"""What fastdb adds to the `Session` inside of an async session: one task at a time, and no I/O
outside of an `await`.
"""

import inspect
import logging
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from greenlet import getcurrent
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from fastdb.errors import SessionInUse
from fastdb.greenlets import may_wait
from fastdb.guards import incomplete
from fastdb.session.lazy_loads import refuse
from fastdb.session.one_task import OneTask
from fastdb.session.unit import UnitSession, raise_if_unknown, unit_session_class

logger = logging.getLogger("fastdb.session")

P = ParamSpec("P")
T = TypeVar("T")


class InnerSession(UnitSession):
    """A session that one task at a time uses, through the async session around it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.one_task = OneTask()
        super().__init__(*args, **kwargs)

    @property
    def has_nothing_to_commit(self) -> bool:
        """Whether COMMIT would have nothing to do, nor anything to refuse."""
        one_task = self.one_task
        return not (self.in_transaction() or one_task.is_inside or one_task.refused)

    def alone(self, call: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` while no other task is inside; `call` is its name in messages.

        Raises:
            SessionInUse: Another task is inside.
        """
        with self.one_task(call):
            return function(*args, **kwargs)

    def end_quietly(self) -> None:
        """End, and only log what fails: for one whose own answer is on its way."""
        try:
            self.end()
        except Exception:
            logger.warning("A session could not be rolled back cleanly", exc_info=True)

    def note_rolled_back(self, ended: SessionTransaction) -> None:
        """Also forget that a call was refused: everything begins anew."""
        super().note_rolled_back(ended)
        if ended.parent is None:
            self.one_task.refused = None

    def refuse_incomplete(self) -> None:
        """Raise TransactionFailed before COMMIT if a call was refused: what it does is missing."""
        refused = self._refused_write()
        # SQLAlchemy tells of savepoints that are released as well.
        if refused is not None and self.get_nested_transaction() is None:
            raise incomplete(refused) from refused

    # What may wait for the database. The names are those that messages show.

    def begin(self, nested: bool = False) -> SessionTransaction:
        """Begin, while no other task is inside."""
        with self.one_task("begin_nested" if nested else "begin"):
            return super().begin(nested=nested)

    def close(self) -> None:
        """Close, while no other task is inside."""
        with self.one_task("close"):
            super().close()

    def commit_only(self) -> None:
        """COMMIT, while no other task is inside."""
        with self.one_task("commit"):
            refused = self._refused_write()
            if refused is not None:
                super().rollback()
                raise incomplete(refused) from refused
            super().commit_only()

    def commit_block(self, commit: Callable[[], None]) -> None:
        """Call `commit`, which ends the transaction of a block with COMMIT.

        Raises:
            CommitOutcomeUnknown: The connection was lost meanwhile.
            TransactionFailed: A call was refused.
        """
        with self.one_task("commit"):
            self.flush()  # by itself first: what fails after this, failed in COMMIT
            refused = self._refused_write()
            if refused is not None:
                raise incomplete(refused) from refused
            try:
                commit()
            except BaseException as error:
                raise_if_unknown(error)
                raise

    def _refused_write(self) -> SessionInUse | None:
        """Return the call that was refused, where something may be missing for it."""
        return None if self.reads_only else self.one_task.refused

    def connection(self, *args: Any, **kwargs: Any) -> Any:
        """Return the connection, taken while no other task is inside."""
        with self.one_task("connection"):
            return super().connection(*args, **kwargs)

    def delete(self, instance: object) -> None:
        """Delete an object and what depends on it, while no other task is inside."""
        with self.one_task("delete"):
            super().delete(instance)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Execute, while no other task is inside, where the database can be waited for."""
        if not may_wait():
            self.refuse_if_ended()
            return refuse(self, lambda: super(InnerSession, self).execute(*args, **kwargs))
        if self.one_task.greenlet is getcurrent():  # nearly always: `get` is inside already
            return super().execute(*args, **kwargs)
        with self.one_task("execute"):
            return super().execute(*args, **kwargs)

    def flush(self, *args: Any, **kwargs: Any) -> None:
        """Write what is pending, while no other task is inside."""
        if self.one_task.greenlet is getcurrent():  # before a query, and before COMMIT
            super().flush(*args, **kwargs)
            return
        with self.one_task("flush"):
            super().flush(*args, **kwargs)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Return an object by its key, while no other task is inside."""
        with self.one_task("get"):
            return super().get(*args, **kwargs)

    def invalidate(self) -> None:
        """Close with all connections, while no other task is inside."""
        with self.one_task("invalidate"):
            super().invalidate()

    def merge(self, instance: Any, *args: Any, **kwargs: Any) -> Any:
        """Merge an object, while no other task is inside."""
        with self.one_task("merge"):
            return super().merge(instance, *args, **kwargs)

    def refresh(self, instance: object, *args: Any, **kwargs: Any) -> None:
        """Load an object again, while no other task is inside."""
        with self.one_task("refresh"):
            super().refresh(instance, *args, **kwargs)

    def reset(self) -> None:
        """Close, for use again, while no other task is inside."""
        with self.one_task("reset"):
            super().reset()

    def rollback(self) -> None:
        """Roll back, while no other task is inside, and begin anew."""
        with self.one_task("rollback"):
            super().rollback()
            self.one_task.refused = None  # also where nothing was open, after a COMMIT

    def scalar(self, *args: Any, **kwargs: Any) -> Any:
        """Execute and return a value, as `execute`."""
        if not may_wait():
            self.refuse_if_ended()
            return refuse(self, lambda: super(InnerSession, self).scalar(*args, **kwargs))
        with self.one_task("scalar"):
            return super().scalar(*args, **kwargs)

    def scalars(self, *args: Any, **kwargs: Any) -> Any:
        """Execute and return values, as `execute`."""
        if not may_wait():
            self.refuse_if_ended()
            return refuse(self, lambda: super(InnerSession, self).scalars(*args, **kwargs))
        with self.one_task("scalars"):
            return super().scalars(*args, **kwargs)


def inner_session_class(session_class: type[Session]) -> type[InnerSession]:
    """Return `session_class` with what a session inside of an async one needs added in front."""
    made = unit_session_class(session_class, InnerSession)
    for name, method in _methods_of_its_own(session_class):
        setattr(made, name, _guarded(name, method))
    event.listen(made, "before_commit", InnerSession.refuse_incomplete)
    return made


def _methods_of_its_own(session_class: type[Session]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the methods that SQLAlchemy's has not, as SQLModel's `exec`.

    They call `super().execute()`, which is SQLAlchemy's then, not the one above.
    """
    for name, method in inspect.getmembers(session_class, inspect.isfunction):
        if not name.startswith("_") and not hasattr(Session, name):
            yield name, method


def _guarded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
        return method  # it runs when it has been returned

    @wraps(method)
    def guarded(self: InnerSession, /, *args: Any, **kwargs: Any) -> Any:
        with self.one_task(name):
            return method(self, *args, **kwargs)

    return guarded
