"""The app: `uvicorn tasks.app:app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from fastdb import install_error_handlers
from fastdb.migrations import upgrade
from tasks import errors
from tasks.database import db
from tasks.routes import router


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database, and migrate it: of several workers, one does, and the others wait."""
    async with db.lifespan(app):
        await upgrade(db)
        yield


app = FastAPI(title="Tasks", lifespan=lifespan)
app.include_router(router)
errors.install(app)
install_error_handlers(app)
