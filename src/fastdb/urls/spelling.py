"""Take a database URL apart, and refuse what only looks like one.

SQLAlchemy's `make_url` accepts several hosts in none but its own spelling, puts the end of an
unencoded password into the host name, and shows the whole URL in some of its errors.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import parse_qsl, quote, unquote

from sqlalchemy.engine import URL

from fastdb.errors import InvalidURL

EXAMPLES = "'sqlite:///app.db' or 'postgresql://user:password@host/name'"
ENCODE = "percent-encode it there: @ is %40, / is %2F, : is %3A, ? is %3F, # is %23, % is %25"

_QUOTES = "'\"`"

# "$NAME" only where it is all of the URL or of one part: a password may hold a dollar sign.
_VARIABLE = re.compile(
    r"""
    \$\{[^}]*\} | \{\{[^}]*\}\} | ^\$\w+ |
    (?<=[:/@=]) \$[A-Z_][A-Z0-9_]* (?=[:/@?&]|$)
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Parts:
    """A URL taken apart and decoded; `hosts` is as written, "a:5432,b:5433"."""

    scheme: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    hosts: str = ""
    database: str | None = None
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def split(url: str | URL) -> Parts:
    """Take a URL apart.

    Raises:
        InvalidURL: It is not a database URL, or could be read in two ways.
    """
    if isinstance(url, URL):
        return _split_object(url)
    if not isinstance(url, str):
        _fail(
            f"The database URL is {'None' if url is None else 'of type ' + type(url).__name__};"
            f" it must be text, such as {EXAMPLES}. Is an environment variable not set?"
        )
    _check_text(url)
    scheme, rest = _split_scheme(url)
    # SQLite's path may hold any character, and what comes before it holds nothing.
    if scheme.lower().partition("+")[0].startswith("sqlite"):
        return _split_sqlite(scheme, rest)
    return _split_network(scheme, rest)


def _fail(message: str) -> NoReturn:
    raise InvalidURL(message)


def _split_object(url: URL) -> Parts:
    host = url.host or ""
    if host.startswith("/"):
        host = quote(host, safe="")
    elif host.count(":") > 1 and "," not in host and not host.startswith("["):
        host = f"[{host}]"
    port = "" if url.port is None else f":{url.port}"
    return Parts(
        scheme=url.drivername,
        username=url.username,
        # The password may be an object that gives the current one when asked for its text.
        password=None if url.password is None else str(url.password),
        hosts=host + port,
        database=url.database,
        query=tuple(_pairs(url)),
    )


def _pairs(url: URL) -> Iterator[tuple[str, str]]:
    for name, value in url.query.items():
        for text in (value,) if isinstance(value, str) else value:
            yield name, text


def _check_text(url: str) -> None:
    if not url.strip():
        _fail(f"The database URL is empty; write for example {EXAMPLES}.")
    if url[0] in _QUOTES or (url[-1] in _QUOTES and url.count(url[-1]) % 2):
        _fail(
            "The database URL has quotation marks around it, which are part of the value;"
            " remove them where the variable is set (in env files of Docker, for one)."
        )
    if url != url.strip():
        _fail("The database URL begins or ends with white space or a line break; remove it.")
    if re.search(r"[\x00-\x1f\x7f]", url):
        _fail("The database URL holds a line break or another control character; remove it.")
    if _VARIABLE.search(url):
        _fail(
            "The database URL holds a variable (${NAME}, $NAME or {{name}}) that was not replaced"
            " by its value; expand it before it reaches fastdb. A '$' that belongs to a password"
            " is written %24."
        )


def _split_scheme(url: str) -> tuple[str, str]:
    if url.lower().startswith("jdbc:"):
        _fail(
            "The database URL begins with 'jdbc:', which is Java's; remove 'jdbc:', and move user"
            " and password in front of the host: postgresql://user:password@host/name."
        )
    found = re.match(r"([A-Za-z][\w+.-]*)://", url)
    if not found:
        _fail(
            "The database URL does not begin with the name of a database and '://';"
            f" write for example {EXAMPLES}."
        )
    return found.group(1), url[found.end() :]


def _split_sqlite(scheme: str, rest: str) -> Parts:
    place, _, query = rest.partition("?")
    hosts, slash, path = place.partition("/")
    return Parts(
        scheme=scheme,
        hosts=hosts,
        database=unquote(path) if slash else None,
        query=_split_query(query),
    )


def _split_network(scheme: str, rest: str) -> Parts:
    user_info, place = _split_user_info(rest)
    username, colon, password = (user_info or "").partition(":")
    place, _, query = place.partition("?")
    hosts, _, path = place.partition("/")
    if "@" in hosts or "@" in path or (user_info is None and "@" in query and ":" in hosts):
        _fail(
            "The database URL has an '@' or '/' in its user name or password (or an '@' behind the"
            f" host), so that the host cannot be told; {ENCODE}."
        )
    return Parts(
        scheme=scheme,
        username=unquote(username) or None,
        password=unquote(password) if colon else None,
        hosts=hosts,
        database=unquote(path) or None,
        query=_split_query(query),
    )


def _split_user_info(rest: str) -> tuple[str | None, str]:
    """Split "user:pass?word@host/…"; a '?' or '#' in the password is allowed, as by SQLAlchemy."""
    authority = rest.partition("/")[0]
    user_info, at, _ = authority.partition("@")
    # In "host?application_name=a@b" and "host:5432?user=a@b" the at sign belongs to a parameter.
    if not at or re.match(r"[^:]*(:[0-9]*)?\?\w+=", user_info):
        return None, rest
    return user_info, rest[len(user_info) + 1 :]


def _split_query(query: str) -> tuple[tuple[str, str], ...]:
    # As SQLAlchemy: "+" is a space. Unlike SQLAlchemy: an empty value is kept, to be refused.
    return tuple(parse_qsl(query, keep_blank_values=True))
