"""Which driver a database URL leads to, and what the driver is told."""

import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Literal

import aiomysql
import aiosqlite
import asyncpg
import psycopg2.extensions  # type: ignore[import-untyped]
import pymysql
import pytest
from asyncmy.connection import connect as asyncmy_connect
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import make_conninfo
from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from fastdb.errors import InvalidURL, MissingDriver
from fastdb.urls import Target, parse_url
from urls_table import BAD, GOOD, Bad, Good

SECRETS = ("hunter", "ter2", "dangerous", "pw:")


def _parse(row: Good | Bad) -> Target:
    text: Any = row.text
    return parse_url(text, world=row.world, installed=lambda name: name not in row.missing)


def _name(row: Good | Bad) -> str:
    return f"{row.world}-{row.text!s}"


@pytest.mark.parametrize("row", GOOD, ids=_name)
def test_good_url(row: Good) -> None:
    """A URL in any spelling gives the fitting driver, a clean place and the driver's arguments."""
    target = _parse(row)
    assert target == Target(
        backend=target.backend,
        driver=row.driver,
        url=row.url,
        connect_args=row.args,
        tls=row.tls,
        in_memory=row.in_memory,
        transaction_pooler=row.pooler,
    )
    assert [*map(type, target.connect_args.values())] == [*map(type, row.args.values())]
    dialect = row.url.get_backend_name()
    assert target.backend == ("mysql" if dialect == "mariadb" else dialect)


@pytest.mark.parametrize("row", BAD, ids=_name)
def test_bad_url(row: Bad) -> None:
    """A URL that cannot work is refused with the reason and the remedy."""
    with pytest.raises(row.error) as caught:
        _parse(row)
    assert type(caught.value) is row.error
    assert str(caught.value) == row.message


@pytest.mark.parametrize("row", BAD, ids=_name)
def test_no_secret_in_an_error(row: Bad) -> None:
    """No message, argument or chained exception holds any part of a password."""
    with pytest.raises(row.error) as caught:
        _parse(row)
    chain = "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    for shown in (str(caught.value), repr(caught.value), repr(caught.value.args), chain):
        assert not [secret for secret in SECRETS if secret in shown]


@pytest.mark.parametrize("text", ["app:hunter2", "app:hunter2%2F", "app:hun?ter2", "app:h#unter2"])
@pytest.mark.parametrize("query", ["", "?sslmode=nonsense", "?nonsense=1", "?connect_timeout=x"])
@pytest.mark.parametrize("at", ["@", "@@", "/@", "@/", "@:", "@[", "@a:b", "@,", ":@h:x", "?@"])
def test_no_secret_however_the_url_is_broken(text: str, at: str, query: str) -> None:
    """Whatever is broken around a password, the error and the target's repr do not show it."""
    try:
        shown = repr(parse_url(f"postgresql://{text}{at}db.example/shop{query}", world="async"))
    except InvalidURL as error:
        shown = "".join(traceback.format_exception(error)).partition("fastdb.errors.")[2]
    assert "unter" not in shown
    assert "hun" not in shown
    assert "ter2" not in shown


def test_no_secret_in_the_repr() -> None:
    """The repr of a target masks the password, wherever the URL had it."""
    in_place = parse_url("postgresql://app:hunter2@db.example/shop", world="async")
    parameter = parse_url("postgresql://db.example/shop?password=hunter2", world="async")
    assert "hunter2" not in repr(in_place) + repr(parameter)
    assert in_place.url.password == parameter.url.password == "hunter2"


def _validate_psycopg(arguments: Mapping[str, Any], connection: type[Any]) -> None:
    own = {"prepare_threshold"}
    inspect.signature(connection.connect).bind(**{k: arguments[k] for k in own & {*arguments}})
    make_conninfo(**{key: value for key, value in arguments.items() if key not in own})


def _validate_asyncpg(arguments: Mapping[str, Any]) -> None:
    # This one is SQLAlchemy's.
    arguments = {k: v for k, v in arguments.items() if k != "prepared_statement_cache_size"}
    inspect.signature(asyncpg.connect).bind(**arguments)


