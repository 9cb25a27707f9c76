"""The database, and its sessions in requests: of SQLModel's class, which has `exec`."""

from typing import Annotated

from fastapi import Depends
from sqlmodel.ext.asyncio.session import AsyncSession

from fastdb import Database, get_read_session, get_session
from workflows.config import settings

db = Database(settings.database_url.get_secret_value(), session_class=AsyncSession)

SessionDep = Annotated[AsyncSession, Depends(get_session)]
ReadSessionDep = Annotated[AsyncSession, Depends(get_read_session)]
