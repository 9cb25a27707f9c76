"""Parsed URLs and TLS options against real servers."""

import asyncio
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pymysql
import pytest
import trustme
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from databases import wait_until_none
from fastdb.errors import ConfigurationError, TLSNotEstablished
from fastdb.options import TLSOptions
from fastdb.tls import install_tls_verification, tls_connect_args
from fastdb.urls import Target, World, parse_url
from servers import MariaDB, PostgreSQL


@dataclass(frozen=True)
class Driver:
    """A driver, and the world in which a URL that names it leads to it."""

    name: str
    world: World

    def target(self, plain_url: str, query: str = "") -> Target:
        scheme, _, rest = plain_url.partition("://")
        return parse_url(f"{scheme}+{self.name}://{rest}{query}", world=self.world)

    async def scalar(self, target: Target, statement: str) -> object:
        """Run a statement on a connection made of the target, as an engine would."""
        tls = target.tls
        # An engine is made before the loop runs, or once: files may be read then.
        files = await asyncio.to_thread(tls_connect_args, self.name, tls)
        arguments = {**target.connect_args, **files}
        if self.world == "sync":
            return await asyncio.to_thread(self._scalar, target, statement, arguments)
        engine = create_async_engine(target.url, connect_args=arguments, poolclass=NullPool)
        install_tls_verification(engine.sync_engine, self.name, tls)
        async with engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            writer = getattr(raw, "_writer", None)
            value: object = await connection.scalar(text(statement))
        # aiomysql does not wait for the end of TLS; without it the test's loop would end first.
        if self.name == "aiomysql" and writer is not None:
            with suppress(ConnectionError):
                await writer.wait_closed()
        return value

    def _scalar(self, target: Target, statement: str, arguments: dict[str, object]) -> object:
        engine = create_engine(target.url, connect_args=arguments, poolclass=NullPool)
        install_tls_verification(engine, self.name, target.tls)
        with engine.connect() as connection:
            return connection.scalar(text(statement))


def _drivers(*drivers: Driver) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "driver", [pytest.param(driver, id=f"{driver.name}-{driver.world}") for driver in drivers]
    )


postgresql_drivers = _drivers(
    Driver("asyncpg", "async"),
    Driver("psycopg", "async"),
    Driver("psycopg", "sync"),
    Driver("psycopg2", "sync"),
)
mysql_drivers = _drivers(
    Driver("aiomysql", "async"), Driver("asyncmy", "async"), Driver("pymysql", "sync")
)


# --- TLS where there is none ------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain_postgresql(postgresql_server: PostgreSQL) -> Iterator[PostgreSQL]:
    """A server without TLS; where the other one is missing, this one is too."""
    with PostgreSQL(tls=False) as server:
        yield server


@pytest.fixture(scope="module")
def plain_mysql(mysql_server: MariaDB) -> Iterator[MariaDB]:
    """A server without TLS; where the other one is missing, this one is too."""
    with MariaDB(tls=False) as server:
        yield server


@postgresql_drivers
@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_postgresql_without_tls_is_refused(
    driver: Driver, mode: str, plain_postgresql: PostgreSQL
) -> None:
    """Where TLS is asked for and not offered, PostgreSQL's drivers refuse by themselves."""
    target = driver.target(plain_postgresql.url(), f"?sslmode={mode}")
    with pytest.raises((DBAPIError, ConnectionError), match="SSL"):
        await driver.scalar(target, "SELECT 1")


@mysql_drivers
@pytest.mark.parametrize("mode", ["REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"])
async def test_mysql_without_tls_is_refused(
    driver: Driver, mode: str, plain_mysql: MariaDB
) -> None:
    """Where TLS is asked for and not offered, no connection is made, by the driver or by us."""
    refused_by_driver = (DBAPIError, OSError)
    expected = {
        "aiomysql": (TLSNotEstablished,),
        "asyncmy": refused_by_driver,
        "pymysql": (TLSNotEstablished, *refused_by_driver),  # by itself from 1.2 on
    }[driver.name]
    target = driver.target(plain_mysql.url(), f"?ssl-mode={mode}")
    with pytest.raises(expected):
        await driver.scalar(target, "SELECT 1")


