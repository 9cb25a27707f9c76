"""The tables, which are what is answered as well: that is what SQLModel is for."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import JSON, Column, DateTime, UniqueConstraint
from sqlmodel import Field, SQLModel


class Status(StrEnum):
    """Of a run, and of each of its steps."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class Component(SQLModel, table=True):
    """A prompt that steps are made of.

    `$input` in it is what the run was given, and the name of a step is what that has answered.
    """

    __tablename__ = "components"

    id: int = Field(default=None, primary_key=True)
    name: str = Field(unique=True, max_length=100)
    prompt: str = Field(max_length=10_000)


class Workflow(SQLModel, table=True):
    """Steps that belong together."""

    __tablename__ = "workflows"

    id: int = Field(default=None, primary_key=True)
    name: str = Field(max_length=100)


class Step(SQLModel, table=True):
    """A step of a workflow, which begins when those that it needs are done."""

    __tablename__ = "steps"
    __table_args__ = (UniqueConstraint("workflow_id", "name"),)

    id: int = Field(default=None, primary_key=True)
    workflow_id: int = Field(foreign_key="workflows.id", ondelete="CASCADE")
    component_id: int = Field(foreign_key="components.id")
    name: str = Field(max_length=50)
    needs: list[str] = Field(sa_column=Column(JSON, nullable=False))


class Run(SQLModel, table=True):
    """A workflow that is or was carried out.

    Attributes:
        tokens: What its answers have cost so far.
        turn: How often somebody has begun it. It belongs to the last one.
        alive_until: Until then, that one is at work on it, by the clock of the database.
    """

    __tablename__ = "runs"

    id: int = Field(default=None, primary_key=True)
    workflow_id: int = Field(foreign_key="workflows.id", ondelete="CASCADE")
    input: str = Field(max_length=10_000)
    status: Status = Field(default=Status.RUNNING, max_length=10)
    tokens: int = 0
    turn: int = 1
    alive_until: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class StepRun(SQLModel, table=True):
    """What has become of a step in a run."""

    __tablename__ = "step_runs"

    run_id: int = Field(foreign_key="runs.id", primary_key=True, ondelete="CASCADE")
    step_id: int = Field(foreign_key="steps.id", primary_key=True)
    name: str = Field(max_length=50)
    status: Status = Field(default=Status.PENDING, max_length=10)
    output: str | None = None
