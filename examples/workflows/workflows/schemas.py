"""What clients send."""

from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from workflows.models import Run, StepRun

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", min_length=1, max_length=10_000)]
Name = Annotated[str, StringConstraints(pattern=r"^[^\x00]{1,100}$")]
StepName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,49}$")]


class ComponentIn(BaseModel):
    """A new component."""

    name: Name
    prompt: Text = Field(examples=["Summarise: $input"])


class StepIn(BaseModel):
    """A step of a new workflow."""

    name: StepName
    component: Name
    needs: list[StepName] = Field(default=[], max_length=50)


class WorkflowIn(BaseModel):
    """A new workflow, whose steps can be brought into an order."""

    name: Name
    steps: list[StepIn] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _has_an_order(self) -> Self:
        needs = {step.name: step.needs for step in self.steps}
        if len(needs) < len(self.steps):
            raise ValueError("two steps have the same name")
        unknown = {name for each in needs.values() for name in each} - needs.keys()
        if unknown:
            raise ValueError(f"there are no steps {', '.join(sorted(unknown))}")
        if "input" in needs:
            raise ValueError("`input` is what the run is given")
        try:
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            raise ValueError(f"steps wait for each other: {', '.join(error.args[1])}") from None
        return self


class RunIn(BaseModel):
    """What a run is given."""

    input: Text


class RunOut(BaseModel):
    """A run, and what has become of its steps."""

    run: Run
    steps: list[StepRun]
