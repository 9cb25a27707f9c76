"""Queries, and no more: nothing here begins, commits or decides."""

from collections.abc import Iterable, Sequence

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from tasks.cursor import Cursor
from tasks.models import Project, Tag, Task, tasks_tags


class ProjectRepository:
    """Projects."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, project_id: int) -> Project | None:
        """Return a project."""
        return await self._session.get(Project, project_id)

    def add(self, project: Project) -> None:
        """Add a project."""
        self._session.add(project)


class TaskRepository:
    """Tasks, with their tags: what an answer needs is loaded here, and nothing later."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, task_id: int) -> Task | None:
        """Return a task."""
        return await self._session.get(Task, task_id, options=[selectinload(Task.tags)])

    def add(self, task: Task) -> None:
        """Add a task."""
        self._session.add(task)

    async def delete(self, task_id: int, version: int) -> bool:
        """Delete a task in this version; return whether there was one.

        In one statement, which locks the task before the rows of `tasks_tags` that go with it, as
        an UPDATE does. `Session.delete()` begins with those rows: a deadlock with a change.
        """
        query = delete(Task).where(Task.id == task_id, Task.version == version)
        return await self._session.scalar(query.returning(Task.id)) is not None

    async def page(
        self, project_id: int, *, tag: str | None, after: Cursor | None, limit: int
    ) -> Sequence[Task]:
        """Return the newest tasks of a project, or those that follow `after`.

        By keyset: a page begins where the last one ended, whatever has been added or deleted
        meanwhile, and the hundredth one costs as much as the first.
        """
        query = (
            select(Task)
            .where(Task.project_id == project_id)
            .order_by(Task.created_at.desc(), Task.id.desc())
            .limit(limit)
            .options(selectinload(Task.tags))
        )
        if tag is not None:
            query = query.where(Task.tags.any(Tag.name == tag))
        if after is not None:
            query = query.where(tuple_(Task.created_at, Task.id) < (after.created_at, after.id))
        return (await self._session.scalars(query)).all()


class TagRepository:
    """Tags."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def bulk_get_or_create(self, names: Iterable[str]) -> list[Tag]:
        """Return the tags of these names, some of which may be new.

        Two requests may need the same new tag at once. Who comes second waits for the first to
        commit, and then finds its row. Both go by the alphabet, so that neither waits for the
        other.
        """
        wanted = sorted(set(names))
        if not wanted:
            return []
        query = select(Tag).where(Tag.name.in_(wanted)).order_by(Tag.name)
        tags = list(await self._session.scalars(query))
        known = {tag.name for tag in tags}
        # Only what is missing: INSERT uses up an id for each row, also where it does nothing.
        new = [{"name": name} for name in wanted if name not in known]
        if new:
            await self._session.execute(insert(Tag).values(new).on_conflict_do_nothing())
            tags = list(await self._session.scalars(query))
        return tags

    async def counts(self) -> Sequence[tuple[str, int]]:
        """Return each tag with the number of its tasks, the most used first."""
        number = func.count(tasks_tags.c.task_id)
        query = (
            select(Tag.name, number)
            .outerjoin(tasks_tags)
            .group_by(Tag.id)
            .order_by(number.desc(), Tag.name)
            .limit(100)
        )
        return [(name, count) for name, count in await self._session.execute(query)]