async def test_aiomysql_goes_on_in_plain_text(plain_mysql: MariaDB) -> None:
    """The canary: without verification aiomysql connects in plain text, as if nothing were."""
    target = Driver("aiomysql", "async").target(plain_mysql.url())
    arguments = tls_connect_args("aiomysql", TLSOptions(mode="require"))
    engine = create_async_engine(target.url, connect_args=arguments, poolclass=NullPool)
    async with engine.connect() as connection:
        row = (await connection.execute(text("SHOW STATUS LIKE 'Ssl_cipher'"))).one()
    assert tuple(row) == ("Ssl_cipher", "")


async def test_a_refused_connection_is_closed(plain_mysql: MariaDB) -> None:
    """What is refused after connecting leaves nothing open on the server, nor in the pool."""
    driver = Driver("aiomysql", "async")
    target = driver.target(plain_mysql.url(), "?ssl-mode=REQUIRED&program_name=refused")
    engine = create_async_engine(
        target.url, connect_args={**target.connect_args, **tls_connect_args("aiomysql", target.tls)}
    )
    install_tls_verification(engine.sync_engine, "aiomysql", target.tls)
    for _ in range(3):
        with pytest.raises(TLSNotEstablished):
            await engine.connect()
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await engine.dispose()
    assert await asyncio.to_thread(_left_behind, plain_mysql) == []


def _left_behind(server: MariaDB) -> Sequence[object]:
    url = make_url(server.url())
    with (
        pymysql.connect(
            host=url.host, port=url.port or 0, user="admin", password="admin", autocommit=True
        ) as admin,
        admin.cursor() as cursor,
    ):

        def look() -> Sequence[object]:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE user = 'fastdb'")
            return list(cursor.fetchall())

        return wait_until_none(look)


@postgresql_drivers
@pytest.mark.parametrize("mode", ["disable", "prefer", "allow"])
async def test_postgresql_may_be_plain(
    driver: Driver, mode: str, plain_postgresql: PostgreSQL
) -> None:
    """Modes that do not demand TLS connect where there is none."""
    target = driver.target(plain_postgresql.url(), f"?sslmode={mode}")
    assert await driver.scalar(target, "SELECT 1") == 1


@mysql_drivers
@pytest.mark.parametrize("mode", ["DISABLED", "PREFERRED"])
async def test_mysql_may_be_plain(driver: Driver, mode: str, plain_mysql: MariaDB) -> None:
    """Modes that do not demand TLS connect where there is none; asyncmy has no PREFERRED."""
    target = driver.target(plain_mysql.url(), f"?ssl-mode={mode}")
    if (driver.name, mode) == ("asyncmy", "PREFERRED"):
        with pytest.raises(ConfigurationError, match="asyncmy either encrypts or fails"):
            tls_connect_args(driver.name, target.tls)
    else:
        assert await driver.scalar(target, "SELECT 1") == 1


# --- TLS where it is offered ------------------------------------------------------------------

IN_USE = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
CIPHER = (
    "SELECT variable_value FROM information_schema.session_status"
    " WHERE variable_name = 'Ssl_cipher'"
)


@postgresql_drivers
@pytest.mark.parametrize(
    ("query", "in_use"),
    [
        ("?sslmode=disable", False),
        ("?sslmode=prefer", True),
        ("?sslmode=require", True),
        ("?sslmode=require&sslrootcert={ca}", True),
        ("?sslmode=verify-ca&sslrootcert={ca}", True),
        ("?sslmode=verify-full&sslrootcert={ca}", True),
        ("?sslrootcert={ca}", True),
    ],
)
async def test_postgresql_with_tls(
    driver: Driver, query: str, in_use: bool, postgresql_server: PostgreSQL
) -> None:
    """Where the server offers TLS, each mode that wants it gets it, with each driver."""
    url = postgresql_server.url().replace("127.0.0.1", "localhost")
    target = driver.target(url, query.format(ca=postgresql_server.ca_file))
    assert await driver.scalar(target, IN_USE) is in_use


