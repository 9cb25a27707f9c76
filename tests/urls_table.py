"""Database URLs, and what must come of each: the table that test_urls.py goes through."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import URL

from fastdb.errors import ConfigurationError, InvalidURL, MissingDriver
from fastdb.options import TLSOptions
from fastdb.urls import World


@dataclass(frozen=True)
class Good:
    """A URL that is accepted, and its target."""

    text: str
    world: World
    driver: str
    url: URL
    args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tls: TLSOptions | None = None
    in_memory: bool = False
    pooler: bool = False
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bad:
    """A URL that is refused, and the whole message."""

    text: object
    message: str
    world: World = "async"
    error: type[ConfigurationError] = InvalidURL
    missing: tuple[str, ...] = ()


def _url(drivername: str, **parts: Any) -> URL:
    return URL.create(drivername, **parts)


def _tls(mode: Any, **files: str) -> TLSOptions:
    return TLSOptions(mode=mode, **files)


_DB = {"username": "app", "host": "db.example", "database": "shop"}
_NO_USER = {"host": "db.example", "database": "shop"}

_SQLITE = (
    Good("sqlite://", "async", "aiosqlite", _url("sqlite+aiosqlite"), in_memory=True),
    Good("sqlite://", "sync", "pysqlite", _url("sqlite+pysqlite"), in_memory=True),
    Good("sqlite:///", "async", "aiosqlite", _url("sqlite+aiosqlite"), in_memory=True),
    Good("sqlite:///:memory:", "async", "aiosqlite", _url("sqlite+aiosqlite"), in_memory=True),
    Good(
        "sqlite+aiosqlite:///:memory:", "sync", "pysqlite", _url("sqlite+pysqlite"), in_memory=True
    ),
    Good("sqlite:///app.db", "async", "aiosqlite", _url("sqlite+aiosqlite", database="app.db")),
    Good("sqlite:///app.db", "sync", "pysqlite", _url("sqlite+pysqlite", database="app.db")),
    Good(
        "sqlite+aiosqlite:///app.db",
        "async",
        "aiosqlite",
        _url("sqlite+aiosqlite", database="app.db"),
    ),
    Good(
        "sqlite+aiosqlite:///app.db", "sync", "pysqlite", _url("sqlite+pysqlite", database="app.db")
    ),
    Good(
        "sqlite+pysqlite:///app.db",
        "async",
        "aiosqlite",
        _url("sqlite+aiosqlite", database="app.db"),
    ),
    Good(
        "sqlite+pysqlite:///dir/app.db",
        "sync",
        "pysqlite",
        _url("sqlite+pysqlite", database="dir/app.db"),
    ),
    Good(
        "sqlite+fastdb:///app.db", "async", "aiosqlite", _url("sqlite+aiosqlite", database="app.db")
    ),
    Good("sqlite+fastdb:///app.db", "sync", "pysqlite", _url("sqlite+pysqlite", database="app.db")),
    Good(
        "SQLite:////var/lib/app/app.db",
        "async",
        "aiosqlite",
        _url("sqlite+aiosqlite", database="/var/lib/app/app.db"),
    ),
    Good(
        "sqlite:///C:/data/app.db",
        "async",
        "aiosqlite",
        _url("sqlite+aiosqlite", database="C:/data/app.db"),
    ),
    Good(
        "sqlite:///my%20data/app.db",
        "async",
        "aiosqlite",
        _url("sqlite+aiosqlite", database="my data/app.db"),
    ),
    Good(
        "sqlite:///app.db?timeout=2.5",
        "async",
        "aiosqlite",
        _url("sqlite+aiosqlite", database="app.db"),
        args={"timeout": 2.5},
    ),
    Good(
        ("sqlite:///app.db?timeout=5&detect_types=3&cached_statements=0&check_same_thread=false"),
        "sync",
        "pysqlite",
        _url("sqlite+pysqlite", database="app.db"),
        args={
            "timeout": 5.0,
            "detect_types": 3,
            "cached_statements": 0,
            "check_same_thread": False,
        },
    ),
    Good(
        "sqlite:///file:app.db?mode=ro&uri=true",
        "async",
        "aiosqlite",
        _url("sqlite+aiosqlite", database="file:app.db", query={"mode": "ro", "uri": "true"}),
    ),
    Good(
        "sqlite:///file:app.db?mode=ro&cache=shared&uri=true&timeout=1",
        "sync",
        "pysqlite",
        _url(
            "sqlite+pysqlite",
            database="file:app.db",
            query={"mode": "ro", "cache": "shared", "uri": "true"},
        ),
        args={"timeout": 1.0},
    ),
    Good(
        "sqlite:///file::memory:?cache=shared&uri=true",
        "async",
        "aiosqlite",
        _url(
            "sqlite+aiosqlite", database="file::memory:", query={"cache": "shared", "uri": "true"}
        ),
        in_memory=True,
    ),
    Good(
        "sqlite:///file:shop?mode=memory&cache=shared&uri=true",
        "sync",
        "pysqlite",
        _url(
            "sqlite+pysqlite",
            database="file:shop",
            query={"mode": "memory", "cache": "shared", "uri": "true"},
        ),
        in_memory=True,
    ),
    Good(
        "sqlite:///file:/shop?vfs=memdb&uri=true",
        "sync",
        "pysqlite",
        _url("sqlite+pysqlite", database="file:/shop", query={"vfs": "memdb", "uri": "true"}),
        in_memory=True,
    ),
    Good(
        "sqlite:///file:/var/lib/app.db?immutable=1&uri=1",
        "sync",
        "pysqlite",
        _url(
            "sqlite+pysqlite",
            database="file:/var/lib/app.db",
            query={"immutable": "1", "uri": "true"},
        ),
    ),
)

_POSTGRESQL = (
    Good("postgres://app@db.example/shop", "async", "asyncpg", _url("postgresql+asyncpg", **_DB)),
    Good("postgres://app@db.example/shop", "sync", "psycopg", _url("postgresql+psycopg", **_DB)),
    Good(
        "postgresql://app@db.example/shop",
        "async",
        "psycopg",
        _url("postgresql+psycopg", **_DB),
        missing=("asyncpg",),
    ),
    Good(
        "postgresql://app@db.example/shop",
        "sync",
        "psycopg2",
        _url("postgresql+psycopg2", **_DB),
        missing=("psycopg",),
    ),
    Good(
        "postgresql+asyncpg://app@db.example/shop",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_DB),
    ),
    Good(
        "postgresql+asyncpg://app@db.example/shop",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_DB),
    ),
    Good(
        "postgresql+asyncpg://app@db.example/shop",
        "sync",
        "psycopg2",
        _url("postgresql+psycopg2", **_DB),
        missing=("psycopg",),
    ),
    Good(
        "postgresql+psycopg://app@db.example/shop",
        "async",
        "psycopg",
        _url("postgresql+psycopg", **_DB),
    ),
    Good(
        "postgresql+psycopg://app@db.example/shop",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_DB),
    ),
    Good(
        "postgresql+psycopg_async://app@db.example/shop",
        "async",
        "psycopg",
        _url("postgresql+psycopg", **_DB),
    ),
    Good(
        "postgresql+psycopg_async://app@db.example/shop",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_DB),
    ),
    Good(
        "postgresql+psycopg2://app@db.example/shop",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_DB),
    ),
    Good(
        "postgresql+psycopg2://app@db.example/shop",
        "async",
        "psycopg",
        _url("postgresql+psycopg", **_DB),
        missing=("asyncpg",),
    ),
    Good(
        "postgresql+psycopg2://app@db.example/shop",
        "sync",
        "psycopg2",
        _url("postgresql+psycopg2", **_DB),
    ),
    Good(
        "postgres+asyncpg://app@db.example/shop",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_DB),
    ),
    Good("postgresql://", "async", "asyncpg", _url("postgresql+asyncpg")),
    Good("postgresql:///shop", "async", "asyncpg", _url("postgresql+asyncpg", database="shop")),
    Good(
        "postgresql://db.example", "sync", "psycopg", _url("postgresql+psycopg", host="db.example")
    ),
)

_PASSWORDS = (
    Good(
        "postgresql://app:p%40ss%2Fw%3A%25@db.example:6432/shop",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_DB, password="p@ss/w:%", port=6432),
    ),
    Good(
        "postgresql://app:a#b?c[d:e@db.example/shop",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_DB, password="a#b?c[d:e"),
    ),
    Good(
        "postgresql://app:100%@db.example/shop",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_DB, password="100%"),
    ),
    Good(
        "postgresql://app:pässwörd@db.example/shop",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_DB, password="pässwörd"),
    ),
    Good(
        "postgresql://app:a+b@db.example/shop",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_DB, password="a+b"),
    ),
    Good(
        "postgresql://app:@db.example/shop",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_DB, password=""),
    ),
    Good(
        "postgresql://db.example/shop?user=app&password=p%40ss",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_DB, password="p@ss"),
    ),
    Good(
        "postgresql://app@db.example/?dbname=shop",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_DB),
    ),
    Good(
        "postgresql://db.example:5432/shop?application_name=shop",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER, port=5432),
        args={"application_name": "shop"},
    ),
    Good(
        "postgresql://db.example:5432?dbname=shop&user=app",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_DB, port=5432),
    ),
)

_HOSTS = (
    Good(
        "postgresql://app@[::1]:5433/shop",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", username="app", host="::1", port=5433, database="shop"),
    ),
    Good(
        "postgresql://app@a:1,b:2/shop",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", username="app", database="shop"),
        args={"host": ["a", "b"], "port": [1, 2]},
    ),
    Good(
        "postgresql://app@a:1,b:2/shop",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", username="app", database="shop"),
        args={"host": "a,b", "port": "1,2"},
    ),
    Good(
        "postgresql+psycopg://app@a,b/shop?target_session_attrs=read-write",
        "async",
        "psycopg",
        _url("postgresql+psycopg", username="app", database="shop"),
        args={"target_session_attrs": "read-write", "host": "a,b", "port": "5432,5432"},
    ),
    Good(
        "postgresql+psycopg2://app@a,b:6000/shop",
        "sync",
        "psycopg2",
        _url("postgresql+psycopg2", username="app", database="shop"),
        args={"host": "a,b", "port": "5432,6000"},
    ),
    Good(
        "postgresql://app@/shop?host=a:5432&host=b:5433",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", username="app", database="shop"),
        args={"host": ["a", "b"], "port": [5432, 5433]},
    ),
    Good(
        "postgresql://app@/shop?host=a,b&port=5432,5433",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", username="app", database="shop"),
        args={"host": "a,b", "port": "5432,5433"},
    ),
    Good(
        "postgresql://app@/shop?host=a,b&port=6432",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", username="app", database="shop"),
        args={"host": ["a", "b"], "port": [6432, 6432]},
    ),
    Good(
        "postgresql://app@a:6432/shop?host=b,c",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", username="app", database="shop"),
        args={"host": ["b", "c"], "port": [6432, 6432]},
    ),
    Good(
        "postgresql://app@/shop?host=[::1]:5432&host=[::2]:5433",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", username="app", database="shop"),
        args={"host": ["::1", "::2"], "port": [5432, 5433]},
    ),
    Good(
        "postgresql://app@/shop?host=::1&port=5433",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", username="app", host="::1", port=5433, database="shop"),
    ),
    Good(
        "postgresql://app@localhost/shop?host=/var/run/postgresql",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", username="app", database="shop"),
        args={"host": "/var/run/postgresql"},
    ),
    Good(
        "postgresql://app@/shop?host=/var/run/postgresql&port=5433",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", username="app", database="shop"),
        args={"host": "/var/run/postgresql", "port": 5433},
    ),
    Good(
        "postgresql+psycopg2://app@/shop?host=/cloudsql/project:region:instance",
        "sync",
        "psycopg2",
        _url("postgresql+psycopg2", username="app", database="shop"),
        args={"host": "/cloudsql/project:region:instance"},
    ),
    Good(
        "postgresql://%2Fvar%2Frun%2Fpostgresql/shop",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", database="shop"),
        args={"host": "/var/run/postgresql"},
    ),
    Good(
        "postgresql://app@:5433/shop",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", username="app", database="shop"),
        args={"port": 5433},
    ),
    Good(
        "postgresql://db.example/shop?hostaddr=10.0.0.1",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={"hostaddr": "10.0.0.1"},
    ),
)

_POSTGRESQL_TLS = (
    Good(
        "postgresql://db.example/shop?sslmode=disable",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        tls=_tls("disable"),
    ),
    Good(
        "postgresql://db.example/shop?sslmode=allow",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        tls=_tls("prefer"),
    ),
    Good(
        "postgresql://db.example/shop?sslmode=prefer",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        tls=_tls("prefer"),
    ),
    Good(
        "postgresql://db.example/shop?sslmode=require",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        tls=_tls("require"),
    ),
    Good(
        "postgresql://db.example/shop?sslmode=require&sslrootcert=/ca.pem",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        tls=_tls("verify-ca", ca_file="/ca.pem"),
    ),
    Good(
        "postgresql://db.example/shop?sslmode=verify-ca&sslrootcert=/ca.pem",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        tls=_tls("verify-ca", ca_file="/ca.pem"),
    ),
    Good(
        "postgresql://db.example/shop?sslmode=verify-full",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        tls=_tls("verify-full"),
    ),
    Good(
        "postgresql://db.example/shop?sslmode=verify-full&sslrootcert=system",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        tls=_tls("verify-full"),
    ),
    Good(
        "postgresql://db.example/shop?sslrootcert=system",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        tls=_tls("verify-full"),
    ),
    Good(
        "postgresql://db.example/shop?sslrootcert=/ca.pem",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        tls=_tls("verify-full", ca_file="/ca.pem"),
    ),
    Good(
        "postgresql://db.example/shop?sslmode=verify-full&sslcert=/c.pem&sslkey=/k.pem",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        tls=_tls("verify-full", cert_file="/c.pem", key_file="/k.pem"),
    ),
    Good(
        "postgresql://db.example/shop?sslcert=/c.pem",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        tls=_tls("require", cert_file="/c.pem"),
    ),
    Good(
        "postgresql+asyncpg://db.example/shop?ssl=require",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        tls=_tls("require"),
    ),
    Good(
        "postgresql+asyncpg://db.example/shop?ssl=true",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        tls=_tls("verify-full"),
    ),
    Good(
        "postgresql+asyncpg://db.example/shop?ssl=false",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        tls=_tls("disable"),
    ),
)

_POSTGRESQL_PARAMETERS = (
    Good(
        "postgresql://db.example/shop?connect_timeout=10",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        args={"timeout": 10.0},
    ),
    Good(
        "postgresql://db.example/shop?connect_timeout=10",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={"connect_timeout": 10},
    ),
    Good(
        "postgresql+psycopg2://db.example/shop?connect_timeout=0",
        "sync",
        "psycopg2",
        _url("postgresql+psycopg2", **_NO_USER),
        args={"connect_timeout": 0},
    ),
    Good(
        "postgresql://db.example/shop?connect_timeout=0",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        args={"timeout": None},
    ),
    Good(
        "postgresql+asyncpg://db.example/shop?timeout=2.5&command_timeout=30",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        args={"timeout": 2.5, "command_timeout": 30.0},
    ),
    Good(
        "postgresql+asyncpg://db.example/shop?timeout=2.5",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={"connect_timeout": 3},
    ),
    Good(
        "postgresql://db.example/shop?application_name=shop&fallback_application_name=x",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        args={"server_settings": {"application_name": "shop"}},
    ),
    Good(
        "postgresql://db.example/shop?fallback_application_name=x",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        args={"server_settings": {"application_name": "x"}},
    ),
    Good(
        "postgresql://db.example/shop?application_name=shop&fallback_application_name=x",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={"application_name": "shop", "fallback_application_name": "x"},
    ),
    Good(
        (
            "postgresql://db.example/shop?application_name=shop&"
            "options=-c%20search_path%3Da%5C%20b,c%20--statement-timeout%3D5s%20-cjit%3Doff"
        ),
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        args={
            "server_settings": {
                "application_name": "shop",
                "search_path": "a b,c",
                "statement_timeout": "5s",
                "jit": "off",
            }
        },
    ),
    Good(
        "postgresql://db.example/shop?options=-c%20jit%3Doff",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={"options": "-c jit=off"},
    ),
    Good(
        "postgresql://db.example/shop?sslmode=require&channel_binding=prefer",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        tls=_tls("require"),
    ),
    Good(
        "postgresql://db.example/shop?sslmode=verify-full&channel_binding=require",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        tls=_tls("verify-full"),
    ),
    Good(
        "postgresql://db.example/shop?sslmode=require&channel_binding=require",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={"channel_binding": "require"},
        tls=_tls("require"),
    ),
    Good(
        "postgresql+psycopg://db.example/shop?channel_binding=require",
        "async",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={"channel_binding": "require"},
    ),
    Good(
        (
            "postgresql://db.example/shop?gssencmode=disable&load_balance_hosts=disable&"
            "keepalives=0&client_encoding=UTF8"
        ),
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
    ),
    Good(
        (
            "postgresql://db.example/shop?gssencmode=disable&load_balance_hosts=random&"
            "keepalives_idle=30&tcp_user_timeout=5000&client_encoding=utf8"
        ),
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={
            "gssencmode": "disable",
            "load_balance_hosts": "random",
            "keepalives_idle": 30,
            "tcp_user_timeout": 5000,
            "client_encoding": "utf8",
        },
    ),
    Good(
        "postgresql://db.example/shop?keepalives=1&keepalives_interval=5&keepalives_count=3",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={"keepalives": 1, "keepalives_interval": 5, "keepalives_count": 3},
    ),
    Good(
        "postgresql://db.example/shop?passfile=/run/pgpass",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        args={"passfile": "/run/pgpass"},
    ),
    Good(
        "postgresql:///?service=shop",
        "sync",
        "psycopg",
        _url("postgresql+psycopg"),
        args={"service": "shop"},
    ),
    Good(
        "postgresql://db.example/shop?pgbouncer=true",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        args={"statement_cache_size": 0, "prepared_statement_cache_size": 0},
        pooler=True,
    ),
    Good(
        "postgresql+psycopg://db.example/shop?pgbouncer=true",
        "async",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={"prepare_threshold": None},
        pooler=True,
    ),
    Good(
        "postgresql+psycopg2://db.example/shop?pgbouncer=true",
        "sync",
        "psycopg2",
        _url("postgresql+psycopg2", **_NO_USER),
        pooler=True,
    ),
    Good(
        "postgresql://db.example/shop?pgbouncer=false",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
    ),
    Good(
        (
            "postgresql+asyncpg://db.example/shop?statement_cache_size=0&"
            "prepared_statement_cache_size=0"
        ),
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        args={"statement_cache_size": 0, "prepared_statement_cache_size": 0},
    ),
    Good(
        "postgresql+asyncpg://db.example/shop?statement_cache_size=0",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={"prepare_threshold": None},
    ),
    Good(
        (
            "postgresql+asyncpg://db.example/shop?statement_cache_size=200&"
            "max_cached_statement_lifetime=60"
        ),
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
    ),
    Good(
        (
            "postgresql+asyncpg://db.example/shop?prepared_statement_cache_size=500&"
            "max_cacheable_statement_size=1024"
        ),
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        args={"prepared_statement_cache_size": 500, "max_cacheable_statement_size": 1024},
    ),
    Good(
        "postgresql+psycopg://db.example/shop?prepare_threshold=None",
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={"prepare_threshold": None},
    ),
    Good(
        "postgresql+psycopg://db.example/shop?prepare_threshold=3",
        "async",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={"prepare_threshold": 3},
    ),
    Good(
        "postgresql://db.example/shop?prepare_threshold=none",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
        args={"statement_cache_size": 0, "prepared_statement_cache_size": 0},
    ),
    Good(
        "postgresql://db.example/shop?sslnegotiation=postgres&sslcompression=0&sslsni=1",
        "async",
        "asyncpg",
        _url("postgresql+asyncpg", **_NO_USER),
    ),
    Good(
        (
            "postgresql://db.example/shop?require_auth=scram-sha-256&requirepeer=postgres&"
            "krbsrvname=postgres&gsslib=gssapi"
        ),
        "sync",
        "psycopg",
        _url("postgresql+psycopg", **_NO_USER),
        args={
            "require_auth": "scram-sha-256",
            "requirepeer": "postgres",
            "krbsrvname": "postgres",
            "gsslib": "gssapi",
        },
    ),
)

_MYSQL = (
    Good("mysql://app@db.example/shop", "async", "aiomysql", _url("mysql+aiomysql", **_DB)),
    Good(
        "mysql://app@db.example/shop",
        "async",
        "asyncmy",
        _url("mysql+asyncmy", **_DB),
        missing=("aiomysql",),
    ),
    Good("mysql://app@db.example/shop", "sync", "pymysql", _url("mysql+pymysql", **_DB)),
    Good(
        "mariadb://app@db.example:3307/shop",
        "async",
        "aiomysql",
        _url("mariadb+aiomysql", **_DB, port=3307),
    ),
    Good("mariadb://app@db.example/shop", "sync", "pymysql", _url("mariadb+pymysql", **_DB)),
    Good(
        "mysql+aiomysql://app@db.example/shop", "async", "aiomysql", _url("mysql+aiomysql", **_DB)
    ),
    Good("mysql+aiomysql://app@db.example/shop", "sync", "pymysql", _url("mysql+pymysql", **_DB)),
    Good("mysql+asyncmy://app@db.example/shop", "async", "asyncmy", _url("mysql+asyncmy", **_DB)),
    Good("mysql+asyncmy://app@db.example/shop", "sync", "pymysql", _url("mysql+pymysql", **_DB)),
    Good("mysql+pymysql://app@db.example/shop", "async", "aiomysql", _url("mysql+aiomysql", **_DB)),
    Good(
        "mysql+pymysql://app@db.example/shop",
        "async",
        "asyncmy",
        _url("mysql+asyncmy", **_DB),
        missing=("aiomysql",),
    ),
    Good("mysql+pymysql://app@db.example/shop", "sync", "pymysql", _url("mysql+pymysql", **_DB)),
    Good(
        "mariadb+aiomysql://app@db.example/shop",
        "async",
        "aiomysql",
        _url("mariadb+aiomysql", **_DB),
    ),
    Good(
        "mariadb+asyncmy://app@db.example/shop", "async", "asyncmy", _url("mariadb+asyncmy", **_DB)
    ),
    Good(
        "mysql://app:p%40ss%2Fw%25@db.example/shop?charset=utf8mb4",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB, password="p@ss/w%"),
        args={"charset": "utf8mb4"},
    ),
    Good(
        "mysql://db.example/shop?user=app&passwd=p%40ss",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB, password="p@ss"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl-mode=DISABLED",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("disable"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl-mode=PREFERRED",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("prefer"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl-mode=REQUIRED",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("require"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl_mode=required&ssl_ca=/ca.pem",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("require"),
    ),
    Good(
        "mysql+asyncmy://app@db.example/shop?ssl-mode=VERIFY_CA&ssl-ca=/ca.pem",
        "async",
        "asyncmy",
        _url("mysql+asyncmy", **_DB),
        tls=_tls("verify-ca", ca_file="/ca.pem"),
    ),
    Good(
        (
            "mysql://app@db.example/shop?ssl-mode=VERIFY_IDENTITY&ssl-ca=/ca.pem&"
            "ssl-cert=/c.pem&ssl-key=/k.pem"
        ),
        "sync",
        "pymysql",
        _url("mysql+pymysql", **_DB),
        tls=_tls("verify-full", ca_file="/ca.pem", cert_file="/c.pem", key_file="/k.pem"),
    ),
    Good(
        "mysql://app@db.example/shop?sslmode=verify-full",
        "sync",
        "pymysql",
        _url("mysql+pymysql", **_DB),
        tls=_tls("verify-full"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl_ca=/ca.pem",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("verify-full", ca_file="/ca.pem"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl_ca=/ca.pem&ssl_check_hostname=false",
        "sync",
        "pymysql",
        _url("mysql+pymysql", **_DB),
        tls=_tls("verify-ca", ca_file="/ca.pem"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl_ca=/ca.pem&ssl_verify_cert=false",
        "sync",
        "pymysql",
        _url("mysql+pymysql", **_DB),
        tls=_tls("require"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl_cert=/c.pem&ssl_key=/k.pem",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("require", cert_file="/c.pem", key_file="/k.pem"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl_verify_cert=true",
        "sync",
        "pymysql",
        _url("mysql+pymysql", **_DB),
        tls=_tls("verify-ca"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl_verify_cert=true&ssl_verify_identity=true",
        "sync",
        "pymysql",
        _url("mysql+pymysql", **_DB),
        tls=_tls("verify-full"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl=true",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("require"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl=false",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("disable"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl=true&ssl_ca=/ca.pem",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("verify-full", ca_file="/ca.pem"),
    ),
    Good(
        "mysql://app@db.example/shop?useSSL=true&allowPublicKeyRetrieval=true",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("require"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl_disabled=true",
        "sync",
        "pymysql",
        _url("mysql+pymysql", **_DB),
        tls=_tls("disable"),
    ),
    Good(
        "mysql://app@db.example/shop?sslaccept=strict",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("verify-full"),
    ),
    Good(
        'mysql://app@db.example/shop?ssl={"rejectUnauthorized":true}',
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("verify-full"),
    ),
    Good(
        "mysql://app@db.example/shop?ssl=%7B%22rejectUnauthorized%22%3A%20false%7D",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        tls=_tls("require"),
    ),
    Good(
        "mysql://app@/shop?unix_socket=/run/mysqld/mysqld.sock",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", username="app", database="shop"),
        args={"unix_socket": "/run/mysqld/mysqld.sock"},
    ),
    Good(
        "mysql://app@localhost/shop?socket=/run/mysqld/mysqld.sock",
        "sync",
        "pymysql",
        _url("mysql+pymysql", username="app", host="localhost", database="shop"),
        args={"unix_socket": "/run/mysqld/mysqld.sock"},
    ),
    Good(
        "mysql://app@/shop?host=/run/mysqld/mysqld.sock",
        "sync",
        "pymysql",
        _url("mysql+pymysql", username="app", database="shop"),
        args={"unix_socket": "/run/mysqld/mysqld.sock"},
    ),
    Good(
        "mysql://app@/shop?host=db.example&port=3307",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB, port=3307),
    ),
    Good(
        "mysql://app@:3307/shop",
        "async",
        "aiomysql",
        _url("mysql+aiomysql", username="app", database="shop"),
        args={"port": 3307},
    ),
    Good(
        (
            "mysql+aiomysql://app@db.example/shop?connect_timeout=5&"
            "init_command=SET%20time_zone%3D'UTC'&sql_mode=ANSI&local_infile=0&"
            "program_name=shop&use_unicode=1&binary_prefix=true&"
            "auth_plugin=mysql_clear_password&client_flag=65536"
        ),
        "async",
        "aiomysql",
        _url("mysql+aiomysql", **_DB),
        args={
            "connect_timeout": 5,
            "init_command": "SET time_zone='UTC'",
            "sql_mode": "ANSI",
            "local_infile": False,
            "program_name": "shop",
            "auth_plugin": "mysql_clear_password",
            "client_flag": 65538,
        },
    ),
    Good(
        (
            "mysql+asyncmy://app@db.example/shop?connect_timeout=5&read_timeout=30&"
            "binary_prefix=true&max_allowed_packet=1048576&local_infile=true&charset=utf8mb4"
        ),
        "async",
        "asyncmy",
        _url("mysql+asyncmy", **_DB),
        args={
            "connect_timeout": 5,
            "read_timeout": 30,
            "binary_prefix": True,
            "max_allowed_packet": 1048576,
            "local_infile": True,
            "charset": "utf8mb4",
        },
    ),
    Good(
        (
            "mysql+pymysql://app@db.example/shop?connect-timeout=5&read_timeout=30&"
            "write_timeout=30&collation=utf8mb4_unicode_ci&charset=utf8mb4&"
            "bind_address=10.0.0.1&compress=false&read_default_file=/etc/my.cnf&"
            "read_default_group=app"
        ),
        "sync",
        "pymysql",
        _url("mysql+pymysql", **_DB),
        args={
            "connect_timeout": 5,
            "read_timeout": 30,
            "write_timeout": 30,
            "collation": "utf8mb4_unicode_ci",
            "charset": "utf8mb4",
            "bind_address": "10.0.0.1",
            "read_default_file": "/etc/my.cnf",
            "read_default_group": "app",
        },
    ),
)

GOOD = (
    *_SQLITE,
    *_POSTGRESQL,
    *_PASSWORDS,
    *_HOSTS,
    *_POSTGRESQL_TLS,
    *_POSTGRESQL_PARAMETERS,
    *_MYSQL,
)

BAD = (
    Bad(
        "",
        (
            "The database URL is empty; write for example 'sqlite:///app.db' or "
            "'postgresql://user:password@host/name'."
        ),
    ),
    Bad(
        "   ",
        (
            "The database URL is empty; write for example 'sqlite:///app.db' or "
            "'postgresql://user:password@host/name'."
        ),
    ),
    Bad(
        None,
        (
            "The database URL is None; it must be text, such as 'sqlite:///app.db' or "
            "'postgresql://user:password@host/name'. Is an environment variable not set?"
        ),
    ),
    Bad(
        42,
        (
            "The database URL is of type int; it must be text, such as 'sqlite:///app.db' or "
            "'postgresql://user:password@host/name'. Is an environment variable not set?"
        ),
    ),
    Bad(
        b"sqlite:///app.db",
        (
            "The database URL is of type bytes; it must be text, such as 'sqlite:///app.db' "
            "or 'postgresql://user:password@host/name'. Is an environment variable not set?"
        ),
    ),
    Bad(
        " sqlite:///app.db",
        "The database URL begins or ends with white space or a line break; remove it.",
    ),
    Bad(
        "sqlite:///app.db\n",
        "The database URL begins or ends with white space or a line break; remove it.",
    ),
    Bad(
        '"postgresql://app:hunter2@db.example/shop"',
        (
            "The database URL has quotation marks around it, which are part of the value; "
            "remove them where the variable is set (in env files of Docker, for one)."
        ),
    ),
    Bad(
        "'postgresql://app:hunter2@db.example/shop'",
        (
            "The database URL has quotation marks around it, which are part of the value; "
            "remove them where the variable is set (in env files of Docker, for one)."
        ),
    ),
    Bad(
        "postgresql://app:hun\nter2@db.example/shop",
        "The database URL holds a line break or another control character; remove it.",
    ),
    Bad(
        "${DATABASE_URL}",
        (
            "The database URL holds a variable (${NAME}, $NAME or {{name}}) that was not "
            "replaced by its value; expand it before it reaches fastdb. A '$' that belongs "
            "to a password is written %24."
        ),
    ),
    Bad(
        "$DATABASE_URL",
        (
            "The database URL holds a variable (${NAME}, $NAME or {{name}}) that was not "
            "replaced by its value; expand it before it reaches fastdb. A '$' that belongs "
            "to a password is written %24."
        ),
    ),
    Bad(
        "postgresql://app:$PASSWORD@db.example/shop",
        (
            "The database URL holds a variable (${NAME}, $NAME or {{name}}) that was not "
            "replaced by its value; expand it before it reaches fastdb. A '$' that belongs "
            "to a password is written %24."
        ),
    ),
    Bad(
        "postgresql://app:${PASSWORD:-hunter2}@db.example/shop",
        (
            "The database URL holds a variable (${NAME}, $NAME or {{name}}) that was not "
            "replaced by its value; expand it before it reaches fastdb. A '$' that belongs "
            "to a password is written %24."
        ),
    ),
    Bad(
        "postgresql://app:{{ password }}@db.example/shop",
        (
            "The database URL holds a variable (${NAME}, $NAME or {{name}}) that was not "
            "replaced by its value; expand it before it reaches fastdb. A '$' that belongs "
            "to a password is written %24."
        ),
    ),
    Bad(
        "db.example/shop",
        (
            "The database URL does not begin with the name of a database and '://'; write "
            "for example 'sqlite:///app.db' or 'postgresql://user:password@host/name'."
        ),
    ),
    Bad(
        "app:hunter2@db.example/shop",
        (
            "The database URL does not begin with the name of a database and '://'; write "
            "for example 'sqlite:///app.db' or 'postgresql://user:password@host/name'."
        ),
    ),
    Bad(
        "app.db",
        (
            "The database URL does not begin with the name of a database and '://'; write "
            "for example 'sqlite:///app.db' or 'postgresql://user:password@host/name'."
        ),
    ),
    Bad(
        "sqlite:app.db",
        (
            "The database URL does not begin with the name of a database and '://'; write "
            "for example 'sqlite:///app.db' or 'postgresql://user:password@host/name'."
        ),
    ),
    Bad(
        "https://db.example/shop",
        (
            "The database URL begins with 'https://', which names no database that fastdb "
            "supports; use sqlite://, postgresql://, mysql:// or mariadb://."
        ),
    ),
    Bad(
        "oracle+cx_oracle://app:hunter2@db.example/shop",
        (
            "The database URL begins with 'oracle+cx_oracle://', which names no database "
            "that fastdb supports; use sqlite://, postgresql://, mysql:// or mariadb://."
        ),
    ),
    Bad(
        "mssql+pyodbc://app:hunter2@db.example/shop",
        (
            "The database URL begins with 'mssql+pyodbc://', which names no database that "
            "fastdb supports; use sqlite://, postgresql://, mysql:// or mariadb://."
        ),
    ),
    Bad(
        "sqlite3:///app.db",
        (
            "The database URL begins with 'sqlite3://', which names no database that fastdb "
            "supports; use sqlite://, postgresql://, mysql:// or mariadb://."
        ),
    ),
    Bad(
        "jdbc:postgresql://db.example/shop?user=app&password=hunter2",
        (
            "The database URL begins with 'jdbc:', which is Java's; remove 'jdbc:', and move "
            "user and password in front of the host: postgresql://user:password@host/name."
        ),
    ),
    Bad(
        "mysql+asyncpg://app:hunter2@db.example/shop",
        (
            "The database URL begins with 'mysql+asyncpg://', but 'asyncpg' is a driver for "
            "postgresql; for mysql use aiomysql, asyncmy, pymysql, or leave the driver out "
            "(mysql://) to have it chosen."
        ),
    ),
    Bad(
        "postgresql+pg8000://app:hunter2@db.example/shop",
        (
            "The database URL begins with 'postgresql+pg8000://', but 'pg8000' is not a "
            "driver that fastdb supports; for postgresql use asyncpg, psycopg, "
            "psycopg_async, psycopg2, or leave the driver out (postgresql://) to have it "
            "chosen."
        ),
        world="sync",
    ),
    Bad(
        "mysql+mysqldb://app:hunter2@db.example/shop",
        (
            "The database URL begins with 'mysql+mysqldb://', but 'mysqldb' is not a driver "
            "that fastdb supports; for mysql use aiomysql, asyncmy, pymysql, or leave the "
            "driver out (mysql://) to have it chosen."
        ),
        world="sync",
    ),
    Bad(
        "sqlite+pysqlcipher://:hunter2@/app.db",
        (
            "The database URL begins with 'sqlite+pysqlcipher://', but 'pysqlcipher' is not "
            "a driver that fastdb supports; for sqlite use aiosqlite, pysqlite, or leave the "
            "driver out (sqlite://) to have it chosen."
        ),
        world="sync",
    ),
    Bad(
        "postgresql://app@db.example/shop",
        (
            "'postgresql://' needs an asynchronous driver, and asyncpg and psycopg are not "
            'installed; run: pip install "fastapi-fastdb[postgres]"'
        ),
        error=MissingDriver,
        missing=("asyncpg", "psycopg"),
    ),
    Bad(
        "postgresql://app@db.example/shop",
        (
            "'postgresql://' needs a synchronous driver, and psycopg and psycopg2 are not "
            'installed; run: pip install "fastapi-fastdb[postgres]"'
        ),
        world="sync",
        error=MissingDriver,
        missing=("psycopg", "psycopg2"),
    ),
    Bad(
        "postgresql+asyncpg://app@db.example/shop",
        (
            "'postgresql+asyncpg://' needs an asynchronous driver, and asyncpg is not "
            'installed; run: pip install "fastapi-fastdb[postgres]"'
        ),
        error=MissingDriver,
        missing=("asyncpg",),
    ),
    Bad(
        "postgresql+psycopg2://app@db.example/shop",
        (
            "'postgresql+psycopg2://' needs a synchronous driver, and psycopg2 is not "
            'installed; run: pip install "psycopg2-binary"'
        ),
        world="sync",
        error=MissingDriver,
        missing=("psycopg2",),
    ),
    Bad(
        "mysql://app@db.example/shop",
        (
            "'mysql://' needs an asynchronous driver, and aiomysql and asyncmy are not "
            'installed; run: pip install "fastapi-fastdb[mysql]"'
        ),
        error=MissingDriver,
        missing=("aiomysql", "asyncmy"),
    ),
    Bad(
        "mysql+asyncmy://app@db.example/shop",
        (
            "'mysql+asyncmy://' needs an asynchronous driver, and asyncmy is not installed; "
            'run: pip install "fastapi-fastdb[asyncmy]"'
        ),
        error=MissingDriver,
        missing=("asyncmy",),
    ),
    Bad(
        "mysql://app@db.example/shop",
        (
            "'mysql://' needs a synchronous driver, and pymysql is not installed; run: pip "
            'install "fastapi-fastdb[mysql]"'
        ),
        world="sync",
        error=MissingDriver,
        missing=("pymysql",),
    ),
    Bad(
        "sqlite:///app.db",
        (
            "'sqlite://' needs an asynchronous driver, and aiosqlite is not installed; run: "
            'pip install "aiosqlite"'
        ),
        error=MissingDriver,
        missing=("aiosqlite",),
    ),
    Bad(
        "postgresql://app:hunter2@dangerous@db.example/shop",
        (
            "The database URL has an '@' or '/' in its user name or password (or an '@' "
            "behind the host), so that the host cannot be told; percent-encode it there: @ "
            "is %40, / is %2F, : is %3A, ? is %3F, # is %23, % is %25."
        ),
    ),
    Bad(
        "postgresql://app:hunter2/dangerous@db.example/shop",
        (
            "The database URL has an '@' or '/' in its user name or password (or an '@' "
            "behind the host), so that the host cannot be told; percent-encode it there: @ "
            "is %40, / is %2F, : is %3A, ? is %3F, # is %23, % is %25."
        ),
    ),
    Bad(
        "postgresql://app:5432/dangerous?hunter2=x@db.example/shop",
        (
            "The database URL has an '@' or '/' in its user name or password (or an '@' "
            "behind the host), so that the host cannot be told; percent-encode it there: @ "
            "is %40, / is %2F, : is %3A, ? is %3F, # is %23, % is %25."
        ),
    ),
    Bad(
        "postgresql://me@tenant:hunter2@db.example/shop",
        (
            "The database URL has an '@' or '/' in its user name or password (or an '@' "
            "behind the host), so that the host cannot be told; percent-encode it there: @ "
            "is %40, / is %2F, : is %3A, ? is %3F, # is %23, % is %25."
        ),
    ),
    Bad(
        "postgresql://app:hunter2@db.example:54x2/shop",
        (
            "The port in the database URL is not a number from 1 to 65535. If what follows "
            "the first ':' is a password, percent-encode it there: @ is %40, / is %2F, : is "
            "%3A, ? is %3F, # is %23, % is %25."
        ),
    ),
    Bad(
        "postgresql://app:hunter2@db.example:65536/shop",
        (
            "The port in the database URL is not a number from 1 to 65535. If what follows "
            "the first ':' is a password, percent-encode it there: @ is %40, / is %2F, : is "
            "%3A, ? is %3F, # is %23, % is %25."
        ),
    ),
    Bad(
        "postgresql://app:hunter2@db.example:0/shop",
        (
            "The port in the database URL is not a number from 1 to 65535. If what follows "
            "the first ':' is a password, percent-encode it there: @ is %40, / is %2F, : is "
            "%3A, ? is %3F, # is %23, % is %25."
        ),
    ),
    Bad(
        "postgresql://app@/shop?host=a,b,c&port=1,2",
        "The URL names 3 host(s) and 2 ports; give one port for all, or one for each.",
    ),
    Bad(
        "postgresql://app@a,,b/shop",
        (
            "The URL names a host that is empty; write each as host or host:port, with "
            "commas between several."
        ),
    ),
    Bad(
        "postgresql://app@/shop?host=",
        (
            "The URL names a host that is empty; write each as host or host:port, with "
            "commas between several."
        ),
    ),
    Bad(
        "postgresql://app@[::1/shop",
        (
            "The URL has an IPv6 address that is not closed, or is followed by something "
            "that is not a port; write [::1] or [::1]:5432."
        ),
    ),
    Bad(
        "mysql://app@a,b/shop",
        (
            "The URL names 2 hosts, but the drivers of MySQL connect to one; name the one, "
            "or a proxy (MaxScale, ProxySQL, HAProxy) in front of them."
        ),
    ),
    Bad(
        "postgresql://app:hunter2@db.example/shop?password=hunter3",
        (
            "The database URL names the password twice, in its usual place and as parameter "
            "'password'; keep one of them."
        ),
    ),
    Bad(
        "sqlite://dir/app.db",
        (
            "The database URL begins with 'sqlite://' and then names a host or a user, but "
            "SQLite has none; write sqlite:///dir/app.db for a path from the working "
            "directory (three slashes), sqlite:////dir/app.db for one from the root (four), "
            "or sqlite:// for a database in memory."
        ),
    ),
    Bad(
        "sqlite+aiosqlite://dir/app.db",
        (
            "The database URL begins with 'sqlite+aiosqlite://' and then names a host or a "
            "user, but SQLite has none; write sqlite+aiosqlite:///dir/app.db for a path from "
            "the working directory (three slashes), sqlite+aiosqlite:////dir/app.db for one "
            "from the root (four), or sqlite+aiosqlite:// for a database in memory."
        ),
    ),
    Bad(
        "sqlite://:memory:",
        (
            "The database URL begins with 'sqlite://' and then names a host or a user, but "
            "SQLite has none; write sqlite:///dir/app.db for a path from the working "
            "directory (three slashes), sqlite:////dir/app.db for one from the root (four), "
            "or sqlite:// for a database in memory."
        ),
    ),
    Bad(
        "sqlite://app:hunter2@localhost/app.db",
        (
            "The database URL begins with 'sqlite://' and then names a host or a user, but "
            "SQLite has none; write sqlite:///dir/app.db for a path from the working "
            "directory (three slashes), sqlite:////dir/app.db for one from the root (four), "
            "or sqlite:// for a database in memory."
        ),
        world="sync",
    ),
    Bad(
        "sqlite:///app.db?mode=ro",
        (
            "SQLite obeys 'mode' only where the path begins with 'file:' and 'uri=true' is "
            "given; write for example sqlite:///file:app.db?mode=ro&uri=true."
        ),
    ),
    Bad(
        "sqlite:///file:app.db",
        (
            "SQLite obeys a file: URI only where the path begins with 'file:' and 'uri=true' "
            "is given; write for example sqlite:///file:app.db?mode=ro&uri=true."
        ),
    ),
    Bad(
        "sqlite:///app.db?uri=true",
        (
            "SQLite obeys a file: URI only where the path begins with 'file:' and 'uri=true' "
            "is given; write for example sqlite:///file:app.db?mode=ro&uri=true."
        ),
    ),
    Bad(
        "sqlite:///file:app.db?mode=rx&uri=true",
        "URL parameter mode='rx': must be one of ro, rw, rwc, memory.",
        world="sync",
    ),
    Bad(
        "sqlite:///app.db?isolation_level=IMMEDIATE",
        (
            "URL parameter 'isolation_level' cannot be used: fastdb begins transactions "
            "itself, which sqlite3's own BEGIN would disturb; remove it, and choose when the "
            "write lock is taken by sqlite=SQLiteOptions(begin=…)."
        ),
    ),
    Bad(
        "sqlite:///app.db?journal_mode=WAL",
        (
            "URL parameter 'journal_mode' cannot be used: write "
            "sqlite=SQLiteOptions(journal_mode=…) instead."
        ),
    ),
    Bad(
        "sqlite:///app.db?timeot=5",
        (
            "Unknown URL parameter 'timeot' for sqlite; did you mean 'timeout'? Arguments "
            "for the driver itself go into connect_args={…}."
        ),
    ),
    Bad(
        "sqlite:///app.db?timeout=soon",
        "URL parameter timeout='soon': must be a number of seconds above 0.",
    ),
    Bad(
        "postgresql://db.example/shop?sslmode=yes",
        (
            "URL parameter sslmode='yes': must be one of allow, disable, prefer, require, "
            "verify-ca, verify-full."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?ssl=maybe",
        (
            "URL parameter ssl='maybe': must be one of allow, disable, prefer, require, "
            "verify-ca, verify-full, true, false."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?ssl_mode=require",
        (
            "Unknown URL parameter 'ssl_mode' for postgresql; did you mean 'sslmode'? "
            "Arguments for the driver itself go into connect_args={…}."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?sslmodus=require",
        (
            "Unknown URL parameter 'sslmodus' for postgresql; did you mean 'sslmode'? "
            "Arguments for the driver itself go into connect_args={…}."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?frobnicate=1",
        (
            "Unknown URL parameter 'frobnicate' for postgresql; remove it. Arguments for the "
            "driver itself go into connect_args={…}."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?hunter2%40x=1",
        (
            "The URL has a parameter whose name is not a word; postgresql has none like it. "
            "If a password holds '?' or '&', write %3F or %26. Arguments for the driver "
            "itself go into connect_args={…}."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?connect_timeout=abc",
        ("URL parameter connect_timeout='abc': must be a whole number of seconds, 0 for no limit."),
    ),
    Bad(
        "postgresql://db.example/shop?connect_timeout=5&connect_timeout=6",
        "URL parameter 'connect_timeout' is given 2 times; keep one of them.",
    ),
    Bad(
        "postgresql://db.example/shop?sslmode=require&ssl=true",
        "URL parameters 'sslmode' and 'ssl' say the same thing; keep one of them.",
    ),
    Bad(
        "postgresql://db.example/shop?sslkey=/k.pem",
        ("URL parameter 'sslkey' is given without 'sslcert'; a client key needs its certificate."),
    ),
    Bad(
        "postgresql://db.example/shop?sslmode=require&sslrootcert=system",
        (
            "URL parameter sslrootcert=system needs sslmode=verify-full, not 'require': "
            "anyone can have a certificate of a public authority, for another host."
        ),
    ),
    Bad(
        (
            "postgresql://db.example/shop?sslmode=require&sslcert=/c.pem&sslkey=/k.pem&"
            "sslpassword=hunter2"
        ),
        (
            "URL parameter 'sslpassword' cannot be used: it is a secret, and TLSOptions has "
            "no place for it; store the key without a passphrase, readable by the "
            "application only."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?sslcrl=/crl.pem",
        (
            "URL parameter 'sslcrl' cannot be used: TLSOptions has no revocation lists; "
            "build an ssl.SSLContext and pass connect_args={'ssl': …} (asyncpg), or remove "
            "it."
        ),
        world="sync",
    ),
    Bad(
        "postgresql://db.example/shop?sslnegotiation=direct",
        "URL parameter sslnegotiation='direct': must be postgres.",
        world="sync",
    ),
    Bad(
        "postgresql://db.example/shop?ssl_min_protocol_version=TLSv1.3",
        (
            "URL parameter 'ssl_min_protocol_version' cannot be used: TLSOptions leaves the "
            "version to OpenSSL; build an ssl.SSLContext and pass connect_args={'ssl': …} "
            "(asyncpg), or remove it."
        ),
        world="sync",
    ),
    Bad(
        "postgresql://db.example/shop?sslmode=require&channel_binding=require",
        (
            "URL parameter 'channel_binding' has no equivalent in asyncpg; write "
            "sslmode=verify-full, which proves the server's identity as well, or "
            "postgresql+psycopg://."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?keepalives_idle=30",
        (
            "URL parameter 'keepalives_idle' has no equivalent in asyncpg; remove it, or "
            "write postgresql+psycopg://."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?gssencmode=require",
        (
            "URL parameter 'gssencmode' has no equivalent in asyncpg; remove it, or write "
            "postgresql+psycopg://."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?client_encoding=latin1",
        (
            "URL parameter 'client_encoding' has no equivalent in asyncpg; remove it, or "
            "write postgresql+psycopg://."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?options=-B%20100",
        (
            "URL parameter 'options' holds a switch that has no equivalent in asyncpg, which "
            "takes '-c name=value' and '--name=value' only; remove it, or write "
            "postgresql+psycopg://."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?service=shop",
        (
            "URL parameter 'service' has no equivalent in asyncpg; remove it, or name a "
            "driver that has (psycopg, psycopg2)."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?command_timeout=30",
        (
            "URL parameter 'command_timeout' has no equivalent in psycopg; write "
            "options=-c%20statement_timeout%3D30s, for the server."
        ),
        world="sync",
    ),
    Bad(
        "postgresql://db.example/shop?prepare_threshold=-1",
        (
            "URL parameter prepare_threshold='-1': must be a whole number, 0 or more, or "
            "None for never."
        ),
        world="sync",
    ),
    Bad(
        "postgresql://db.example/shop?pgbouncer=true&prepare_threshold=5",
        (
            "URL parameters 'pgbouncer' and 'prepare_threshold' contradict each other: both "
            "set 'prepare_threshold'; keep one of them."
        ),
        world="sync",
    ),
    Bad(
        "postgresql://db.example/shop?connect_timeout=5&timeout=6",
        (
            "URL parameters 'connect_timeout' and 'timeout' contradict each other: both set "
            "'timeout'; keep one of them."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?autocommit=true",
        (
            "URL parameter 'autocommit' cannot be used: fastdb begins and ends the "
            "transactions itself; remove it."
        ),
        world="sync",
    ),
    Bad(
        "postgresql://db.example/shop?connection_limit=5",
        (
            "URL parameter 'connection_limit' cannot be used: the pool is set by "
            "pool=PoolOptions(…); write PoolOptions(size=…, max_overflow=…) instead."
        ),
    ),
    Bad(
        "postgresql://db.example/shop?schema=shop",
        "URL parameter 'schema' cannot be used: write options=-csearch_path%3Dname instead.",
    ),
    Bad(
        "postgresql://db.example/shop?application_name=",
        "URL parameter application_name='': must be given a value, or left out.",
    ),
    Bad(
        "postgresql://db.example/shop?target_session_attrs=master",
        (
            "URL parameter target_session_attrs='master': must be one of any, read-write, "
            "read-only, primary, standby, prefer-standby."
        ),
    ),
    Bad(
        "mysql://app@db.example/shop?ssl-mode=yes",
        (
            "URL parameter ssl_mode='yes': must be one of DISABLED, PREFERRED, REQUIRED, "
            "VERIFY_CA, VERIFY_IDENTITY."
        ),
    ),
    Bad(
        "mysql://app@db.example/shop?ssl-mode=REQUIRED&ssl=true",
        (
            "URL parameter 'ssl' says in other words what was said already (the mode is "
            "'require'); keep one of them."
        ),
    ),
    Bad(
        "mysql://app@db.example/shop?ssl_ca=/ca.pem&ssl-ca=/ca.pem",
        "URL parameter 'ssl_ca' is given 2 times; keep one of them.",
    ),
    Bad(
        "mysql://app@db.example/shop?ssl_key=/k.pem",
        (
            "URL parameter 'ssl_key' is given without 'ssl_cert'; a client key needs its "
            "certificate."
        ),
    ),
    Bad(
        "mysql://app@db.example/shop?ssl_cipher=AES",
        (
            "URL parameter 'ssl_cipher' cannot be used: TLSOptions leaves the ciphers to "
            "OpenSSL; build an ssl.SSLContext and pass connect_args={'ssl': …}, or remove it."
        ),
    ),
    Bad("mysql://app@db.example/shop?ssl=1x", "URL parameter ssl='1x': must be true or false."),
    Bad(
        "mysql+aiomysql://app@db.example/shop?read_timeout=30",
        (
            "URL parameter 'read_timeout' has no equivalent in aiomysql; remove it, or name "
            "a driver that has (asyncmy, pymysql)."
        ),
    ),
    Bad(
        "mysql+asyncmy://app@db.example/shop?write_timeout=30",
        (
            "URL parameter 'write_timeout' has no equivalent in asyncmy; remove it, or name "
            "a driver that has (pymysql)."
        ),
    ),
    Bad(
        "mysql+asyncmy://app@db.example/shop?collation=utf8mb4_bin",
        (
            "URL parameter 'collation' has no equivalent in asyncmy; remove it, or name a "
            "driver that has (pymysql)."
        ),
    ),
    Bad(
        "mysql://app@db.example/shop?charset=utf-8",
        ("URL parameter charset='utf-8': must be the name of a character set, such as utf8mb4."),
    ),
    Bad(
        "mysql://app@db.example/shop?connect_timeout=0",
        "URL parameter connect_timeout='0': must be a whole number of seconds, 1 or more.",
    ),
    Bad(
        "mysql://app@db.example/shop?use_unicode=0",
        "URL parameter 'use_unicode' has no equivalent in aiomysql; remove it.",
    ),
    Bad(
        "mysql://app@db.example/shop?serverTimezone=UTC",
        (
            "URL parameter 'serverTimezone' cannot be used: the drivers do not convert "
            "between time zones; write init_command=SET%20time_zone%3D'%2B00:00' instead."
        ),
    ),
    Bad(
        "mysql://app@db.example/shop?isolation_level=SERIALIZABLE",
        (
            "URL parameter 'isolation_level' cannot be used: write Database(…, isolation=…) "
            "or db.session(isolation=…) instead."
        ),
    ),
)
