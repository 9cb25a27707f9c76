"""Units of work of a run: short ones, each of which may be run again by `db.run`.

Steps of one run finish at the same time, and all of them add to the same row. Under SERIALIZABLE,
PostgreSQL refuses one of two that would lose the other's change; `db.run` repeats it.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement
from sqlmodel import and_, col, func, select
from sqlmodel.ext.asyncio.session import AsyncSession

from workflows.ai import Answer
from workflows.models import Component, Run, Status, Step, StepRun


class TakenOver(Exception):
    """The run belongs to somebody else by now: we gave no sign of life for too long."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to work on a run, until it is somebody else's turn."""

    run_id: int
    number: int


@dataclass(frozen=True, slots=True)
class Task:
    """A step that is still to be done.

    Attributes:
        needs: The names of the steps whose answers it needs.
    """

    step_id: int
    name: str
    prompt: str
    needs: Sequence[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is left of a run.

    Attributes:
        outputs: What is done already, by the names of the steps.
    """

    input: str
    tasks: Sequence[Task]
    outputs: dict[str, str]


def is_interrupted() -> ColumnElement[bool]:
    """Select runs that have not ended, and that nobody is at work on."""
    return and_(col(Run.status) == Status.RUNNING, col(Run.alive_until) < func.now())


async def begin(
    session: AsyncSession, workflow_id: int, given: str, steps: Sequence[Step], seconds: float
) -> Run:
    """Write down a run, with all its steps; it is the turn of whoever does so."""
    end = await _lease_end(session, seconds)
    run = Run(workflow_id=workflow_id, input=given, alive_until=end)
    session.add(run)
    await session.flush()
    session.add_all(StepRun(run_id=run.id, step_id=step.id, name=step.name) for step in steps)
    return run


async def take_over(session: AsyncSession, run_id: int, seconds: float) -> Turn | None:
    """Take a run that was interrupted; of two who try, one gets it, and the other gets None."""
    query = select(Run).where(Run.id == run_id, is_interrupted())
    run = (await session.exec(query)).first()
    if run is None:
        return None
    run.turn += 1
    run.alive_until = await _lease_end(session, seconds)
    return Turn(run_id, run.turn)


async def load(session: AsyncSession, turn: Turn) -> Plan:
    """Read what is left to do."""
    run = await _ours(session, turn)
    outputs: dict[str, str] = {}
    tasks = []
    rows = await session.exec(
        select(StepRun, Step, Component.prompt)
        .join(Step, col(Step.id) == StepRun.step_id)
        .join(Component, col(Component.id) == Step.component_id)
        .where(StepRun.run_id == run.id)
    )
    for step_run, step, prompt in rows:
        if step_run.status == Status.DONE and step_run.output is not None:
            outputs[step_run.name] = step_run.output
        else:
            tasks.append(Task(step_run.step_id, step.name, prompt, step.needs))
    return Plan(run.input, tasks, outputs)


async def stay_alive(session: AsyncSession, turn: Turn, seconds: float) -> None:
    """Say that somebody is at work."""
    run = await _ours(session, turn)
    run.alive_until = await _lease_end(session, seconds)


async def begin_step(session: AsyncSession, turn: Turn, step_id: int) -> None:
    """Say that a step has begun."""
    run = await _ours(session, turn)
    step = await session.get_one(StepRun, (run.id, step_id))
    step.status = Status.RUNNING


async def finish_step(session: AsyncSession, turn: Turn, step_id: int, answer: Answer) -> None:
    """Keep an answer, and add up what it cost."""
    run = await _ours(session, turn)
    run.tokens += answer.tokens
    step = await session.get_one(StepRun, (run.id, step_id))
    step.status, step.output = Status.DONE, answer.text


async def give_up_step(session: AsyncSession, turn: Turn, step_id: int, status: Status) -> None:
    """Say that a step has failed, or was skipped."""
    run = await _ours(session, turn)
    step = await session.get_one(StepRun, (run.id, step_id))
    step.status = status


async def finish(session: AsyncSession, turn: Turn) -> None:
    """Say how a run has ended."""
    run = await _ours(session, turn)
    statuses = set(await session.exec(select(StepRun.status).where(StepRun.run_id == run.id)))
    run.status = Status.DONE if statuses <= {Status.DONE} else Status.FAILED


async def let_go(session: AsyncSession, turns: Sequence[Turn]) -> None:
    """Let others take over at once."""
    for turn in turns:
        with suppress(TakenOver):
            await stay_alive(session, turn, 0)


async def _ours(session: AsyncSession, turn: Turn) -> Run:
    """Read the run, and go no further where it was taken over: others are at the same steps."""
    run = await session.get_one(Run, turn.run_id)
    if run.turn != turn.number:
        raise TakenOver
    return run


async def _lease_end(session: AsyncSession, seconds: float) -> datetime:
    """Return when a lease ends that begins now; the clocks of two servers would differ."""
    now: datetime = (await session.exec(select(func.now()))).one()
    return now + timedelta(seconds=seconds)
