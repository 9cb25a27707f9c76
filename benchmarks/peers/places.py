"""Where a candidate is to work, and how it is to be configured."""

from dataclasses import dataclass

from sqlalchemy.engine import make_url


@dataclass(frozen=True)
class Place:
    """A database whose tables exist.

    Attributes:
        url: With the name of an async driver.
        tuned: False is as the candidate's own documentation has it, True with the pool given here
            and, on SQLite, with the pragmas that it needs in order to serve.
        pool_size: Connections that stay open.
        max_overflow: Connections more than that, for a moment.
        pool_timeout: Seconds to wait for a connection.
    """

    url: str
    tuned: bool = False
    pool_size: int = 10
    max_overflow: int = 0
    pool_timeout: float = 30.0

    @property
    def database(self) -> str:
        """Return `sqlite`, `postgresql` or `mariadb`."""
        return make_url(self.url).get_backend_name().replace("mysql", "mariadb")

    @property
    def driver(self) -> str:
        """Return the name of the driver, such as `asyncpg`."""
        return make_url(self.url).get_driver_name()
