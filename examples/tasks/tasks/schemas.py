"""What clients send and what they are answered."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
TagName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,50}$")]
TagNames = Annotated[list[TagName], Field(max_length=20)]
Version = Annotated[int, Field(ge=1, le=2**31 - 1)]


class FromORM(BaseModel):
    """An answer that is read from an object of the ORM."""

    model_config = ConfigDict(from_attributes=True)


class ProjectIn(BaseModel):
    """A new project."""

    name: Name


class ProjectOut(FromORM):
    """A project."""

    id: int
    name: str


class TaskIn(BaseModel):
    """A new task."""

    title: Title
    tags: TagNames = []


class TaskChange(BaseModel):
    """What is to change, and in which version the client has seen it."""

    version: Version
    title: Title | None = None
    done: bool | None = None
    tags: TagNames | None = None


class TagOut(FromORM):
    """A tag."""

    name: str


class TaskOut(FromORM):
    """A task, with its tags."""

    id: int
    project_id: int
    title: str
    done: bool
    created_at: datetime
    version: int
    tags: list[TagOut]


class TaskPage(BaseModel):
    """Some tasks, the newest first."""

    tasks: list[TaskOut]
    next: str | None = Field(description="`after` of the next page; null on the last one.")


class TagCount(BaseModel):
    """How many tasks have a tag."""

    name: str
    tasks: int