def _validate(driver: str, world: Literal["async", "sync"], arguments: Mapping[str, Any]) -> None:
    signatures: dict[str, Callable[..., Any]] = {
        "aiomysql": aiomysql.connect,
        "asyncmy": asyncmy_connect,
        "pymysql": pymysql.connections.Connection,
        "aiosqlite": aiosqlite.connect,
    }
    if driver == "asyncpg":
        _validate_asyncpg(arguments)
    elif driver == "psycopg":
        _validate_psycopg(arguments, AsyncConnection if world == "async" else Connection)
    elif driver == "psycopg2":
        psycopg2.extensions.make_dsn(**arguments)
    elif driver in signatures:
        inspect.signature(signatures[driver]).bind_partial(**arguments)
    else:
        assert driver == "pysqlite"
        assert {*arguments} <= {
            "timeout",
            "detect_types",
            "cached_statements",
            "check_same_thread",
        }


@pytest.mark.parametrize("row", GOOD, ids=_name)
def test_the_driver_accepts_the_arguments(row: Good) -> None:
    """Every argument is one that the installed driver's connect function really has."""
    _validate(row.driver, row.world, _parse(row).connect_args)


@pytest.mark.parametrize("row", GOOD, ids=_name)
def test_sqlalchemy_passes_everything_on(row: Good) -> None:
    """SQLAlchemy's dialect makes arguments of the clean URL that do not collide with ours."""
    target = _parse(row)
    if row.world == "async":
        dialect = create_async_engine(target.url, poolclass=NullPool).dialect
    else:
        dialect = create_engine(target.url, poolclass=NullPool).dialect
    assert dialect.driver in (target.driver, "psycopg_async")
    positional, named = dialect.create_connect_args(target.url)
    if target.backend != "sqlite":
        assert positional in ([], [""])
        # SQLAlchemy's own flag for row counts is kept where we set flags.
        both = {*named} & {*target.connect_args}
        assert both <= {"client_flag"}
        for name in both:
            assert target.connect_args[name] & named[name] == named[name]


@pytest.mark.parametrize("row", [row for row in GOOD if row.tls is not None], ids=_name)
def test_tls_is_never_an_argument(row: Good) -> None:
    """What a URL says of TLS is in `tls`, so that one place decides how each driver is told."""
    assert not [name for name in _parse(row).connect_args if "ssl" in name]


def test_a_url_object_is_accepted_and_left_alone() -> None:
    """SQLAlchemy's URL object gives the same as its text, and stays what it was."""
    text = "postgresql://app:p%40ss@db.example:6432/shop?sslmode=require&connect_timeout=5"
    url = make_url(text)
    assert parse_url(url, world="async") == parse_url(text, world="async")
    assert url == make_url(text)


@pytest.mark.parametrize(
    ("host", "port", "args"),
    [
        ("/tmp", None, {"host": "/tmp"}),  # noqa: S108
        ("/tmp", 5433, {"host": "/tmp", "port": 5433}),  # noqa: S108
        ("a:5432,b", 5433, {"host": ["a", "b"], "port": [5432, 5433]}),
    ],
)
def test_the_host_of_a_url_object(host: str, port: int | None, args: Mapping[str, object]) -> None:
    """A URL object may hold a socket or several hosts in the place of one."""
    url = URL.create("postgresql", username="app", host=host, port=port, database="shop")
    assert parse_url(url, world="async").connect_args == args


def test_several_hosts_in_a_url_object() -> None:
    """A parameter that is repeated in a URL object is read like one in text."""
    url = URL.create("postgresql", database="shop", query={"host": ("a:5432", "b:5433")})
    assert parse_url(url, world="sync").connect_args == {"host": "a,b", "port": "5432,5433"}


def test_an_ipv6_address_in_a_url_object() -> None:
    """A URL object holds an IPv6 address without its brackets."""
    url = URL.create("mysql", host="::1", port=3306)
    assert parse_url(url, world="async").url.host == "::1"


def test_one_url_serves_both_worlds() -> None:
    """The clean URL of one world leads to the same place in the other."""
    target = parse_url("postgres://app:p%40ss@db.example:6432/shop", world="async")
    twin = parse_url(target.url, world="sync")
    assert (twin.driver, twin.url.set(drivername="x")) == (
        "psycopg",
        target.url.set(drivername="x"),
    )


def test_a_missing_driver_is_an_import_error() -> None:
    """Code that guards an import catches a missing driver too."""
    with pytest.raises(ImportError) as caught:
        parse_url("mysql://db.example/shop", world="async", installed=lambda name: False)
    assert type(caught.value) is MissingDriver


def test_only_candidates_are_looked_up() -> None:
    """Drivers that would not be used are not looked for."""
    asked: list[str] = []

    def installed(name: str) -> bool:
        asked.append(name)
        return name == "psycopg"

    parse_url("postgresql://db.example/shop", world="async", installed=installed)
    assert asked == ["asyncpg", "psycopg"]
