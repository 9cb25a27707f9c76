"""Alembic's commands for a `Database`: in a running event loop, and for scripts.

The async ones work in a thread and on the synchronous twin. A task that is cancelled meanwhile
goes on until the revision that runs has ended: no further one begins, and the lock is freed.
"""

import asyncio
import logging
from collections.abc import Callable
from contextvars import copy_context
from threading import Event
from typing import TypeVar

from anyio import CancelScope

from fastdb.database import Database
from fastdb.migrations.project import ConfigSource, Project
from fastdb.migrations.requests import Order, Stopped

logger = logging.getLogger("fastdb.migrations")

T = TypeVar("T")


async def upgrade(
    db: Database,
    revision: str = "head",
    *,
    config: ConfigSource | None = None,
    script_location: str | None = None,
    wait: float | None = None,
) -> None:
    """Bring the database up to `revision`: one worker does, others that are called so wait for it.

        await upgrade(db)  # in the app's lifespan, before it yields

    A database that is there already costs two statements on a connection of the app's own pool,
    and no lock. Where the task is cancelled, the revision that runs comes to its end first.

    Args:
        db: The database; it wins over the one that env.py names.
        revision: Where to, as Alembic's command takes it. Default "head".
        config: Alembic's `Config`, or the path of a pyproject.toml or alembic.ini. Default: what
            Alembic's command would read in the working directory.
        script_location: The folder: a path, or "package:folder". Default: the configuration's.
        wait: For how many seconds another worker may migrate. Default: what env.py says, or 60.

    Raises:
        MigrationFailed: A revision failed, here or in the worker that was waited for.
        MigrationLocked: Another worker has migrated for longer than `wait`.
        NotAtHead: The database is at a revision that this code does not have.
        ConfigurationError: The migrations cannot be found, or `db` goes through a pooler.
    """
    project = await _in_thread(lambda stop: Project.load(config, script_location, stop))
    if not project.is_at(await _current(db, project), revision):
        await _in_thread(lambda stop: project.upgrade(Order(db, wait, stop), revision))


async def downgrade(
    db: Database,
    revision: str,
    *,
    config: ConfigSource | None = None,
    script_location: str | None = None,
    wait: float | None = None,
) -> None:
    """Take the database back to `revision`, or "base"; otherwise as `upgrade`."""
    project = await _in_thread(lambda stop: Project.load(config, script_location, stop))
    if not project.is_at(await _current(db, project), revision):
        await _in_thread(lambda stop: project.downgrade(Order(db, wait, stop), revision))


async def current(
    db: Database, *, config: ConfigSource | None = None, script_location: str | None = None
) -> tuple[str, ...]:
    """Return the revision that the database is at: none, one, or one for each branch."""
    project = await _in_thread(lambda stop: Project.load(config, script_location, stop))
    return await _current(db, project)


async def pending(
    db: Database, *, config: ConfigSource | None = None, script_location: str | None = None
) -> tuple[str, ...]:
    """Return the revisions that the database has not had, oldest first.

    Raises:
        NotAtHead: The database is at a revision that this code does not have.
    """
    project = await _in_thread(lambda stop: Project.load(config, script_location, stop))
    return project.pending(await _current(db, project))


async def check_at_head(
    db: Database, *, config: ConfigSource | None = None, script_location: str | None = None
) -> None:
    """Raise unless the database has had all revisions. It only reads, and takes no lock.

    Raises:
        NotAtHead: Revisions are pending, or the database is at one that this code does not have.
    """
    project = await _in_thread(lambda stop: Project.load(config, script_location, stop))
    project.check(await _current(db, project))


def upgrade_sync(
    db: Database,
    revision: str = "head",
    *,
    config: ConfigSource | None = None,
    script_location: str | None = None,
    wait: float | None = None,
) -> None:
    """Do what `upgrade` does, in a script."""
    project = Project.load(config, script_location, Event())
    if not project.is_at(project.current_of(db), revision):
        project.upgrade(Order(db, wait), revision)


def downgrade_sync(
    db: Database,
    revision: str,
    *,
    config: ConfigSource | None = None,
    script_location: str | None = None,
    wait: float | None = None,
) -> None:
    """Do what `downgrade` does, in a script."""
    project = Project.load(config, script_location, Event())
    if not project.is_at(project.current_of(db), revision):
        project.downgrade(Order(db, wait), revision)


def current_sync(
    db: Database, *, config: ConfigSource | None = None, script_location: str | None = None
) -> tuple[str, ...]:
    """Do what `current` does, in a script."""
    return Project.load(config, script_location, Event()).current_of(db)


def pending_sync(
    db: Database, *, config: ConfigSource | None = None, script_location: str | None = None
) -> tuple[str, ...]:
    """Do what `pending` does, in a script."""
    project = Project.load(config, script_location, Event())
    return project.pending(project.current_of(db))


def check_at_head_sync(
    db: Database, *, config: ConfigSource | None = None, script_location: str | None = None
) -> None:
    """Do what `check_at_head` does, in a script."""
    project = Project.load(config, script_location, Event())
    project.check(project.current_of(db))


async def _current(db: Database, project: Project) -> tuple[str, ...]:
    # On the app's own pool, where the connection stays for the first request.
    async with db.engine.connect() as connection:
        return await connection.run_sync(project.current)


async def _in_thread(work: Callable[[Event], T]) -> T:
    """Run `work` in a thread; once the caller is cancelled, tell it to stop and wait until it has.

    There is no limit to this: who cut the connection would leave half a revision on MySQL, and a
    lock that nobody frees until the server notices.
    """
    stop = Event()
    # Not a task, as `to_thread()` makes one: `asyncio.run()` cancels all tasks that are left.
    context = copy_context()
    loop = asyncio.get_running_loop()
    done = loop.run_in_executor(None, lambda: context.run(work, stop))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        stop.set()
        # Shielded from anyio's scopes, which cancel again at every further await.
        with CancelScope(shield=True):
            while not done.done():
                try:
                    await asyncio.wait({done})
                except asyncio.CancelledError:
                    continue
        failure = None if done.cancelled() else done.exception()
        if failure is not None and not isinstance(failure, Stopped):
            logger.warning("Failed while the caller was cancelled: %s", failure)
        raise
