"""Read an app's routes at start-up, for sessions used in a way that silently loses data."""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi.dependencies.models import Dependant

from fastdb.errors import InvalidRoute, LateWriteWarning
from fastdb.route_names import routes_of

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__fastdb_session__"


@dataclass(frozen=True, slots=True)
class SessionKind:
    """What a dependency hands over, as far as it decides where it may be used."""

    is_async: bool = True
    outlives_response: bool = False


def hands_over(kind: SessionKind) -> Callable[[F], F]:
    """Mark a dependency as one that hands over a session of `kind`."""

    def mark(dependency: F) -> F:
        setattr(dependency, _MARK, kind)
        return dependency

    return mark


def mounted_apps(app: Any) -> Iterator[Any]:
    """Yield the applications mounted in `app`, at any depth, each once."""
    return (mounted for mounted in _mounted(app) if hasattr(mounted, "state"))


def _mounted(app: Any) -> Iterator[Any]:
    """Yield all that is mounted in `app` and has routes: apps, and routers without an app."""
    seen = {id(app)}
    waiting = list(routes_of(app))
    while waiting:
        route = waiting.pop()
        mounted = getattr(getattr(route, "original_route", route), "app", None)
        if mounted is None or not hasattr(mounted, "routes") or id(mounted) in seen:
            continue
        seen.add(id(mounted))
        waiting.extend(routes_of(mounted))
        yield mounted


def check_routes(app: Any) -> None:
    """Refuse the routes of `app`, and of what is mounted in it, that would lose data.

    Raises:
        InvalidRoute: A `def` endpoint takes an async session, or a generator endpoint takes a
            session that ends before its body runs.

    Warns:
        LateWriteWarning: A `yield` dependency in the default scope depends on a session.
    """
    warned: set[Any] = set()
    for one in (app, *_mounted(app)):
        for route in routes_of(one):
            dependant = getattr(route, "dependant", None)
            if isinstance(dependant, Dependant):
                _check_endpoint(route, dependant)
                _warn_of_late_writes(dependant, warned)


def _check_endpoint(route: Any, dependant: Dependant) -> None:
    endpoint = _function(dependant.call)
    is_generator = inspect.isgeneratorfunction(endpoint) or inspect.isasyncgenfunction(endpoint)
    is_async = inspect.iscoroutinefunction(endpoint) or inspect.isasyncgenfunction(endpoint)
    for parameter in dependant.dependencies:
        kind = _kind(parameter)
        if kind is None or parameter.name is None:
            continue
        where = f"{_title(route)}: the parameter {parameter.name!r} of {_name(dependant.call)}()"
        if kind.is_async and not is_async:
            raise InvalidRoute(
                f"{where} is an async session, and the endpoint is a `def`: it cannot await, so"
                " nothing would be read or written. Write `async def`, or take SyncSessionDep."
            )
        if is_generator and not kind.outlives_response:
            raise InvalidRoute(
                f"{where} is a session that ends before the response starts, and the endpoint is"
                " a generator, whose body runs after that. Take StreamSessionDep to read, or"
                " DatabaseDep to open `async with db.session() as session:` in the body."
            )


def _warn_of_late_writes(dependant: Dependant, warned: set[Any]) -> None:
    for dependency in dependant.dependencies:
        call = dependency.call
        function = _function(call)
        if (
            call not in warned
            and dependency.scope != "function"
            and (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function))
            and any(_session_below(dependency))
        ):
            warned.add(call)
            name = _name(call)
            warnings.warn(
                f"The dependency {name}() has a `yield` and depends on a session, which ends"
                " before the response is sent, while what follows the `yield` runs after that: a"
                f' write there fails. Declare it with `Depends({name}, scope="function")`.',
                LateWriteWarning,
                stacklevel=2,
            )
        _warn_of_late_writes(dependency, warned)


def _session_below(dependant: Dependant) -> Iterator[bool]:
    for dependency in dependant.dependencies:
        kind = _kind(dependency)
        if kind is None:
            yield from _session_below(dependency)
        elif not kind.outlives_response:
            yield True


def _kind(dependant: Dependant) -> SessionKind | None:
    kind = getattr(dependant.call, _MARK, None)
    return kind if isinstance(kind, SessionKind) else None


def _function(call: Any) -> Any:
    """Return the function behind decorators, partials and callable objects."""
    while isinstance(call, functools.partial):
        call = call.func
    call = inspect.unwrap(call)
    return call if inspect.isroutine(call) or inspect.isclass(call) else type(call).__call__


def _name(call: Any) -> str:
    while isinstance(call, functools.partial):
        call = call.func
    return getattr(call, "__name__", type(call).__name__)


def _title(route: Any) -> str:
    methods = ",".join(sorted(getattr(route, "methods", None) or ()))
    return f"{methods} {route.path}".strip()
