"""The executor's promises, in many seeded lives: permission in the moment of the sending, one true outcome within its bound, and no attempt
that outlives what ended it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from ha_agent.controller.executor import Executor
from ha_agent.errors import DriverError
from ha_agent.model import Command, CommandKind, Finished, Outcome, Status
from ha_agent.policy import HostPolicy
from tests.simulation.executor_world import Life

SEEDS = range(1, 101)


@pytest.mark.parametrize("first_seed", range(1, 401, 100))
def test_every_promise_is_kept(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 100):
        assert Life(seed).play() == [], f"Life({seed}).play()"


def test_a_life_has_something_of_everything() -> None:
    kinds: set[CommandKind] = set()
    statuses: Counter[Status] = Counter()
    ended = 0
    for seed in SEEDS:
        life = Life(seed)
        life.play()
        kinds |= {command.kind for _, command in life.books.sent.values()}
        ended += len(life.books.ended)
        statuses += life.books.statuses
    assert kinds == set(CommandKind) - {CommandKind.NOTIFY}, "that one is the journal's own"
    assert min(ended, *(statuses[each] for each in Status)) > 100


class AsksTooEarly(Executor):
    """Before a thread is free."""

    async def _nova(self, call: Callable[[], Outcome], policy: HostPolicy, command: Command) -> Outcome:
        self._allowed(command)
        permit, self._permit = self._permit, lambda command: ""
        try:
            return await super()._nova(call, policy, command)
        finally:
            self._permit = permit


class FreesTooEarly(Executor):
    """A thread counts as free when nobody waits for its call any more."""

    async def _nova(self, call: Callable[[], Outcome], policy: HostPolicy, command: Command) -> Outcome:
        try:
            return await super()._nova(call, policy, command)
        finally:
            self._free.release()


class LeavesTheOff(Executor):
    """A fence is not ended by what follows it."""

    def carry_out(self, effects: Any) -> None:
        for effect in effects:
            self._fences.clear()
            super().carry_out([effect])


class NeverAsks(Executor):
    def _allowed(self, command: Command) -> None:
        pass


class WaitsForEver(Executor):
    async def _nova(self, call: Callable[[], Outcome], policy: HostPolicy, command: Command) -> Outcome:
        self._allowed(command)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


class LosesBugs(Executor):
    """A driver that fails in an unexpected way takes the outcome with it."""

    async def _do(self, command: Command) -> None:
        try:
            outcome = await self._run(command)
        except DriverError as error:
            outcome = Outcome(command=command.id, status=Status.FAILED, error=str(error))
        self._feed(Finished(outcome=outcome))


class TakesLostForRefused(Executor):
    async def _do(self, command: Command) -> None:
        feed, self._feed = self._feed, lambda finished: feed(_refused(finished))
        try:
            await super()._do(command)
        finally:
            self._feed = feed


def _refused(finished: Finished) -> Finished:
    outcome = finished.outcome
    if outcome.status is not Status.LOST:
        return finished
    return Finished(outcome=Outcome(command=outcome.command, status=Status.FAILED, error=outcome.error))


class StopsInAHurry(Executor):
    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()


@pytest.mark.parametrize(
    ("planted", "promise"),
    [
        (AsksTooEarly, "without a permission of this very moment"),
        (FreesTooEarly, "no thread is free"),
        (LeavesTheOff, "a fence that was ended begins"),
        (NeverAsks, "without a permission"),
        (WaitsForEver, " s of "),
        (LosesBugs, "no outcome of"),
        (TakesLostForRefused, "is said not to be done, and is"),
        (StopsInAHurry, "alive when the executor has stopped"),
    ],
)
def test_a_planted_bug_shows(planted: type[Executor], promise: str) -> None:
    broken = (each for seed in SEEDS for each in Life(seed, planted).play())
    assert any(promise in each for each in broken)
