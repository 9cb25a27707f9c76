"""Read a database URL, in any spelling, for the driver that will be used.

    target = parse_url("postgres://app:secret@db.example/shop?sslmode=require", world="async")
    target.url            # postgresql+asyncpg://app:***@db.example/shop
    target.tls            # TLSOptions(mode='require')

Everything here is pure: no file is opened, no driver is imported, nothing is connected. Whatever
cannot work is refused by name, and no message, `repr` or exception chain holds a password.
"""

from fastdb.urls.drivers import driver_is_installed
from fastdb.urls.read import parse_url
from fastdb.urls.target import Backend, Target, World

__all__ = ["Backend", "Target", "World", "driver_is_installed", "parse_url"]
