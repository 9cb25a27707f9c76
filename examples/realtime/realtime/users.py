"""Who asks: by a token, in the session of the request."""

import secrets
import sys
from hashlib import sha256
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from fastdb import SessionDep
from realtime.models import Base, User

_bearer = HTTPBearer(auto_error=False)


def hash_of(token: str) -> str:
    """Return what is kept of a token: whoever reads the database cannot show it."""
    return sha256(token.encode(errors="replace")).hexdigest()


async def find(session: AsyncSession, token: str) -> User | None:
    """Return the user with a token."""
    return await session.scalar(select(User).where(User.token_hash == hash_of(token)))


async def _current(
    session: SessionDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> User:
    """Find who asks, in the session of the endpoint: what it gets is an object of its own."""
    user = await find(session, credentials.credentials) if credentials else None
    if user is None:
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})
    return user


UserDep = Annotated[User, Depends(_current)]


def add(session: Session, name: str, token: str) -> None:
    """Add a user, or give him another token."""
    user = session.scalar(select(User).where(User.name == name))
    if user is None:
        session.add(User(name=name, token_hash=hash_of(token)))
    else:
        user.token_hash = hash_of(token)


if __name__ == "__main__":
    from realtime.database import db

    new = secrets.token_urlsafe()
    with db.sync as twin, twin.session() as session:
        twin.create_all(Base.metadata)
        add(session, sys.argv[1], new)
    print(new)
