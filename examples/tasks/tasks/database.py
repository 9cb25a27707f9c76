"""Where the database is. Making a `Database` connects to nothing."""

from fastdb import Database
from tasks.config import Settings

db = Database(Settings().database_url.get_secret_value())
