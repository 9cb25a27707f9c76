"""TLS, in each driver's words, and the proof that a new connection really has it.

| mode        | asyncpg    | psycopg, psycopg2 | aiomysql   | asyncmy    | PyMySQL           |
|-------------|------------|-------------------|------------|------------|-------------------|
| disable     | ssl=False  | sslmode           | nothing    | nothing    | ssl_disabled=True |
| prefer      | "prefer"   | sslmode           | SSLContext | refused    | nothing           |
| require     | SSLContext | sslmode           | SSLContext | SSLContext | SSLContext        |
| verify-ca   | SSLContext | sslmode, file     | SSLContext | SSLContext | SSLContext        |
| verify-full | SSLContext | sslmode, file     | SSLContext | SSLContext | SSLContext        |

"prefer" proves nothing about the server, so `ca_file` has no effect there.
"""

import ssl
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from fastdb.errors import ConfigurationError, TLSNotEstablished
from fastdb.options import TLSOptions

_LIBPQ = ("psycopg", "psycopg2")

_SQLITE = ("aiosqlite", "pysqlite")

# Where systems keep one file of all authorities. libpq's own sslrootcert=system fails with
# psycopg's and psycopg2's binary wheels: their OpenSSL looks in a directory of the machine that
# built them. It is also refused by libpq below 16, and for verify-ca.
_SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, the BSDs
)


def tls_connect_args(driver: str, tls: TLSOptions | None) -> dict[str, Any]:
    """Put TLS options into a driver's own arguments.

    Args:
        driver: The driver's name in SQLAlchemy.
        tls: What is wanted. None leaves it to the driver.

    Raises:
        ConfigurationError: A file is missing or is not what it should be, or the driver cannot do
            what the mode says.
    """
    if tls is None:
        return {}
    if driver in _SQLITE:
        raise ConfigurationError(
            f"TLSOptions(mode={tls.mode!r}): SQLite has no network, so there is nothing to"
            " encrypt; leave tls out."
        )
    if driver == "asyncpg":
        return _for_asyncpg(tls)
    if driver in _LIBPQ:
        return _for_libpq(tls)
    return _for_mysql(driver, tls)


def install_tls_verification(engine: Engine, driver: str, tls: TLSOptions | None) -> None:
    """Make an engine close each new connection that is not encrypted although it should be.

    Needed for aiomysql, and PyMySQL before 1.2, which go on in plain text where the server offers
    no TLS, and offering none is all that an attacker in between has to do. The others refuse by
    themselves; for them it guards against a change of that.

    Raises (when connecting):
        TLSNotEstablished: The new connection is in plain text.
    """
    if tls is None or tls.mode in ("disable", "prefer"):
        return
    # asyncpg raises ConnectionError where the server declines, and has no public state to look at.
    if driver not in _IS_ENCRYPTED:
        return
    is_encrypted, mode = _IS_ENCRYPTED[driver], tls.mode

    def verify(connection: Any, record: object) -> None:
        if is_encrypted(connection):
            return
        # SQLAlchemy closes a connection whose event raises. Closing it here too would make PyMySQL
        # complain in the log of the second time.
        raise TLSNotEstablished(
            f"TLS was asked for (mode {mode!r}), but the new connection of {driver} is in plain"
            " text, so it was closed. The server offers no TLS, or something on the way to it"
            " hides that it does; turn TLS on in the server, or write mode='disable'."
        )

    # First of all listeners: nothing may be said on a connection before it is known to be safe.
    event.listen(engine, "connect", verify, insert=True)


def _psycopg_is_encrypted(connection: Any) -> bool:
    # SQLAlchemy wraps asynchronous connections only.
    info = getattr(connection, "driver_connection", connection).pgconn
    # As libpq: what passes through a socket file never leaves the machine.
    return bool(info.ssl_in_use) or bytes(info.host).startswith(b"/")


def _psycopg2_is_encrypted(connection: Any) -> bool:
    return bool(connection.info.ssl_in_use) or str(connection.info.host).startswith("/")


def _mysql_is_encrypted(connection: Any) -> bool:
    """Look at this end of the connection.

    Not `SHOW STATUS LIKE 'Ssl_cipher'`: whoever stripped TLS off could answer it as well, and a
    proxy (ProxySQL, MaxScale) tells of its own connection to the server behind it. What cannot be
    found counts as plain text.
    """
    raw = getattr(connection, "driver_connection", connection)
    if isinstance(getattr(raw, "_sock", None), ssl.SSLSocket):
        return True
    # asyncmy keeps a transport, aiomysql and older asyncmy a stream that knows its transport's.
    for name in ("_transport", "_writer"):
        stream = getattr(raw, name, None)
        if stream is not None and stream.get_extra_info("ssl_object") is not None:
            return True
    return False


