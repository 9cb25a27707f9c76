"""TLS options, put into each driver's words, and the look at a connection that follows."""

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from sqlalchemy import QueuePool, create_engine

from fastdb.errors import ConfigurationError, TLSNotEstablished
from fastdb.options import TLSMode, TLSOptions
from fastdb.tls import install_tls_verification, tls_connect_args

MYSQL = ("aiomysql", "asyncmy", "pymysql")
NETWORK = ("asyncpg", "psycopg", "psycopg2", *MYSQL)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority of our own."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    """The authority's certificate."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def client_files(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    """A client's certificate and its key."""
    issued = authority.issue_cert("client.example")
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    return cert, key


# --- The arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize("driver", [*NETWORK, "aiosqlite", "pysqlite"])
def test_nothing_said_is_nothing_given(driver: str) -> None:
    """Without options, the driver keeps its own default."""
    assert tls_connect_args(driver, None) == {}


@pytest.mark.parametrize(
    ("driver", "mode", "arguments"),
    [
        ("asyncpg", "disable", {"ssl": False}),
        ("asyncpg", "prefer", {"ssl": "prefer"}),
        ("psycopg", "disable", {"sslmode": "disable"}),
        ("psycopg", "prefer", {"sslmode": "prefer"}),
        ("psycopg", "require", {"sslmode": "require"}),
        ("psycopg2", "disable", {"sslmode": "disable"}),
        ("psycopg2", "prefer", {"sslmode": "prefer"}),
        ("psycopg2", "require", {"sslmode": "require"}),
        ("aiomysql", "disable", {}),
        ("asyncmy", "disable", {}),
        ("pymysql", "disable", {"ssl_disabled": True}),
        ("pymysql", "prefer", {}),
    ],
)
def test_plain_arguments(driver: str, mode: TLSMode, arguments: dict[str, Any]) -> None:
    """Modes that check nothing are said in the driver's own words."""
    assert tls_connect_args(driver, TLSOptions(mode=mode)) == arguments


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_libpq_arguments(
    driver: str, mode: TLSMode, ca_file: Path, client_files: tuple[Path, Path]
) -> None:
    """libpq is given file names, and "require" with an authority checks it, as libpq says."""
    cert, key = client_files
    tls = TLSOptions(mode=mode, ca_file=ca_file, cert_file=cert, key_file=key)
    assert tls_connect_args(driver, tls) == {
        "sslmode": "verify-ca" if mode == "require" else mode,
        "sslrootcert": str(ca_file),
        "sslcert": str(cert),
        "sslkey": str(key),
    }


