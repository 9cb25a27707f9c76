"""Who connects, and to which database: in the URL's own places or among its parameters."""

from dataclasses import dataclass, field

from fastdb.errors import InvalidURL
from fastdb.urls.parameters import Query
from fastdb.urls.spelling import Parts

USER = ("user", "username")
PASSWORD = ("password", "passwd")
DATABASE = ("dbname", "database", "db")


@dataclass(frozen=True, slots=True)
class Account:
    """Who connects, and to which database."""

    username: str | None
    password: str | None = field(repr=False)
    database: str | None = None


def take_account(parts: Parts, query: Query) -> Account:
    """Take `?user=`, `?password=` and `?dbname=` out of the parameters, to their places.

    Raises:
        InvalidURL: One of them is in both places.
    """
    return Account(
        username=_only("user", parts.username, query.take_one_of(*USER)),
        password=_only("password", parts.password, query.take_one_of(*PASSWORD)),
        database=_only("database", parts.database, query.take_one_of(*DATABASE)),
    )


def _only(what: str, in_place: str | None, parameter: tuple[str, str] | None) -> str | None:
    if parameter is None:
        return in_place
    if in_place is not None:
        raise InvalidURL(
            f"The database URL names the {what} twice, in its usual place and as parameter"
            f" {parameter[0]!r}; keep one of them."
        )
    return parameter[1] or None
