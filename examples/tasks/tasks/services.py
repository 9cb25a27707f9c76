"""What the app does. One request is one unit of work, which fastdb commits; nothing here does."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import flag_modified

from tasks.cursor import Cursor
from tasks.errors import NotFound, Outdated
from tasks.models import Project, Task
from tasks.repositories import ProjectRepository, TagRepository, TaskRepository
from tasks.schemas import ProjectIn, TaskChange, TaskIn


class ProjectService:
    """What can be done with projects."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._projects = ProjectRepository(session)

    async def create(self, new: ProjectIn) -> Project:
        """Create a project."""
        project = Project(name=new.name)
        self._projects.add(project)
        await self._session.flush()  # its id
        return project

    async def get(self, project_id: int) -> Project:
        """Return a project.

        Raises:
            NotFound: There is none.
        """
        project = await self._projects.get(project_id)
        if project is None:
            raise NotFound("project", project_id)
        return project


class TaskService:
    """What can be done with tasks."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._projects = ProjectService(session)
        self._tasks = TaskRepository(session)
        self._tags = TagRepository(session)

    async def create(self, project_id: int, new: TaskIn) -> Task:
        """Create a task, and those of its tags that are new.

        Raises:
            NotFound: There is no such project.
        """
        project = await self._projects.get(project_id)
        tags = await self._tags.bulk_get_or_create(new.tags)
        task = Task(project_id=project.id, title=new.title, tags=tags)
        self._tasks.add(task)
        await self._session.flush()  # its id, and when it was created
        return task

    async def get(self, task_id: int) -> Task:
        """Return a task.

        Raises:
            NotFound: There is none.
        """
        task = await self._tasks.get(task_id)
        if task is None:
            raise NotFound("task", task_id)
        return task

    async def change(self, task_id: int, change: TaskChange) -> Task:
        """Change a task that is still as the client has seen it.

        Raises:
            NotFound: There is none.
            Outdated: Somebody else has changed it since.
        """
        task = await self.get(task_id)
        if task.version != change.version:
            raise Outdated
        # Before the task is touched: what locks it first and then waits for a tag could wait for
        # somebody who has that tag and waits for the task.
        if change.tags is not None:
            task.tags = await self._tags.bulk_get_or_create(change.tags)
            flag_modified(task, "title")  # a new version, though only rows of `tasks_tags` change
        if change.title is not None:
            task.title = change.title
        if change.done is not None:
            task.done = change.done
        await self._session.flush()  # the answer has the new version
        return task

    async def delete(self, task_id: int, version: int) -> None:
        """Delete a task that is still as the client has seen it.

        Raises:
            NotFound: There is none.
            Outdated: Somebody else has changed it since.
        """
        if not await self._tasks.delete(task_id, version):
            await self.get(task_id)
            raise Outdated

    async def page(
        self, project_id: int, *, tag: str | None, after: Cursor | None, limit: int
    ) -> tuple[Sequence[Task], Cursor | None]:
        """Return a page of tasks, and where the next one begins; None on the last.

        Raises:
            NotFound: There is no such project.
        """
        await self._projects.get(project_id)
        # One more than wanted tells whether there is another page.
        tasks = await self._tasks.page(project_id, tag=tag, after=after, limit=limit + 1)
        if len(tasks) <= limit:
            return tasks, None
        return tasks[:limit], Cursor.of(tasks[limit - 1])

    async def tags(self) -> Sequence[tuple[str, int]]:
        """Return each tag with the number of its tasks."""
        return await self._tags.counts()
