"""PostgreSQL: libpq's parameters, for asyncpg, psycopg and psycopg2.

| libpq                   | asyncpg                                                           |
|-------------------------|-------------------------------------------------------------------|
| connect_timeout         | timeout                                                           |
| application_name        | server_settings                                                   |
| options=-c name=value   | server_settings; other switches are refused                       |
| channel_binding         | dropped: "disable", "prefer"; and "require" with verify-full,     |
|                         | which proves the server's identity by itself; else refused        |
| gssencmode              | dropped: "disable", "prefer" (may be plain anyway); else refused  |
| client_encoding         | dropped: UTF-8, which asyncpg always speaks; else refused         |
| load_balance_hosts      | dropped: "disable"; else refused                                  |
| keepalives, tcp_user_…  | dropped: 0; else refused, because fastdb has figures of its own   |
|                         | for asyncpg's sockets, and others were asked for (`sockets.py`)   |

| asyncpg                 | libpq                                                             |
|-------------------------|-------------------------------------------------------------------|
| timeout                 | connect_timeout, rounded up to whole seconds                      |
| ssl                     | sslmode                                                           |
| …_cache_size=0          | psycopg: prepare_threshold=None; psycopg2 prepares nothing        |
| …_cache_size=n          | dropped: the size of a cache changes no result                    |
| command_timeout         | refused: libpq's client has no such limit                         |
"""

import math
import re
from collections.abc import Mapping
from typing import Any, get_args

from sqlalchemy.engine import URL

from fastdb.errors import InvalidURL
from fastdb.options import TLSMode, TLSOptions
from fastdb.urls import values
from fastdb.urls.account import DATABASE, PASSWORD, USER, take_account
from fastdb.urls.hosts import Host, read_hosts
from fastdb.urls.parameters import (
    Give,
    Parameter,
    Query,
    as_argument,
    as_named,
    dropped,
    dropped_if,
    gather,
    translate,
)
from fastdb.urls.spelling import Parts
from fastdb.urls.target import Target

_TLS = ("sslmode", "ssl", "sslrootcert", "sslcert", "sslkey")
_TAKEN_OUT = (*_TLS, *USER, *PASSWORD, *DATABASE, "host", "port")

_NO_PREPARED_STATEMENTS: Mapping[str, Mapping[str, Any]] = {
    # Numbers, not text: asyncpg compares them. SQLAlchemy keeps a cache of its own above asyncpg's.
    "asyncpg": {"statement_cache_size": 0, "prepared_statement_cache_size": 0},
    "psycopg": {"prepare_threshold": None},
    "psycopg2": {},
}


def _for_libpq(give: Give = as_named, asyncpg: Give | None = None) -> dict[str, Give]:
    given = {"psycopg": give, "psycopg2": give}
    return given if asyncpg is None else {**given, "asyncpg": asyncpg}


def _timeout_for_asyncpg(name: str, value: int, driver: str) -> Mapping[str, Any]:
    # libpq: zero and below wait for ever.
    return {"timeout": float(value) if value > 0 else None}


def _timeout_for_libpq(name: str, value: float, driver: str) -> Mapping[str, Any]:
    return {"connect_timeout": math.ceil(value)}


def _application_name(name: str, value: str, driver: str) -> Mapping[str, Any]:
    return {"server_settings": {"application_name": value}}


def _server_settings(name: str, value: str, driver: str) -> Mapping[str, Any]:
    """Read `-c name=value --name=value`, where a backslash keeps a space inside a value."""
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", value)]
    settings: dict[str, str] = {}
    remaining = iter(words)
    for word in remaining:
        assignment = next(remaining, "") if word == "-c" else word[2:]
        setting, equals, text = assignment.partition("=")
        known = word.startswith(("-c", "--"))
        if not (known and equals and re.fullmatch(r"[A-Za-z_][\w.-]*", setting)):
            raise InvalidURL(
                f"URL parameter {name!r} holds a switch that has no equivalent in {driver}, which"
                " takes '-c name=value' and '--name=value' only; remove it, or write"
                " postgresql+psycopg://."
            )
        settings[setting.replace("-", "_")] = text
    return {"server_settings": settings}


def _pgbouncer(name: str, value: bool, driver: str) -> Mapping[str, Any]:
    return _NO_PREPARED_STATEMENTS[driver] if value else {}


def _cache_size_for_psycopg(name: str, value: int, driver: str) -> Mapping[str, Any]:
    return _NO_PREPARED_STATEMENTS[driver] if value == 0 else {}


def _threshold_for_asyncpg(name: str, value: int | None, driver: str) -> Mapping[str, Any]:
    return _NO_PREPARED_STATEMENTS[driver] if value is None else {}


def _threshold(name: str, text: str) -> int | None:
    expected = "a whole number, 0 or more, or None for never"
    if text.lower() == "none":
        return None
    value: int = values.integer(0, expected=expected)(name, text)
    return value


def _encoding(name: str, text: str) -> str:
    spellings = ("utf8", "utf-8", "unicode")
    return "utf8" if text.lower() in spellings else values.string(name, text)


