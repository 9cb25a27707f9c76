"""All of SQLAlchemy's tests of dialects, which pytest finds in this module."""

from typing import Any

from sqlalchemy.testing.suite import *  # noqa: F403
from sqlalchemy.testing.suite import ServerSideCursorsTest as _ServerSideCursorsTest


class ServerSideCursorsTest(_ServerSideCursorsTest):
    def _is_server_side(self, cursor: Any) -> bool:
        # SQLAlchemy's knows the drivers of its own dialects by name, and answers False elsewhere.
        return bool(cursor.server_side)