@mysql_drivers
@pytest.mark.parametrize(
    ("query", "in_use"),
    [
        ("?ssl-mode=DISABLED", False),
        ("?ssl-mode=REQUIRED", True),
        ("?ssl-mode=REQUIRED&ssl-ca={ca}", True),
        ("?ssl-mode=VERIFY_CA&ssl-ca={ca}", True),
        ("?ssl-mode=VERIFY_IDENTITY&ssl-ca={ca}", True),
        ("?ssl_ca={ca}", True),
        ("?ssl=true", True),
    ],
)
async def test_mysql_with_tls(
    driver: Driver, query: str, in_use: bool, mysql_server: MariaDB
) -> None:
    """Where the server offers TLS, each mode that wants it gets it, with each driver."""
    url = mysql_server.url().replace("127.0.0.1", "localhost")
    target = driver.target(url, query.format(ca=mysql_server.ca_file))
    assert bool(await driver.scalar(target, CIPHER)) is in_use


@postgresql_drivers
@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_postgresql_of_another_authority(
    driver: Driver, mode: str, postgresql_server: PostgreSQL, tmp_path: Path
) -> None:
    """A server whose certificate another authority signed is refused, "require" included."""
    await asyncio.to_thread(trustme.CA().cert_pem.write_to_path, tmp_path / "other.pem")
    query = f"?sslmode={mode}&sslrootcert={tmp_path / 'other.pem'}"
    with pytest.raises((DBAPIError, OSError), match=r"(?i)certificate"):
        await driver.scalar(driver.target(postgresql_server.url(), query), "SELECT 1")


@mysql_drivers
@pytest.mark.parametrize("mode", ["VERIFY_CA", "VERIFY_IDENTITY"])
async def test_mysql_of_another_authority(
    driver: Driver, mode: str, mysql_server: MariaDB, tmp_path: Path
) -> None:
    """A server whose certificate another authority signed is refused."""
    await asyncio.to_thread(trustme.CA().cert_pem.write_to_path, tmp_path / "other.pem")
    query = f"?ssl-mode={mode}&ssl-ca={tmp_path / 'other.pem'}"
    with pytest.raises((DBAPIError, OSError)) as caught:
        await driver.scalar(driver.target(mysql_server.url(), query), "SELECT 1")
    # aiomysql's own message says only that it could not connect; the reason is its cause.
    assert "certificate verify failed" in "".join(traceback.format_exception(caught.value))


OTHER_NAME = ["elsewhere.example"]


@pytest.fixture(scope="module")
def other_postgresql(postgresql_server: PostgreSQL) -> Iterator[PostgreSQL]:
    """A server whose certificate is for another host."""
    with PostgreSQL(names=OTHER_NAME) as server:
        yield server


@pytest.fixture(scope="module")
def other_mysql(mysql_server: MariaDB) -> Iterator[MariaDB]:
    """A server whose certificate is for another host."""
    with MariaDB(names=OTHER_NAME) as server:
        yield server


@postgresql_drivers
async def test_postgresql_of_another_name(driver: Driver, other_postgresql: PostgreSQL) -> None:
    """verify-full refuses a server whose certificate is for another host; verify-ca does not."""
    query = f"?sslrootcert={other_postgresql.ca_file}&sslmode="
    with pytest.raises((DBAPIError, OSError), match=r"(?i)certificate"):
        await driver.scalar(driver.target(other_postgresql.url(), query + "verify-full"), IN_USE)
    target = driver.target(other_postgresql.url(), query + "verify-ca")
    assert await driver.scalar(target, IN_USE) is True


