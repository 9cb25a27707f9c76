"""What routes ask for: FastAPI's side of the layers, which know nothing of it themselves."""

from typing import Annotated

from fastapi import Depends, HTTPException, Query

from fastdb import ReadSessionDep, SessionDep
from tasks.cursor import Cursor
from tasks.services import ProjectService, TaskService


def _projects(session: SessionDep) -> ProjectService:
    return ProjectService(session)


def _read_projects(session: ReadSessionDep) -> ProjectService:
    return ProjectService(session)


def _tasks(session: SessionDep) -> TaskService:
    return TaskService(session)


def _read_tasks(session: ReadSessionDep) -> TaskService:
    return TaskService(session)


# What a GET gets reads only: the database itself refuses it to write.
Projects = Annotated[ProjectService, Depends(_projects)]
ProjectsToRead = Annotated[ProjectService, Depends(_read_projects)]
Tasks = Annotated[TaskService, Depends(_tasks)]
TasksToRead = Annotated[TaskService, Depends(_read_tasks)]


def _cursor(
    after: Annotated[str | None, Query(max_length=200, description="`next` of a page.")] = None,
) -> Cursor | None:
    try:
        return None if after is None else Cursor.parse(after)
    except ValueError:
        raise HTTPException(422, "`after` is no `next` of a page.") from None


CursorDep = Annotated[Cursor | None, Depends(_cursor)]
