"""The backends that all other tests rely on."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from backends import Backend


async def test_backend_answers(backend: Backend) -> None:
    """Every backend serves plain SQLAlchemy, without fastdb."""
    engine = create_async_engine(backend.url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (id INTEGER PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO t VALUES (1)"))
        assert await connection.scalar(text("SELECT count(*) FROM t")) == 1
    await engine.dispose()
