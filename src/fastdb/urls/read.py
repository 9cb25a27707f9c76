"""From a URL to its target."""

from collections.abc import Callable

from sqlalchemy.engine import URL

from fastdb.urls import mysql, postgresql, sqlite
from fastdb.urls.drivers import choose_driver, driver_is_installed, read_scheme
from fastdb.urls.spelling import split
from fastdb.urls.target import Target, World


def parse_url(
    url: str | URL,
    *,
    world: World,
    installed: Callable[[str], bool] = driver_is_installed,
) -> Target:
    """Find the driver for `url` and translate the URL's parameters for it.

    Args:
        url: The database URL, or SQLAlchemy's URL object, which is left as it is.
        world: "async" or "sync": which kind of driver is wanted, whatever the URL names.
        installed: Tells whether a module can be imported.

    Raises:
        InvalidURL: The URL, or one of its parameters, cannot be used as written.
        MissingDriver: No driver that fits is installed.
    """
    parts = split(url)
    scheme = read_scheme(parts.scheme)
    driver = choose_driver(scheme, world, installed)
    if scheme.backend == "sqlite":
        return sqlite.make_target(parts, driver)
    if scheme.backend == "postgresql":
        return postgresql.make_target(parts, driver)
    return mysql.make_target(parts, driver, dialect=scheme.dialect)
