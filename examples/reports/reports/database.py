"""The database, for both versions of the endpoints."""

from fastdb import Database, PoolOptions
from reports.config import DatabaseSettings

settings = DatabaseSettings()
db = Database(
    settings.url.get_secret_value(),
    pool=PoolOptions(size=settings.pool_size, warn_after=settings.warn_after),
)
