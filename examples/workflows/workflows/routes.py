"""The routes."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Request
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from fastdb import on_commit
from fastdb.handlers import error_responses
from workflows import units
from workflows.config import settings
from workflows.database import ReadSessionDep, SessionDep
from workflows.models import Component, Run, Step, StepRun, Workflow
from workflows.runner import Runner
from workflows.schemas import ComponentIn, RunIn, RunOut, WorkflowIn

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]


def _runner(request: Request) -> Runner:
    runner: Runner = request.app.state.runner
    return runner


RunnerDep = Annotated[Runner, Depends(_runner)]

router = APIRouter()
_MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "It is not there."}}


@router.post("/components", status_code=201, responses=error_responses(409))
async def create_component(new: ComponentIn, session: SessionDep) -> Component:
    component = Component(**new.model_dump())
    session.add(component)
    await session.flush()
    return component


@router.get("/components")
async def list_components(session: ReadSessionDep) -> list[Component]:
    return list(await session.exec(select(Component).order_by(col(Component.name)).limit(1000)))


@router.post("/workflows", status_code=201)
async def create_workflow(new: WorkflowIn, session: SessionDep) -> Workflow:
    names = {step.component for step in new.steps}
    query = select(Component).where(col(Component.name).in_(names))
    components = {component.name: component.id for component in await session.exec(query)}
    if missing := names - components.keys():
        raise HTTPException(422, f"There are no components {', '.join(sorted(missing))}.")
    workflow = Workflow(name=new.name)
    session.add(workflow)
    await session.flush()
    session.add_all(
        Step(
            workflow_id=workflow.id,
            component_id=components[step.component],
            name=step.name,
            needs=step.needs,
        )
        for step in new.steps
    )
    return workflow


@router.post("/workflows/{workflow_id}/runs", status_code=202, responses=_MISSING)
async def start_run(workflow_id: Id, new: RunIn, session: SessionDep, runner: RunnerDep) -> Run:
    steps = await _steps(session, workflow_id)
    run = await units.begin(session, workflow_id, new.input, steps, settings.lease_seconds)
    # Not before it is committed: nobody else can read it until then, and it may yet be undone.
    on_commit(session, lambda: runner.start(units.Turn(run.id, run.turn)))
    return run


@router.get("/runs")
async def list_runs(session: ReadSessionDep, *, interrupted: bool = False) -> list[Run]:
    """List the latest runs, or those only that can be resumed."""
    query = select(Run).order_by(col(Run.id).desc()).limit(100)
    if interrupted:
        query = query.where(units.is_interrupted())
    return list(await session.exec(query))


@router.get("/runs/{run_id}", responses=_MISSING)
async def read_run(run_id: Id, session: ReadSessionDep) -> RunOut:
    run = await _run(session, run_id)
    steps = select(StepRun).where(StepRun.run_id == run_id).order_by(col(StepRun.step_id))
    return RunOut(run=run, steps=list(await session.exec(steps)))


@router.post(
    "/runs/{run_id}/resume",
    status_code=202,
    responses={**_MISSING, 409: {"description": "It has ended, or somebody is at work on it."}},
)
async def resume_run(run_id: Id, session: ReadSessionDep, runner: RunnerDep) -> None:
    await _run(session, run_id)
    if not await runner.resume(run_id):
        raise HTTPException(409, "It has ended, or somebody is at work on it.")


async def _run(session: AsyncSession, run_id: int) -> Run:
    run = await session.get(Run, run_id)
    if run is None:
        raise HTTPException(404)
    return run


async def _steps(session: AsyncSession, workflow_id: int) -> list[Step]:
    query = select(Step).where(Step.workflow_id == workflow_id).order_by(col(Step.id))
    steps = list(await session.exec(query))
    if not steps:
        raise HTTPException(404)
    return steps
