"""MySQL and MariaDB: the parameters of their clients, for aiomysql, asyncmy and PyMySQL.

What `mysql` and the drivers call by different names is one parameter here: `ssl-mode` and
`ssl_mode`, `socket` and `unix_socket`. Parameters that only some drivers have, such as
`read_timeout`, are refused on the others: a limit that silently does not hold is worse than none.
"""

import json
from collections.abc import Mapping
from typing import Any

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
    dropped_if,
    gather,
    translate,
)
from fastdb.urls.spelling import Parts
from fastdb.urls.target import Target

_ALIASES: Mapping[str, str] = {
    "ssl-mode": "ssl_mode",
    "sslmode": "ssl_mode",
    "sslMode": "ssl_mode",
    "tls": "ssl",
    "useSSL": "ssl",
    "ssl-ca": "ssl_ca",
    "ssl-cert": "ssl_cert",
    "ssl-key": "ssl_key",
    "ssl-verify-server-cert": "ssl_verify_identity",
    "ssl_check_hostname": "ssl_verify_identity",
    "socket": "unix_socket",
    "unixSocket": "unix_socket",
    "connect-timeout": "connect_timeout",
    "init-command": "init_command",
    "local-infile": "local_infile",
    "default-character-set": "charset",
    "useUnicode": "use_unicode",
}
_TLS = (
    "ssl_mode",
    "ssl",
    "ssl_ca",
    "ssl_cert",
    "ssl_key",
    "ssl_verify_cert",
    "ssl_verify_identity",
    "ssl_disabled",
    "sslaccept",
)
_TAKEN_OUT = (*_TLS, *USER, *PASSWORD, *DATABASE, *_ALIASES, "host", "port", "unix_socket")

_FOUND_ROWS = 2  # CLIENT.FOUND_ROWS, without which SQLAlchemy's rowcount would be wrong


def _for_all(give: Give = as_named) -> dict[str, Give]:
    return {"aiomysql": give, "asyncmy": give, "pymysql": give}


def _client_flag(name: str, value: int, driver: str) -> Mapping[str, Any]:
    # `connect_args` replace what SQLAlchemy's dialect sets, so its own flag is repeated here.
    return {"client_flag": value | _FOUND_ROWS}


_identifier = values.matching(r"\w+", "the name of a character set, such as utf8mb4")
_seconds = values.integer(1, expected="a whole number of seconds, 1 or more")
_yes = dropped_if(True, otherwise="remove it")

_PARAMETERS: Mapping[str, Parameter] = {
    "charset": Parameter(_identifier, _for_all()),
    "collation": Parameter(
        values.matching(r"\w+", "the name of a collation, such as utf8mb4_unicode_ci"),
        {"pymysql": as_named},
    ),
    "unix_socket": Parameter(values.string, _for_all()),
    "connect_timeout": Parameter(_seconds, _for_all()),
    "read_timeout": Parameter(_seconds, {"asyncmy": as_named, "pymysql": as_named}),
    "write_timeout": Parameter(_seconds, {"pymysql": as_named}),
    "init_command": Parameter(values.string, _for_all()),
    "sql_mode": Parameter(values.string, _for_all()),
    "local_infile": Parameter(values.boolean, _for_all()),
    "program_name": Parameter(values.string, _for_all()),
    "read_default_file": Parameter(values.string, _for_all()),
    "read_default_group": Parameter(values.string, _for_all()),
    "client_flag": Parameter(values.integer(0), _for_all(_client_flag)),
    "bind_address": Parameter(values.string, {"pymysql": as_named}),
    "max_allowed_packet": Parameter(values.integer(1), {"asyncmy": as_named, "pymysql": as_named}),
    # aiomysql always writes the prefix.
    "binary_prefix": Parameter(
        values.boolean,
        {"asyncmy": as_named, "pymysql": as_named, "aiomysql": dropped_if(True)},
    ),
    "auth_plugin": Parameter(values.string, {"aiomysql": as_argument("auth_plugin")}),
    # The drivers do both in any case: text is str, and a server without TLS is asked for its key.
    "use_unicode": Parameter(values.boolean, _for_all(_yes)),
    "allowPublicKeyRetrieval": Parameter(values.boolean, _for_all(_yes)),
    # Compression is off unless asked for.
    "compress": Parameter(values.boolean, _for_all(dropped_if(False))),
}

_POOL_REMEDY = "the pool is set by pool=PoolOptions(…)"
_TLS_REMEDY = "build an ssl.SSLContext and pass connect_args={'ssl': …}, or remove it"
_REFUSED: Mapping[str, str] = {
    "ssl_capath": "TLSOptions takes one file of authorities; write ssl_ca=… with that file",
    "ssl_cipher": f"TLSOptions leaves the ciphers to OpenSSL; {_TLS_REMEDY}",
    "ssl_crl": f"TLSOptions has no revocation lists; {_TLS_REMEDY}",
    "tls_version": f"TLSOptions leaves the version to OpenSSL; {_TLS_REMEDY}",
    "ssl_key_password": "it is a secret, and TLSOptions has no place for it; store the key without"
    " a passphrase, readable by the application only",
    "autocommit": "fastdb begins and ends the transactions itself; remove it",
    "isolation_level": "write Database(…, isolation=…) or db.session(isolation=…) instead",
    "connection_limit": f"{_POOL_REMEDY}; write PoolOptions(size=…, max_overflow=…) instead",
    "pool_size": f"{_POOL_REMEDY}; write PoolOptions(size=…) instead",
    "max_overflow": f"{_POOL_REMEDY}; write PoolOptions(max_overflow=…) instead",
    "pool_recycle": f"{_POOL_REMEDY}; write PoolOptions(recycle=…) instead",
    "pool_timeout": "write timeouts=Timeouts(pool=…) instead",
    "connectTimeout": "it counts milliseconds; write connect_timeout=… in seconds",
    "serverTimezone": "the drivers do not convert between time zones; write"
    " init_command=SET%20time_zone%3D'%2B00:00' instead",
    "characterEncoding": "write charset=utf8mb4 instead",
}


