"""Runs: in the background, with no connection held while the model is thinking."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from string import Template
from types import TracebackType
from typing import Self, TypeVar, TypeVarTuple

from sqlmodel.ext.asyncio.session import AsyncSession

from fastdb import Database
from workflows import units
from workflows.ai import AI, NoAnswer
from workflows.models import Status

logger = logging.getLogger("workflows")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

ATTEMPTS = 20  # many steps may finish at once, and all but one of them are refused


class Runner:
    """Carries out runs, each in a task, for as long as its block lasts.

    Args:
        db: Where runs are kept.
        ai: What steps ask.
        parallel: How many steps wait for an answer at the same time, of all runs.
        lease_seconds: How long a run that gives no sign of life belongs to us.
    """

    def __init__(
        self, db: Database[AsyncSession], ai: AI, *, parallel: int, lease_seconds: float
    ) -> None:
        self._db = db
        self._ai = ai
        self._at_once = asyncio.Semaphore(parallel)
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="ai")
        self._lease = lease_seconds
        self._runs: dict[units.Turn, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop; what is not done can be resumed, by another process at once."""
        interrupted = dict(self._runs)
        for task in interrupted.values():
            task.cancel()
        await asyncio.gather(*interrupted.values(), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        if interrupted:
            await self._unit(units.let_go, list(interrupted))

    def start(self, turn: units.Turn) -> None:
        """Carry out a run that is committed; what is done already is not repeated."""
        task = asyncio.create_task(self._carry_out(turn), name=f"run {turn.run_id}")
        self._runs[turn] = task
        task.add_done_callback(lambda _: self._runs.pop(turn, None))

    async def resume(self, run_id: int) -> bool:
        """Carry out what is left of a run; return whether it is ours now."""
        turn = await self._unit(units.take_over, run_id, self._lease)
        if turn is not None:
            self.start(turn)
        return turn is not None

    async def _carry_out(self, turn: units.Turn) -> None:
        try:
            plan = await self._unit(units.load, turn)
            async with asyncio.TaskGroup() as group:
                alive = group.create_task(self._stay_alive(turn))
                await self._all_steps(turn, plan)
                alive.cancel()
            await self._unit(units.finish, turn)
        except* units.TakenOver:
            logger.warning("Run %d was taken over by somebody else", turn.run_id)
        except* Exception:  # nobody awaits this task: it can be resumed when its time is over
            logger.exception("Run %d was interrupted", turn.run_id)

    async def _stay_alive(self, turn: units.Turn) -> None:
        """Move on the end of our time: an answer, or the turn to ask, may be long in coming."""
        while True:
            await asyncio.sleep(self._lease / 3)
            await self._unit(units.stay_alive, turn, self._lease)

    async def _all_steps(self, turn: units.Turn, plan: units.Plan) -> None:
        """Begin each step as soon as those are done that it needs."""
        outputs = dict(plan.outputs)
        ended = {task.name: asyncio.Event() for task in plan.tasks}

        async def step(task: units.Task) -> None:
            for name in task.needs:
                if name in ended:
                    await ended[name].wait()
            try:
                if all(name in outputs for name in task.needs):
                    async with self._at_once:
                        await self._step(turn, plan.input, task, outputs)
                else:
                    await self._unit(units.give_up_step, turn, task.step_id, Status.SKIPPED)
            finally:
                ended[task.name].set()

        async with asyncio.TaskGroup() as group:
            for task in plan.tasks:
                group.create_task(step(task))

    async def _step(
        self, turn: units.Turn, given: str, task: units.Task, outputs: dict[str, str]
    ) -> None:
        """Ask, between two units of work: whoever thinks holds no connection."""
        prompt = Template(task.prompt).safe_substitute(outputs, input=given)
        await self._unit(units.begin_step, turn, task.step_id)
        loop = asyncio.get_running_loop()
        try:
            answer = await loop.run_in_executor(self._threads, self._ai.answer, prompt)
        except NoAnswer as error:
            logger.warning("Step %s of run %d has no answer: %s", task.name, turn.run_id, error)
            await self._unit(units.give_up_step, turn, task.step_id, Status.FAILED)
            return
        await self._unit(units.finish_step, turn, task.step_id, answer)
        outputs[task.name] = answer.text

    async def _unit(self, unit: Callable[[AsyncSession, *Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run a unit of work, and again where it met another one."""
        return await self._db.run(unit, *args, attempts=ATTEMPTS, isolation="SERIALIZABLE")