_USE_PSYCOPG = "remove it, or write postgresql+psycopg://"

_CACHE_SIZE = Parameter(
    values.integer(0),
    {"asyncpg": as_named, "psycopg": _cache_size_for_psycopg, "psycopg2": dropped},
)
_CACHE_FIGURE = Parameter(values.integer(0), _for_libpq(dropped, asyncpg=as_named))
_SOCKET_FIGURE = Parameter(
    values.integer(0),
    _for_libpq(asyncpg=dropped_if(0, otherwise=_USE_PSYCOPG)),
)

_PARAMETERS: Mapping[str, Parameter] = {
    "connect_timeout": Parameter(
        values.integer(expected="a whole number of seconds, 0 for no limit"),
        _for_libpq(asyncpg=_timeout_for_asyncpg),
    ),
    "timeout": Parameter(
        values.seconds, _for_libpq(_timeout_for_libpq, asyncpg=as_argument("timeout"))
    ),
    "command_timeout": Parameter(
        values.seconds,
        _for_libpq(
            dropped_if(otherwise="write options=-c%20statement_timeout%3D30s, for the server"),
            asyncpg=as_named,
        ),
    ),
    "application_name": Parameter(values.string, _for_libpq(asyncpg=_application_name)),
    "fallback_application_name": Parameter(values.string, _for_libpq(asyncpg=_application_name)),
    "options": Parameter(values.string, _for_libpq(asyncpg=_server_settings)),
    "target_session_attrs": Parameter(
        values.choice("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
        _for_libpq(asyncpg=as_named),
    ),
    "load_balance_hosts": Parameter(
        values.choice("disable", "random"),
        _for_libpq(asyncpg=dropped_if("disable", otherwise=_USE_PSYCOPG)),
    ),
    "hostaddr": Parameter(values.string, _for_libpq()),
    "passfile": Parameter(values.string, _for_libpq(asyncpg=as_named)),
    # Older versions of asyncpg, which fastdb supports, know none of these three.
    "service": Parameter(values.string, _for_libpq()),
    "krbsrvname": Parameter(values.string, _for_libpq()),
    "gsslib": Parameter(values.choice("gssapi", "sspi"), _for_libpq()),
    "gssencmode": Parameter(
        values.choice("disable", "prefer", "require"),
        _for_libpq(asyncpg=dropped_if("disable", "prefer", otherwise=_USE_PSYCOPG)),
    ),
    "channel_binding": Parameter(
        values.choice("disable", "prefer", "require"),
        _for_libpq(
            asyncpg=dropped_if(
                "disable",
                "prefer",
                otherwise="write sslmode=verify-full, which proves the server's identity as well,"
                " or postgresql+psycopg://",
            )
        ),
    ),
    "require_auth": Parameter(values.string, _for_libpq()),
    "requirepeer": Parameter(values.string, _for_libpq()),
    "client_encoding": Parameter(
        _encoding, _for_libpq(asyncpg=dropped_if("utf8", "auto", otherwise=_USE_PSYCOPG))
    ),
    "keepalives": _SOCKET_FIGURE,
    "keepalives_idle": _SOCKET_FIGURE,
    "keepalives_interval": _SOCKET_FIGURE,
    "keepalives_count": _SOCKET_FIGURE,
    "tcp_user_timeout": _SOCKET_FIGURE,
    "statement_cache_size": _CACHE_SIZE,
    "prepared_statement_cache_size": _CACHE_SIZE,
    "max_cached_statement_lifetime": _CACHE_FIGURE,
    "max_cacheable_statement_size": _CACHE_FIGURE,
    # Prisma's word, which providers put into the URLs of their poolers.
    "pgbouncer": Parameter(values.boolean, _for_libpq(_pgbouncer, asyncpg=_pgbouncer)),
    "prepare_threshold": Parameter(
        _threshold,
        {"psycopg": as_named, "psycopg2": dropped, "asyncpg": _threshold_for_asyncpg},
    ),
    # Only what is the case anyway: TLSOptions has no word for the rest.
    "sslnegotiation": Parameter(
        values.mapped({"postgres": None}), _for_libpq(dropped, asyncpg=dropped)
    ),
    "sslcompression": Parameter(values.mapped({"0": None}), _for_libpq(dropped, asyncpg=dropped)),
    "sslsni": Parameter(values.mapped({"1": None}), _for_libpq(dropped, asyncpg=dropped)),
}

_TLS_REMEDY = "build an ssl.SSLContext and pass connect_args={'ssl': …} (asyncpg), or remove it"
_POOL_REMEDY = "the pool is set by pool=PoolOptions(…)"
_REFUSED: Mapping[str, str] = {
    "sslpassword": "it is a secret, and TLSOptions has no place for it; store the key without a"
    " passphrase, readable by the application only",
    "sslcrl": f"TLSOptions has no revocation lists; {_TLS_REMEDY}",
    "sslcrldir": f"TLSOptions has no revocation lists; {_TLS_REMEDY}",
    "ssl_min_protocol_version": f"TLSOptions leaves the version to OpenSSL; {_TLS_REMEDY}",
    "ssl_max_protocol_version": f"TLSOptions leaves the version to OpenSSL; {_TLS_REMEDY}",
    "autocommit": "fastdb begins and ends the transactions itself; remove it",
    "isolation_level": "write Database(…, isolation=…) or db.session(isolation=…) instead",
    "server_settings": "write options=-c%20name%3Dvalue instead",
    "connection_limit": f"{_POOL_REMEDY}; write PoolOptions(size=…, max_overflow=…) instead",
    "pool_size": f"{_POOL_REMEDY}; write PoolOptions(size=…) instead",
    "max_overflow": f"{_POOL_REMEDY}; write PoolOptions(max_overflow=…) instead",
    "pool_timeout": "write timeouts=Timeouts(pool=…) instead",
    "schema": "write options=-csearch_path%3Dname instead",
    "currentSchema": "write options=-csearch_path%3Dname instead",
    "search_path": "write options=-csearch_path%3Dname instead",
}


def make_target(parts: Parts, driver: str) -> Target:
    """Translate the parts of a PostgreSQL URL for one of its drivers."""
    query = gather("postgresql", parts.query, aliases={})
    account = take_account(parts, query)
    hosts = read_hosts(parts.hosts, query)
    tls = _read_tls(query)
    pooler = any(values.boolean("pgbouncer", text) for text in query.left.get("pgbouncer", ()))
    _settle(query, driver, tls)
    arguments = translate(
        query, driver, known=_PARAMETERS, refused=_REFUSED, other_names=_TAKEN_OUT
    )
    # A URL object holds one network host; a socket's directory would be written as a path.
    in_url = hosts[0] if len(hosts) == 1 and not hosts[0].is_socket else Host("")
    if hosts and not in_url.name:
        arguments.update(_host_arguments(hosts, driver))
    return Target(
        backend="postgresql",
        driver=driver,
        url=URL.create(
            f"postgresql+{driver}",
            username=account.username,
            password=account.password,
            host=in_url.name or None,
            port=in_url.port if in_url.name else None,
            database=account.database,
        ),
        connect_args=arguments,
        tls=tls,
        transaction_pooler=pooler,
    )


def _settle(query: Query, driver: str, tls: TLSOptions | None) -> None:
    """Take out what other parameters make needless for asyncpg."""
    if driver != "asyncpg":
        return
    if "application_name" in query.left:
        query.take("fallback_application_name")
    # Channel binding proves that no one sits between; a verified certificate does so too.
    if (
        tls is not None
        and tls.mode == "verify-full"
        and query.left.get("channel_binding") == ["require"]
    ):
        query.take("channel_binding")


def _host_arguments(hosts: tuple[Host, ...], driver: str) -> dict[str, Any]:
    names = [host.name for host in hosts]
    ports = [host.port or 5432 for host in hosts]
    if len(hosts) == 1:
        # Nothing is said of a port where the URL is silent: PGPORT may.
        port = {} if hosts[0].port is None else {"port": ports[0]}
        return {**({"host": names[0]} if names[0] else {}), **port}
    if driver == "asyncpg":
        return {"host": names, "port": ports}
    return {"host": ",".join(names), "port": ",".join(map(str, ports))}


def _read_tls(query: Query) -> TLSOptions | None:
    ca_file = query.read("sslrootcert", values.string)
    cert_file = query.read("sslcert", values.string)
    key_file = query.read("sslkey", values.string)
    mode = _read_mode(query, ca_file, cert_file)
    if key_file and not cert_file:
        raise InvalidURL(
            "URL parameter 'sslkey' is given without 'sslcert'; a client key needs its certificate."
        )
    if mode is None:
        return None
    return TLSOptions(
        mode=mode,
        ca_file=None if ca_file == "system" else ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )


def _read_mode(query: Query, ca_file: str | None, cert_file: str | None) -> TLSMode | None:
    given = query.take_one_of("sslmode", "ssl")
    if given is None:
        # Who names an authority wants it to be asked. libpq would go on in plain text here.
        return "verify-full" if ca_file else "require" if cert_file else None
    mode: TLSMode = (_SSL if given[0] == "ssl" else _SSLMODE)(*given)
    if ca_file == "system" and mode != "verify-full":
        # As libpq: an authority that serves everyone proves nothing without the host's name.
        raise InvalidURL(
            f"URL parameter sslrootcert=system needs sslmode=verify-full, not {mode!r}: anyone can"
            " have a certificate of a public authority, for another host."
        )
    if ca_file and mode == "require":
        # libpq: "If a root CA file exists, the behavior of sslmode=require will be the same as
        # that of verify-ca" (https://www.postgresql.org/docs/current/libpq-ssl.html).
        return "verify-ca"
    return mode


# "allow" is plain text first, encrypted where the server insists; "prefer" gives what both allow.
_MODES: Mapping[str, TLSMode] = {"allow": "prefer", **{mode: mode for mode in get_args(TLSMode)}}
_SSLMODE = values.mapped(_MODES)
# asyncpg's ssl=True verifies the certificate and the host's name.
_SSL = values.mapped({**_MODES, "true": "verify-full", "false": "disable"})