def test_libpq_finds_the_key_beside_the_certificate(client_files: tuple[Path, Path]) -> None:
    """A key in the certificate's own file is named to libpq, which would look elsewhere."""
    cert = client_files[0]
    assert tls_connect_args("psycopg", TLSOptions(mode="require", cert_file=cert)) == {
        "sslmode": "require",
        "sslcert": str(cert),
        "sslkey": str(cert),
    }


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_libpq_uses_the_file_that_python_uses(
    driver: str, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an authority libpq is given the system's file: its own search fails in wheels."""
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    assert tls_connect_args(driver, TLSOptions()) == {
        "sslmode": "verify-full",
        "sslrootcert": str(ca_file),
    }


def test_no_system_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without a file of authorities is told of when the engine is made."""
    monkeypatch.setattr("fastdb.tls._SYSTEM_FILES", ())
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: SimpleNamespace(cafile=None))
    with pytest.raises(ConfigurationError) as caught:
        tls_connect_args("psycopg", TLSOptions())
    assert str(caught.value) == (
        "TLSOptions(ca_file=None): this system has no file of trusted authorities that libpq could"
        " use; write ca_file=…, for example with the path that certifi.where() gives."
    )


@pytest.mark.parametrize("driver", ["asyncpg", *MYSQL])
@pytest.mark.parametrize(
    ("mode", "with_ca", "verify", "check_hostname"),
    [
        ("require", False, ssl.CERT_NONE, False),
        ("require", True, ssl.CERT_REQUIRED, False),
        ("verify-ca", True, ssl.CERT_REQUIRED, False),
        ("verify-ca", False, ssl.CERT_REQUIRED, False),
        ("verify-full", True, ssl.CERT_REQUIRED, True),
        ("verify-full", False, ssl.CERT_REQUIRED, True),
    ],
)
def test_context(
    driver: str,
    mode: TLSMode,
    with_ca: bool,
    verify: ssl.VerifyMode,
    check_hostname: bool,
    ca_file: Path,
) -> None:
    """The other drivers are given a context that checks as much as the mode says."""
    tls = TLSOptions(mode=mode, ca_file=ca_file if with_ca else None)
    context = tls_connect_args(driver, tls)["ssl"]
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (verify, check_hostname)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def _accepts(context: ssl.SSLContext, authority: trustme.CA, name: str) -> bool:
    """Shake hands, in memory, with a server that has a certificate for `name`."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(server_context)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (client, server, client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError:
        return False
    return client.cipher() is not None


@pytest.mark.parametrize("driver", ["asyncpg", *MYSQL])
@pytest.mark.parametrize(
    ("mode", "right", "other_host", "other_authority"),
    [
        ("require", True, True, True),
        ("verify-ca", True, True, False),
        ("verify-full", True, False, False),
    ],
)
def test_handshake(
    driver: str,
    mode: TLSMode,
    right: bool,
    other_host: bool,
    other_authority: bool,
    authority: trustme.CA,
    ca_file: Path,
) -> None:
    """verify-ca refuses a server of another authority, verify-full one of another name as well."""
    # With an authority "require" would check; its unchecked form is meant here.
    tls = TLSOptions(mode=mode, ca_file=None if mode == "require" else ca_file)
    context = tls_connect_args(driver, tls)["ssl"]
    assert _accepts(context, authority, "localhost") is right
    assert _accepts(context, authority, "elsewhere.example") is other_host
    assert _accepts(context, trustme.CA(), "localhost") is other_authority


# --- Refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["aiosqlite", "pysqlite"])
@pytest.mark.parametrize("mode", ["disable", "require"])
def test_sqlite_has_no_network(driver: str, mode: TLSMode) -> None:
    """TLS for SQLite is a mistake, whatever the mode."""
    with pytest.raises(ConfigurationError) as caught:
        tls_connect_args(driver, TLSOptions(mode=mode))
    assert str(caught.value) == (
        f"TLSOptions(mode={mode!r}): SQLite has no network, so there is nothing to encrypt;"
        " leave tls out."
    )


def test_asyncmy_cannot_prefer() -> None:
    """asyncmy has no way back to plain text, so "prefer" is refused rather than made stricter."""
    with pytest.raises(ConfigurationError) as caught:
        tls_connect_args("asyncmy", TLSOptions(mode="prefer"))
    assert str(caught.value) == (
        "TLSOptions(mode='prefer'): asyncmy either encrypts or fails, it cannot fall back to plain"
        " text; use mode='require' or mode='disable', or the driver aiomysql."
    )


@pytest.mark.parametrize("driver", ["asyncpg", "pymysql"])
def test_prefer_with_a_client_certificate(driver: str, client_files: tuple[Path, Path]) -> None:
    """A client certificate that a driver would leave out under "prefer" is refused."""
    cert, key = client_files
    with pytest.raises(ConfigurationError) as caught:
        tls_connect_args(driver, TLSOptions(mode="prefer", cert_file=cert, key_file=key))
    assert str(caught.value) == (
        f"TLSOptions(mode='prefer', cert_file={str(cert)!r}): {driver} takes a client certificate"
        " only where TLS is certain; use mode='require' or stricter."
    )


@pytest.mark.parametrize("driver", NETWORK)
@pytest.mark.parametrize("option", ["ca_file", "cert_file", "key_file"])
def test_missing_file(
    driver: str, option: str, ca_file: Path, client_files: tuple[Path, Path], tmp_path: Path
) -> None:
    """A file that is not there is told of when the engine is made, with its option."""
    cert, key = client_files
    missing = tmp_path / "missing.pem"
    files = {"ca_file": ca_file, "cert_file": cert, "key_file": key, option: missing}
    with pytest.raises(ConfigurationError) as caught:
        tls_connect_args(driver, TLSOptions(**files))  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"TLSOptions({option}={str(missing)!r}): the file cannot be read (No such file or"
        " directory); check the path and its permissions."
    )


@pytest.mark.parametrize("driver", ["asyncpg", *MYSQL])
def test_authority_that_is_none(driver: str, tmp_path: Path) -> None:
    """A file without certificates is named, instead of an error at the first connection."""
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    with pytest.raises(ConfigurationError) as caught:
        tls_connect_args(driver, TLSOptions(ca_file=empty))
    assert str(caught.value) == (
        f"TLSOptions(ca_file={str(empty)!r}): OpenSSL finds no certificate in the file; it must"
        " hold the authorities' certificates in PEM form (BEGIN CERTIFICATE)."
    )


@pytest.mark.parametrize("driver", ["asyncpg", *MYSQL])
def test_key_of_another_certificate(
    driver: str, authority: trustme.CA, client_files: tuple[Path, Path], tmp_path: Path
) -> None:
    """A key that does not belong to the certificate is told of when the engine is made."""
    other = tmp_path / "other.key"
    authority.issue_cert("other.example").private_key_pem.write_to_path(other)
    cert = client_files[0]
    with pytest.raises(ConfigurationError) as caught:
        tls_connect_args(driver, TLSOptions(cert_file=cert, key_file=other))
    assert str(caught.value) == (
        f"TLSOptions(cert_file={str(cert)!r}, key_file={str(other)!r}): OpenSSL cannot use them;"
        " they must be a certificate and its own key in PEM form, the key without a passphrase."
    )


