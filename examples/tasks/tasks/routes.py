"""The routes: HTTP in, HTTP out."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from fastdb.handlers import error_responses
from tasks.dependencies import CursorDep, Projects, ProjectsToRead, Tasks, TasksToRead
from tasks.models import Project, Task
from tasks.schemas import (
    ProjectIn,
    ProjectOut,
    TagCount,
    TagName,
    TaskChange,
    TaskIn,
    TaskOut,
    TaskPage,
    Version,
)

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]

_CHANGED: dict[int | str, dict[str, Any]] = {409: {"description": "It was changed meanwhile."}}

router = APIRouter(responses={404: {"description": "It is not there."}})


@router.post(
    "/projects", status_code=201, response_model=ProjectOut, responses=error_responses(409)
)
async def create_project(new: ProjectIn, projects: Projects) -> Project:
    return await projects.create(new)


@router.get("/projects/{project_id}", response_model=ProjectOut)
async def read_project(project_id: Id, projects: ProjectsToRead) -> Project:
    return await projects.get(project_id)


@router.post("/projects/{project_id}/tasks", status_code=201, response_model=TaskOut)
async def create_task(project_id: Id, new: TaskIn, tasks: Tasks) -> Task:
    return await tasks.create(project_id, new)


@router.get("/projects/{project_id}/tasks")
async def list_tasks(
    project_id: Id,
    tasks: TasksToRead,
    after: CursorDep,
    tag: Annotated[TagName | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> TaskPage:
    found, following = await tasks.page(project_id, tag=tag, after=after, limit=limit)
    return TaskPage(
        tasks=[TaskOut.model_validate(task) for task in found],
        next=None if following is None else str(following),
    )


@router.get("/tasks/{task_id}", response_model=TaskOut)
async def read_task(task_id: Id, tasks: TasksToRead) -> Task:
    return await tasks.get(task_id)


@router.patch("/tasks/{task_id}", response_model=TaskOut, responses=_CHANGED)
async def change_task(task_id: Id, change: TaskChange, tasks: Tasks) -> Task:
    return await tasks.change(task_id, change)


@router.delete("/tasks/{task_id}", status_code=204, responses=_CHANGED)
async def delete_task(task_id: Id, version: Annotated[Version, Query()], tasks: Tasks) -> None:
    await tasks.delete(task_id, version)


@router.get("/tags")
async def list_tags(tasks: TasksToRead) -> list[TagCount]:
    return [TagCount(name=name, tasks=number) for name, number in await tasks.tags()]
