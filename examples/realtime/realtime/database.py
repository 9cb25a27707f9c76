"""The database."""

from fastdb import Database
from realtime.config import settings

db = Database(settings.database_url.get_secret_value())