# --- The look at a new connection -------------------------------------------------------------


class _Connection:
    """What a driver's connection shows of its encryption."""

    def __init__(self, **state: Any) -> None:
        self.closed = False
        self.__dict__.update(state)

    def rollback(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class _Stream:
    def __init__(self, ssl_object: object) -> None:
        self.ssl_object = ssl_object

    def get_extra_info(self, name: str) -> object:
        return self.ssl_object if name == "ssl_object" else None


def _pgconn(*, ssl_in_use: bool, host: bytes = b"db.example") -> SimpleNamespace:
    return SimpleNamespace(ssl_in_use=ssl_in_use, host=host)


def _wrapped(**state: Any) -> _Connection:
    return _Connection(driver_connection=SimpleNamespace(**state))


def _connect(driver: str, mode: TLSMode, connection: _Connection) -> None:
    # Any dialect will do: the pool and its events are the same for all.
    engine = create_engine(
        "sqlite://", creator=lambda: connection, poolclass=QueuePool, _initialize=False
    )
    install_tls_verification(engine, driver, TLSOptions(mode=mode))
    engine.pool.connect()


def _plain(driver: str) -> _Connection:
    info = SimpleNamespace(ssl_in_use=False, host="db.example")
    return {
        "psycopg": _Connection(pgconn=_pgconn(ssl_in_use=False)),
        "psycopg-async": _wrapped(pgconn=_pgconn(ssl_in_use=False)),
        "psycopg2": _Connection(info=info),
        "aiomysql": _wrapped(_writer=_Stream(None)),
        "asyncmy": _wrapped(_transport=_Stream(None)),
        "pymysql": _Connection(_sock=None),
    }[driver]


DRIVERS = ("psycopg", "psycopg-async", "psycopg2", *MYSQL)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_plain_text_is_closed(driver: str, mode: TLSMode) -> None:
    """A connection in plain text is closed where TLS was asked for."""
    connection = _plain(driver)
    name = driver.removesuffix("-async")
    with pytest.raises(TLSNotEstablished) as caught:
        _connect(name, mode, connection)
    assert connection.closed
    assert str(caught.value) == (
        f"TLS was asked for (mode {mode!r}), but the new connection of {name} is in plain text, so"
        " it was closed. The server offers no TLS, or something on the way to it hides that it"
        " does; turn TLS on in the server, or write mode='disable'."
    )


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_plain_text_is_allowed(driver: str, mode: TLSMode) -> None:
    """Where TLS was not demanded, nothing is looked at."""
    connection = _plain(driver)
    _connect(driver.removesuffix("-async"), mode, connection)
    assert not connection.closed


def _tls_socket() -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return context.wrap_socket(socket.socket(), server_hostname="localhost")


@pytest.mark.parametrize(
    ("driver", "connection"),
    [
        ("psycopg", _Connection(pgconn=_pgconn(ssl_in_use=True))),
        ("psycopg", _wrapped(pgconn=_pgconn(ssl_in_use=True))),
        ("psycopg", _Connection(pgconn=_pgconn(ssl_in_use=False, host=b"/run/postgresql"))),
        ("psycopg2", _Connection(info=SimpleNamespace(ssl_in_use=True, host="db.example"))),
        ("psycopg2", _Connection(info=SimpleNamespace(ssl_in_use=False, host="/run/postgresql"))),
        ("aiomysql", _wrapped(_writer=_Stream(object()))),
        ("asyncmy", _wrapped(_transport=_Stream(object()))),
        ("asyncmy", _wrapped(_writer=_Stream(object()))),
    ],
)
def test_encrypted_is_kept(driver: str, connection: _Connection) -> None:
    """An encrypted connection is kept, and one of libpq's through a socket file."""
    _connect(driver, "require", connection)
    assert not connection.closed


def test_encrypted_pymysql_is_kept() -> None:
    """PyMySQL's connection is encrypted where its socket is."""
    with _tls_socket() as sock:
        connection = _Connection(_sock=sock)
        _connect("pymysql", "require", connection)
        assert not connection.closed


@pytest.mark.parametrize("driver", MYSQL)
def test_what_cannot_be_seen_is_plain_text(driver: str) -> None:
    """A driver that hides its transport is refused: nothing proves that it is encrypted."""
    connection = _Connection(driver_connection=object())
    with pytest.raises(TLSNotEstablished):
        _connect(driver, "require", connection)
    assert connection.closed


def test_nothing_said_is_nothing_verified() -> None:
    """Without options, no listener is installed."""
    engine = create_engine("sqlite://")
    install_tls_verification(engine, "aiomysql", None)
    with engine.connect():
        pass
    engine.dispose()
