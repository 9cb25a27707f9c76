"""How a database is to be used: small frozen values, checked when they are made."""

from dataclasses import dataclass
from math import isfinite
from os import PathLike
from typing import Literal, Self

from fastdb.errors import ConfigurationError

TLSMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
BeginIntent = Literal["immediate", "deferred"]

TIMEOUTS_OPTION = "fastdb_timeouts"
"""SQLAlchemy's execution option with the `Timeouts` of one session, where it has its own."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How many connections an engine keeps, and for how long.

        PoolOptions(size=20)                   # a queue of connections
        PoolOptions.null()                     # a connection per session, closed after it
        PoolOptions.transaction_pooler()       # behind PgBouncer, Supabase or RDS Proxy

    Args:
        size: Connections opened as they are needed, and kept. Default 10.
        max_overflow: Connections opened beyond `size` under load and closed as soon as nobody waits
            for them. Default 0: to open one costs more than most requests. SQLite keeps them.
        recycle: Seconds after which a connection is replaced when it is next taken, or None for
            never. Default 1800, below the idle limits of common servers, proxies and firewalls.
        ping_after: Seconds of idleness after which a connection is asked whether it lives before it
            is handed out, or None for never. Default 1: a busy connection has just proved it. What
            the server has ended itself is noticed in any case.
        warn_after: Seconds for which a connection may be held before a warning is logged that
            tells by whom, or None for never. Default 5: as long as others wait for one.

    Raises:
        ConfigurationError: A figure is out of range.
    """

    size: int = 10
    max_overflow: int = 0
    recycle: float | None = 1800.0
    ping_after: float | None = 1.0
    warn_after: float | None = 5.0
    mode: Literal["queue", "null", "transaction_pooler"] = "queue"

    def __post_init__(self) -> None:
        if not is_count(self.size) or self.size < 1:
            raise ConfigurationError(
                f"PoolOptions(size={self.size!r}): a pool keeps at least 1 connection;"
                " write PoolOptions.null() to keep none."
            )
        if not is_count(self.max_overflow) or self.max_overflow < 0:
            raise ConfigurationError(
                f"PoolOptions(max_overflow={self.max_overflow!r}): must be 0 or more;"
                " an unlimited pool would move the queue into the database server."
            )
        check_seconds("PoolOptions", "recycle", self.recycle, none=True)
        check_seconds("PoolOptions", "ping_after", self.ping_after, zero=True, none=True)
        check_seconds("PoolOptions", "warn_after", self.warn_after, none=True)

    @classmethod
    def null(cls) -> Self:
        """Open a connection for each session and close it afterwards."""
        return cls(mode="null")

    @classmethod
    def transaction_pooler(cls, *, size: int = 10, max_overflow: int = 0) -> Self:
        """Connect through a pooler that gives each transaction another server connection.

        No prepared statement outlives a transaction and no session state is set.
        """
        return cls(size=size, max_overflow=max_overflow, mode="transaction_pooler")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds.

        Timeouts(pool=2, lock=5)

    Args:
        connect: For a new connection to the server. Default 10.
        pool: For a free connection of a full pool. Default 5: a caller who has waited this long
            is better served by an error than by a longer queue.
        statement: For one statement to end, or None for no limit (PostgreSQL's
            `statement_timeout`, MariaDB's `max_statement_time`, MySQL's `max_execution_time`,
            which stops SELECT only; SQLite is interrupted). Default 30: whoever asked has left.
        lock: For a lock that another transaction holds (SQLite's write lock, PostgreSQL's
            `lock_timeout`, MySQL's `innodb_lock_wait_timeout`, which counts whole seconds).
            Default 10.
        idle_in_transaction: For the next statement of a transaction, or None for no limit; then
            the server ends the connection and frees its locks (PostgreSQL's
            `idle_in_transaction_session_timeout`, MariaDB's `idle_transaction_timeout`; MySQL and
            SQLite have no such limit). Default 300: more than a slow call needs, less than it
            takes for what was forgotten to do harm.
        close: For a rollback, or for whatever a cancelled task waits for, COMMIT in flight
            included; then the connection is cut. Default 5. Where limits were asked for, a server
            that says nothing is given as much time after `statement`.

    Raises:
        ConfigurationError: A figure is not a positive number.
    """

    connect: float = 10.0
    pool: float = 5.0
    statement: float | None = 30.0
    lock: float = 10.0
    idle_in_transaction: float | None = 300.0
    close: float = 5.0

    def __post_init__(self) -> None:
        for name in ("connect", "pool", "lock", "close"):
            check_seconds("Timeouts", name, getattr(self, name))
        for name in ("statement", "idle_in_transaction"):
            check_seconds("Timeouts", name, getattr(self, name), none=True)

    @property
    def answer(self) -> float | None:
        """Seconds to wait for a server: `statement`, after which it answers, and `close`.

        None for no limit.
        """
        return None if self.statement is None else self.statement + self.close


@dataclass(frozen=True, slots=True)
class TLSOptions:
    """How the connection to the server is encrypted and whom it trusts.

        TLSOptions(ca_file="/etc/ssl/private-ca.pem")

    Args:
        mode: As libpq's `sslmode`: "disable"; "prefer" (may be plain text); "require" (encrypted,
            the server's certificate is not checked unless `ca_file` is given); "verify-ca";
            "verify-full" (the default: certificate and host name are checked).
        ca_file: PEM file of the trusted authorities. Default None: the system's.
        cert_file: PEM file of the client's certificate. Default None.
        key_file: PEM file of the client's key. Default None.

    Raises:
        ConfigurationError: The mode is unknown, or a key is given without its certificate.
    """

    mode: TLSMode = "verify-full"
    ca_file: str | PathLike[str] | None = None
    cert_file: str | PathLike[str] | None = None
    key_file: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        modes = ("disable", "prefer", "require", "verify-ca", "verify-full")
        if self.mode not in modes:
            raise ConfigurationError(
                f"TLSOptions(mode={self.mode!r}): unknown mode; use one of {', '.join(modes)}."
            )
        if self.key_file is not None and self.cert_file is None:
            raise ConfigurationError(
                "TLSOptions(key_file=…): a client key needs its certificate; add cert_file=…."
            )


@dataclass(frozen=True, slots=True)
class SQLiteOptions:
    """How SQLite is opened.

        SQLiteOptions(begin="immediate", synchronous="FULL")

    Args:
        begin: When the write lock is taken. "by-method" (the default): at the first statement of
            `db.session()` and of requests that may write (POST, PUT, PATCH, DELETE), at the first
            write elsewhere; "immediate": always at the first statement; "deferred": always at the
            first write, which fails where another commit came between.
        foreign_keys: Enforce foreign keys, and verify that they are. Default True.
        journal_mode: Default "WAL": readers and the writer do not block one another.
        synchronous: Default "NORMAL": in WAL mode the database cannot be damaged by a power
            failure, which may take back the last commits; "FULL" keeps those too.
        accelerate: Go to the connection's thread once per statement at most, by the dialect
            `sqlite+fastdb`. Default True; False for SQLAlchemy's plain aiosqlite.
        inline_reads: Run reads that have proved cheap, far below 100 microseconds, on the event
            loop's thread. Default True; it needs `accelerate` and WAL.

    Raises:
        ConfigurationError: A value is not one of those named.
    """

    begin: Literal["by-method", "immediate", "deferred"] = "by-method"
    foreign_keys: bool = True
    journal_mode: Literal["WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY"] = "WAL"
    synchronous: Literal["OFF", "NORMAL", "FULL", "EXTRA"] = "NORMAL"
    accelerate: bool = True
    inline_reads: bool = True

    def __post_init__(self) -> None:
        _check_choice("begin", self.begin, ("by-method", "immediate", "deferred"))
        _check_choice(
            "journal_mode", self.journal_mode, ("WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY")
        )
        _check_choice("synchronous", self.synchronous, ("OFF", "NORMAL", "FULL", "EXTRA"))


def normal_isolation(level: str | None) -> str | None:
    """Return an isolation level as SQLAlchemy spells it, which takes it in any case."""
    return None if level is None else level.replace("_", " ").upper()


def is_count(value: object) -> bool:
    """Return whether `value` is a whole number, which True is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_seconds(
    owner: str, name: str, value: object, *, zero: bool = False, none: bool = False
) -> None:
    """Raise ConfigurationError unless `value` is a number of seconds above 0.

    Args:
        owner: What has the parameter.
        name: Of the parameter.
        value: What was given.
        zero: Whether 0 will do.
        none: Whether None will do.
    """
    if value is None and none:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if not (is_number and (value > 0 or (zero and value == 0))):  # type: ignore[operator]
        least = "0 or more" if zero else "above 0"
        raise ConfigurationError(
            f"{owner}({name}={value!r}): must be a number of seconds, {least}."
        )


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(
            f"SQLiteOptions({name}={value!r}): unknown value; use one of {', '.join(allowed)}."
        )
