"""SQLite: the parameters of Python's sqlite3 and those of SQLite's own file: URIs.

Arguments of sqlite3 go into `connect_args`. With `uri=true` the others stay in the URL, because
SQLAlchemy's dialect makes the file name from them: sqlite:///file:app.db?mode=ro&uri=true.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import URL

from fastdb.errors import InvalidURL
from fastdb.urls import values
from fastdb.urls.parameters import Give, Parameter, Query, as_named, gather, translate
from fastdb.urls.spelling import Parts
from fastdb.urls.target import Target

_BOTH: dict[str, Give] = {"aiosqlite": as_named, "pysqlite": as_named}
_PARAMETERS: Mapping[str, Parameter] = {
    "timeout": Parameter(values.seconds, _BOTH),
    "detect_types": Parameter(values.integer(0), _BOTH),
    "cached_statements": Parameter(values.integer(0), _BOTH),
    "check_same_thread": Parameter(values.boolean, _BOTH),
}

# https://www.sqlite.org/uri.html
_URI_PARAMETERS: Mapping[str, values.Reader] = {
    "mode": values.choice("ro", "rw", "rwc", "memory"),
    "cache": values.choice("shared", "private"),
    "immutable": values.boolean,
    "nolock": values.boolean,
    "psow": values.boolean,
    "vfs": values.string,
    "modeof": values.string,
}

_PRAGMA = "write sqlite=SQLiteOptions({}=…) instead"
_REFUSED: Mapping[str, str] = {
    "isolation_level": "fastdb begins transactions itself, which sqlite3's own BEGIN would disturb;"
    " remove it, and choose when the write lock is taken by sqlite=SQLiteOptions(begin=…)",
    "autocommit": "fastdb begins and ends the transactions itself; remove it",
    "foreign_keys": _PRAGMA.format("foreign_keys"),
    "journal_mode": _PRAGMA.format("journal_mode"),
    "synchronous": _PRAGMA.format("synchronous"),
    "busy_timeout": "write timeouts=Timeouts(lock=…) instead, in seconds",
}


def make_target(parts: Parts, driver: str) -> Target:
    """Translate the parts of an SQLite URL for one of its drivers."""
    if parts.hosts or parts.username is not None or parts.password is not None:
        scheme = parts.scheme
        raise InvalidURL(
            f"The database URL begins with '{scheme}://' and then names a host or a user, but"
            f" SQLite has none; write {scheme}:///dir/app.db for a path from the working directory"
            f" (three slashes), {scheme}:////dir/app.db for one from the root (four), or"
            f" {scheme}:// for a database in memory."
        )
    query = gather("sqlite", parts.query, aliases={})
    uri = _read_uri(parts.database, query)
    arguments = translate(
        query,
        driver,
        known=_PARAMETERS,
        refused=_REFUSED,
        other_names=("uri", *_URI_PARAMETERS),
    )
    in_memory = _is_in_memory(parts.database, uri)
    database = parts.database if uri or not in_memory else None
    return Target(
        backend="sqlite",
        driver=driver,
        url=URL.create(f"sqlite+{driver}", database=database, query=uri),
        connect_args=arguments,
        in_memory=in_memory,
    )


def _read_uri(database: str | None, query: Query) -> dict[str, str]:
    """Take out the parameters of a file: URI, and check that the URL really is one."""
    is_uri: Any = query.read("uri", values.boolean)
    given: dict[str, str] = {}
    for name, reader in _URI_PARAMETERS.items():
        text = query.take(name)
        if text is not None:
            reader(name, text)
            given[name] = text
    if is_uri and (database or "").startswith("file:"):
        return {**given, "uri": "true"}
    if is_uri or given or (database or "").startswith("file:"):
        what = ", ".join(repr(name) for name in given) or "a file: URI"
        raise InvalidURL(
            f"SQLite obeys {what} only where the path begins with 'file:' and 'uri=true' is given;"
            " write for example sqlite:///file:app.db?mode=ro&uri=true."
        )
    return {}


def _is_in_memory(database: str | None, uri: Mapping[str, str]) -> bool:
    if not uri:
        return database in (None, "", ":memory:")
    return database == "file::memory:" or uri.get("mode") == "memory" or uri.get("vfs") == "memdb"
