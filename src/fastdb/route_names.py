"""The path of a request as its route declares it: `/users/{user_id}`, for logs and messages.

It holds no values, so that what happens on one route can be counted, and nobody's data ends up in a
log. Two paths are as they were asked for: that of a request without a route of FastAPI's, and the
one that an app is mounted at, where that has parameters.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import fastapi.routing

_Templates = dict[int, list[tuple[Any, str]]]

# Routes are not hashable; an app keeps all of its own, so that their identities last.
_templates: WeakKeyDictionary[Any, _Templates] = WeakKeyDictionary()


def routes_of(app: Any) -> Iterator[Any]:
    """Yield the routes of `app`, those of included routers too, with their `dependant`s."""
    routes = getattr(app, "routes", ())
    # FastAPI used to copy an included router's routes; newer ones keep them in a tree.
    contexts = getattr(fastapi.routing, "iter_route_contexts", None)
    return iter(routes) if contexts is None else contexts(routes)


def route_path(scope: Mapping[str, Any]) -> str:
    """Return the declared path of the request with this ASGI `scope`, or else the one it asked for.

    With the prefixes of the routers it is included in, and of the app that it is mounted in.
    """
    route = scope.get("route")
    root, path = str(scope.get("root_path", "")), str(scope.get("path", ""))
    if route is None:
        return path
    mounted_at = root.removeprefix(str(scope.get("app_root_path", root)))
    inside = path.removeprefix(root)
    for pattern, template in _templates_of(scope.get("app"), route):
        if pattern.match(inside):
            return mounted_at + template
    return mounted_at + str(route.path)


def _templates_of(app: Any, route: Any) -> list[tuple[Any, str]]:
    if app is None:
        return []
    known = _templates.get(app)
    if known is None or id(route) not in known:
        known = _templates[app] = {}
        for each in routes_of(app):
            pattern = getattr(each, "path_regex", None)
            if pattern is not None:
                original = getattr(each, "original_route", each)
                known.setdefault(id(original), []).append((pattern, each.path))
    return known.get(id(route), [])
