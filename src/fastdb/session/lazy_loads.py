"""Naming what was to be loaded where nobody can wait for it.

SQLAlchemy loads what is missing when it is read: `hero.team`. On an event loop it can do that only
inside of an `await`; elsewhere its drivers refuse, and their message cannot name what was read.
Here it is refused before a connection is touched, and the listener that SQLAlchemy tells of each
statement knows what it is for.
"""

from collections.abc import Callable
from typing import Any, Never

from sqlalchemy import event, inspect
from sqlalchemy.orm import Mapper, ORMExecuteState, RelationshipProperty, Session

from fastdb.errors import LazyLoadRefused


def refuse(session: Session, execute: Callable[[], Any]) -> Any:
    """Call `execute` so far that it is known what it is to load, and refuse that.

    Listeners of the application, such as a cache, may answer before.

    Raises:
        LazyLoadRefused: Nobody else has answered.
    """
    event.listen(session, "do_orm_execute", _refuse)
    try:
        return execute()
    finally:
        event.remove(session, "do_orm_execute", _refuse)


def _refuse(state: ORMExecuteState) -> None:
    if state.is_column_load:
        _refuse_columns(state)
    if state.is_relationship_load:
        _refuse_relationship(state)
    raise LazyLoadRefused(
        f"A statement{_entity(state)} was executed outside of an `await`, where the database"
        " cannot be waited for, by a dynamic relationship or through `session.sync_session`. Use"
        " the async session, with `WriteOnlyMapped` for a relationship; or `await"
        " session.run_sync(…)` for synchronous code."
    )


def _refuse_relationship(state: ORMExecuteState) -> Never:
    path = state.loader_strategy_path
    steps = [] if path is None else path.path
    relationships = [step for step in steps if isinstance(step, RelationshipProperty)]
    names = [f"{step.parent.class_.__name__}.{step.key}" for step in relationships]
    first, last = relationships[0], relationships[-1]
    options = ".".join(f"selectinload({name})" for name in names)
    raise LazyLoadRefused(
        f"{names[-1]} was to be loaded lazily, outside of an `await`, where the database cannot be"
        " waited for. Load it with the query,"
        f" `select({first.parent.class_.__name__}).options({options})`; or before it is read,"
        f" `await session.refresh({last.parent.class_.__name__.lower()}, [{last.key!r}])`."
    )


def _refuse_columns(state: ORMExecuteState) -> Never:
    mapper = state.bind_mapper
    name = "An object" if mapper is None else mapper.class_.__name__
    names = [] if mapper is None else _unloaded_columns(state, mapper)
    what = f"{name}.{names[0]}" if len(names) == 1 else f"{name} ({', '.join(names) or 'columns'})"
    options = ", ".join(f"undefer({name}.{key})" for key in names or ["…"])
    raise LazyLoadRefused(
        f"{what} is deferred or expired and was to be loaded outside of an `await`, where the"
        " database cannot be waited for. Where it is expired, load it before it is read, `await"
        f" session.refresh({name.lower()}, {names or ['…']})`; where it is deferred, with the"
        f" query, `select({name}).options({options})`."
    )


def _unloaded_columns(state: ORMExecuteState, mapper: Mapper[Any]) -> list[str]:
    """Return the attributes that are to be loaded, as far as they can be known."""
    parameters = state.parameters if isinstance(state.parameters, dict) else {}
    key = mapper.identity_key_from_primary_key(tuple(parameters.values()))
    instance = state.session.identity_map.get(key)
    if instance is None:
        return []
    attributes = inspect(instance)
    missing = attributes.expired_attributes or attributes.unloaded
    return [column.key for column in mapper.column_attrs if column.key in missing]


def _entity(state: ORMExecuteState) -> str:
    mapper = state.bind_mapper
    return "" if mapper is None else f" on {mapper.class_.__name__}"
