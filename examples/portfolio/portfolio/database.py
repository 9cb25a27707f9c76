"""The database: `db` for the app, `db.sync` for scripts and migrations."""

from fastdb import Database
from portfolio.config import settings

db = Database(settings.database_url.get_secret_value())