def make_target(parts: Parts, driver: str, *, dialect: str) -> Target:
    """Translate the parts of a MySQL or MariaDB URL for one of the drivers."""
    query = gather("mysql", parts.query, _ALIASES)
    account = take_account(parts, query)
    host = _only_host(read_hosts(parts.hosts, query))
    tls = _read_tls(query)
    arguments = translate(
        query, driver, known=_PARAMETERS, refused=_REFUSED, other_names=_TAKEN_OUT
    )
    if host.is_socket:
        arguments["unix_socket"] = host.name
        host = Host("")
    elif host.port and not host.name:
        arguments["port"] = host.port
    return Target(
        backend="mysql",
        driver=driver,
        url=URL.create(
            f"{dialect}+{driver}",
            username=account.username,
            password=account.password,
            host=host.name or None,
            port=host.port if host.name else None,
            database=account.database,
        ),
        connect_args=arguments,
        tls=tls,
    )


def _only_host(hosts: tuple[Host, ...]) -> Host:
    if len(hosts) > 1:
        raise InvalidURL(
            f"The URL names {len(hosts)} hosts, but the drivers of MySQL connect to one; name the"
            " one, or a proxy (MaxScale, ProxySQL, HAProxy) in front of them."
        )
    return hosts[0] if hosts else Host("")


# MySQL: REQUIRED encrypts and checks no certificate, even where ssl_ca is given; VERIFY_CA and
# VERIFY_IDENTITY check (https://dev.mysql.com/doc/refman/8.4/en/connection-options.html).
_MODES: Mapping[str, TLSMode] = {
    "disabled": "disable",
    "preferred": "prefer",
    "required": "require",
    "verify_ca": "verify-ca",
    "verify_identity": "verify-full",
    # libpq's words, which many write for every database.
    "disable": "disable",
    "prefer": "prefer",
    "require": "require",
    "verify-ca": "verify-ca",
    "verify-full": "verify-full",
}


def _mode(name: str, text: str) -> TLSMode:
    if text.lower() not in _MODES:
        names = "DISABLED, PREFERRED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY"
        raise values.bad_value(name, text, f"one of {names}")
    return _MODES[text.lower()]


def _read_tls(query: Query) -> TLSOptions | None:
    ca_file = query.read("ssl_ca", values.string)
    cert_file = query.read("ssl_cert", values.string)
    key_file = query.read("ssl_key", values.string)
    if key_file and not cert_file:
        raise InvalidURL(
            "URL parameter 'ssl_key' is given without 'ssl_cert'; a client key needs its"
            " certificate."
        )
    mode = _explicit_mode(query) or _implied_mode(query, ca_file, cert_file)
    _refuse_leftovers(query, mode)
    if mode is None:
        return None
    return TLSOptions(
        mode=mode,
        # MySQL's REQUIRED checks no certificate; with a ca_file, TLSOptions would.
        ca_file=ca_file if mode.startswith("verify") else None,
        cert_file=cert_file,
        key_file=key_file,
    )


def _explicit_mode(query: Query) -> TLSMode | None:
    mode: TLSMode | None = query.read("ssl_mode", _mode)
    if mode is None and query.read("ssl_disabled", values.boolean):
        return "disable"
    # Prisma's word, which PlanetScale puts into its URLs.
    if mode is None:
        mode = query.read(
            "sslaccept",
            values.mapped({"strict": "verify-full", "accept_invalid_certs": "require"}),
        )
    return mode


def _implied_mode(query: Query, ca_file: str | None, cert_file: str | None) -> TLSMode | None:
    """Find the mode where it is not named: the strictest that a parameter asks for."""
    wanted: TLSMode | None = query.read("ssl", _switch)
    certificate: bool | None = query.read("ssl_verify_cert", values.boolean)
    identity: bool | None = query.read("ssl_verify_identity", values.boolean)
    if identity or wanted in ("disable", "verify-full"):
        return "verify-full" if identity else wanted
    if certificate:
        return "verify-ca"
    if ca_file and certificate is None:
        # SQLAlchemy's meaning of a lone ssl_ca, with ssl_check_hostname=false as the way out.
        return "verify-full" if identity is None else "verify-ca"
    asked = wanted or ca_file or cert_file or certificate is not None or identity is not None
    return "require" if asked else None


def _switch(name: str, text: str) -> TLSMode:
    """Read ssl=true, ssl=false, and PlanetScale's ssl={"rejectUnauthorized":true}."""
    if text.startswith("{"):
        compact = "".join(text.split())
        for strict in (True, False):
            if compact == json.dumps({"rejectUnauthorized": strict}, separators=(",", ":")):
                return "verify-full" if strict else "require"
    return "require" if values.boolean(name, text) else "disable"


def _refuse_leftovers(query: Query, mode: TLSMode | None) -> None:
    """Refuse what says in other words what the mode has said already."""
    for name in _TLS:
        if name in query.left:
            raise InvalidURL(
                f"URL parameter {name!r} says in other words what was said already (the mode is"
                f" {mode!r}); keep one of them."
            )