@mysql_drivers
async def test_mysql_of_another_name(driver: Driver, other_mysql: MariaDB) -> None:
    """VERIFY_IDENTITY refuses a server whose certificate is for another host."""
    query = f"?ssl-ca={other_mysql.ca_file}&ssl-mode="
    with pytest.raises((DBAPIError, OSError)) as caught:
        await driver.scalar(driver.target(other_mysql.url(), query + "VERIFY_IDENTITY"), CIPHER)
    assert "certificate verify failed" in "".join(traceback.format_exception(caught.value))
    assert await driver.scalar(driver.target(other_mysql.url(), query + "VERIFY_CA"), CIPHER)


@pytest.fixture(scope="module")
def expired_postgresql(postgresql_server: PostgreSQL) -> Iterator[PostgreSQL]:
    """A server whose certificate's time is over."""
    with PostgreSQL(expired=True) as server:
        yield server


@pytest.fixture(scope="module")
def expired_mysql(mysql_server: MariaDB) -> Iterator[MariaDB]:
    """A server whose certificate's time is over."""
    with MariaDB(expired=True) as server:
        yield server


@postgresql_drivers
async def test_postgresql_with_an_expired_certificate(
    driver: Driver, expired_postgresql: PostgreSQL
) -> None:
    """It is refused wherever certificates are looked at."""
    query = f"?sslmode=verify-ca&sslrootcert={expired_postgresql.ca_file}"
    with pytest.raises((DBAPIError, OSError), match=r"(?i)certificate"):
        await driver.scalar(driver.target(expired_postgresql.url(), query), IN_USE)
    unchecked = driver.target(expired_postgresql.url(), "?sslmode=require")
    assert await driver.scalar(unchecked, IN_USE) is True


@mysql_drivers
async def test_mysql_with_an_expired_certificate(driver: Driver, expired_mysql: MariaDB) -> None:
    """It is refused wherever certificates are looked at."""
    query = f"?ssl-mode=VERIFY_CA&ssl-ca={expired_mysql.ca_file}"
    with pytest.raises((DBAPIError, OSError)) as caught:
        await driver.scalar(driver.target(expired_mysql.url(), query), CIPHER)
    assert "expired" in "".join(traceback.format_exception(caught.value))
    assert await driver.scalar(driver.target(expired_mysql.url(), "?ssl-mode=REQUIRED"), CIPHER)


# --- The parameters arrive --------------------------------------------------------------------


@postgresql_drivers
async def test_postgresql_awkward_password(driver: Driver, postgresql_server: PostgreSQL) -> None:
    """A password of signs that mean something in URLs arrives as it is."""
    target = driver.target(postgresql_server.url(user="awkward"))
    assert await driver.scalar(target, "SELECT CAST(current_user AS text)") == "awkward"


@mysql_drivers
async def test_mysql_awkward_password(driver: Driver, mysql_server: MariaDB) -> None:
    """A password of signs that mean something in URLs arrives as it is."""
    target = driver.target(mysql_server.url(user="awkward"))
    assert str(await driver.scalar(target, "SELECT user()")).startswith("awkward@")


@postgresql_drivers
@pytest.mark.parametrize(
    ("query", "statement", "expected"),
    [
        ("?application_name=shop", "SHOW application_name", "shop"),
        ("?fallback_application_name=shop", "SHOW application_name", "shop"),
        ("?options=-c%20search_path%3Da,%5C%20b", "SHOW search_path", "a, b"),
        ("?connect_timeout=5&options=--statement-timeout%3D7s", "SHOW statement_timeout", "7s"),
        ("?target_session_attrs=read-write", "SELECT pg_is_in_recovery()", False),
        ("?channel_binding=prefer&gssencmode=disable&keepalives=0", "SELECT 1", 1),
        ("?client_encoding=utf8", "SELECT 'ü'", "ü"),
    ],
)
async def test_postgresql_parameter(
    driver: Driver, query: str, statement: str, expected: object, postgresql_url: str
) -> None:
    """A libpq parameter has the same effect with each driver."""
    assert await driver.scalar(driver.target(postgresql_url, query), statement) == expected