_IS_ENCRYPTED = {
    "psycopg": _psycopg_is_encrypted,
    "psycopg2": _psycopg2_is_encrypted,
    "aiomysql": _mysql_is_encrypted,
    "asyncmy": _mysql_is_encrypted,
    "pymysql": _mysql_is_encrypted,
}


def _for_asyncpg(tls: TLSOptions) -> dict[str, Any]:
    if tls.mode == "disable":
        return {"ssl": False}
    if tls.mode == "prefer":
        # With a context of ours asyncpg would insist on TLS.
        _refuse_certificate("asyncpg", tls)
        return {"ssl": "prefer"}
    return {"ssl": _make_context(tls)}


def _for_libpq(tls: TLSOptions) -> dict[str, Any]:
    mode = "verify-ca" if tls.mode == "require" and tls.ca_file else tls.mode
    arguments: dict[str, Any] = {"sslmode": mode}
    if mode in ("verify-ca", "verify-full"):
        arguments["sslrootcert"] = (
            _system_file() if tls.ca_file is None else _readable("ca_file", tls.ca_file)
        )
    if tls.cert_file is not None and mode != "disable":
        arguments["sslcert"] = _readable("cert_file", tls.cert_file)
        arguments["sslkey"] = _readable("key_file", tls.key_file or tls.cert_file)
    return arguments


def _for_mysql(driver: str, tls: TLSOptions) -> dict[str, Any]:
    if tls.mode == "disable":
        # PyMySQL tries TLS unless told otherwise.
        return {"ssl_disabled": True} if driver == "pymysql" else {}
    if tls.mode == "prefer" and driver == "asyncmy":
        raise ConfigurationError(
            "TLSOptions(mode='prefer'): asyncmy either encrypts or fails, it cannot fall back to"
            " plain text; use mode='require' or mode='disable', or the driver aiomysql."
        )
    if tls.mode == "prefer" and driver == "pymysql":
        # Without arguments, PyMySQL (from 1.2 on) encrypts where the server offers it; with a
        # context it insists.
        _refuse_certificate(driver, tls)
        return {}
    return {"ssl": _make_context(tls)}


def _refuse_certificate(driver: str, tls: TLSOptions) -> None:
    if tls.cert_file is not None:
        raise ConfigurationError(
            f"TLSOptions(mode='prefer', cert_file={_shown(tls.cert_file)}): {driver} takes a"
            " client certificate only where TLS is certain; use mode='require' or stricter."
        )


def _make_context(tls: TLSOptions) -> ssl.SSLContext:
    """Make the context for a mode.

    Not `ssl.create_default_context`: from Python 3.13 on it refuses certificates whose authority
    leaves out optional fields, as those do that MySQL makes for itself.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = tls.mode == "verify-full"
    verify = tls.mode in ("verify-ca", "verify-full") or (tls.mode == "require" and tls.ca_file)
    if not verify:
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_authorities(context, tls.ca_file)
    if tls.cert_file is not None:
        _load_certificate(context, tls.cert_file, tls.key_file)
    return context


def _load_authorities(context: ssl.SSLContext, file: str | PathLike[str]) -> None:
    path = _readable("ca_file", file)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"TLSOptions(ca_file={_shown(file)}): OpenSSL finds no certificate in the file; it"
            " must hold the authorities' certificates in PEM form (BEGIN CERTIFICATE)."
        ) from error


def _load_certificate(
    context: ssl.SSLContext, cert_file: str | PathLike[str], key_file: str | PathLike[str] | None
) -> None:
    cert = _readable("cert_file", cert_file)
    key = None if key_file is None else _readable("key_file", key_file)
    try:
        # An empty passphrase: without one, OpenSSL would ask at the terminal and wait.
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        given = f"cert_file={_shown(cert_file)}"
        if key_file is not None:
            given += f", key_file={_shown(key_file)}"
        raise ConfigurationError(
            f"TLSOptions({given}): OpenSSL cannot use them; they must be a certificate and its own"
            " key in PEM form, the key without a passphrase."
        ) from error


def _readable(option: str, file: str | PathLike[str]) -> str:
    path = Path(file)
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigurationError(
            f"TLSOptions({option}={_shown(file)}): the file cannot be read"
            f" ({error.strerror or type(error).__name__}); check the path and its permissions."
        ) from error
    return str(path)


def _shown(file: str | PathLike[str]) -> str:
    return repr(fspath(file))


def _system_file() -> str:
    known: Mapping[str, None] = dict.fromkeys(
        (ssl.get_default_verify_paths().cafile or "", *_SYSTEM_FILES)
    )
    for file in known:
        if file and Path(file).is_file():
            return file
    raise ConfigurationError(
        "TLSOptions(ca_file=None): this system has no file of trusted authorities that libpq could"
        " use; write ca_file=…, for example with the path that certifi.where() gives."
    )