@postgresql_drivers
async def test_pgbouncer_leaves_no_prepared_statement(driver: Driver, postgresql_url: str) -> None:
    """`pgbouncer=true` makes each driver run statements without preparing them by name."""
    if driver.name == "asyncpg" and asyncpg.__version__ < "0.31":
        pytest.skip("before 0.31, asyncpg gives each prepared statement a name")
    target = driver.target(postgresql_url, "?pgbouncer=true")
    statement = "SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql"
    assert await driver.scalar(target, statement) == 0


@postgresql_drivers
async def test_postgresql_takes_the_host_that_answers(
    driver: Driver, postgresql_url: str, unused_tcp_port: int
) -> None:
    """Of several hosts, the first that answers is used."""
    url = make_url(postgresql_url)
    hosts = f"?host=127.0.0.1:{unused_tcp_port}&host={url.host}:{url.port}"
    target = driver.target(url.set(host=None, port=None).render_as_string(False), hosts)
    assert await driver.scalar(target, "SELECT 1") == 1


@mysql_drivers
@pytest.mark.parametrize(
    ("query", "statement", "expected"),
    [
        ("?charset=latin1", "SELECT @@character_set_client", "latin1"),
        ("?sql_mode=ANSI_QUOTES&connect_timeout=5", "SELECT @@sql_mode", "ANSI_QUOTES"),
        ("?init_command=SET%20time_zone%3D'%2B02:00'", "SELECT @@time_zone", "+02:00"),
        ("?allowPublicKeyRetrieval=true&useUnicode=true", "SELECT 'ü'", "ü"),
    ],
)
async def test_mysql_parameter(
    driver: Driver, query: str, statement: str, expected: object, mysql_url: str
) -> None:
    """A parameter of MySQL's clients has the same effect with each driver."""
    assert await driver.scalar(driver.target(mysql_url, query), statement) == expected


@mysql_drivers
async def test_client_flags_keep_the_row_count(driver: Driver, mysql_url: str) -> None:
    """Flags of one's own leave SQLAlchemy's in place: an UPDATE counts the rows that it found."""
    target = driver.target(mysql_url, "?client_flag=65536")
    statement = "UPDATE t SET n = 1"

    async def count() -> int:
        engine = create_async_engine(target.url, connect_args=target.connect_args)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE t (n INT)"))
            await connection.execute(text("INSERT INTO t VALUES (1)"))
            rows = (await connection.execute(text(statement))).rowcount
        await engine.dispose()
        return rows

    def count_in_thread() -> int:
        engine = create_engine(target.url, connect_args=dict(target.connect_args))
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE t (n INT)"))
            connection.execute(text("INSERT INTO t VALUES (1)"))
            rows = connection.execute(text(statement)).rowcount
        engine.dispose()
        return rows

    found = await count() if driver.world == "async" else await asyncio.to_thread(count_in_thread)
    assert found == 1


# --- SQLite -----------------------------------------------------------------------------------

sqlite_drivers = _drivers(Driver("aiosqlite", "async"), Driver("pysqlite", "sync"))


@sqlite_drivers
async def test_read_only_file(driver: Driver, sqlite_url: str) -> None:
    """SQLite's own parameters in a file: URI are obeyed: mode=ro makes no file."""
    path = sqlite_url.removeprefix("sqlite:///")
    target = driver.target(f"sqlite:///file:{path}", "?mode=ro&uri=true&timeout=1")
    with pytest.raises(DBAPIError, match="unable to open database file"):
        await driver.scalar(target, "SELECT 1")


@sqlite_drivers
async def test_sqlite_file(driver: Driver, sqlite_url: str) -> None:
    """A path opens, with sqlite3's own arguments."""
    target = driver.target(sqlite_url, "?timeout=1.5&cached_statements=10")
    assert await driver.scalar(target, "PRAGMA busy_timeout") == 1500
