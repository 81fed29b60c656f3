"""The executor: carries effects out through the drivers, and brings back what came of them. It decides nothing.

Blocking drivers run in threads; one is free before `permit` is asked, so that nothing stands between the last look and the
sending. Every command ends in exactly one outcome, within its deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ha_agent.controller.effects import AckGuest, AnyEffect, AskWitness, Do, ReadBmc, ReadNova
from ha_agent.controller.nova_calls import ask, failed, row_seen
from ha_agent.errors import DriverError, HaAgentError, Unanswered
from ha_agent.model import (
    Command,
    CommandKind,
    ComputeService,
    Finished,
    Outcome,
    Reading,
    Status,
)
from ha_agent.policy import HostPolicy, Policy
from ha_agent.ports import AnyObservation, Clock, Cloud, Fencer, Monitor, PowerSeen

log = logging.getLogger(__name__)

T = TypeVar("T")
NOVA_THREADS = 16
LOOKERS = 2
LOOK_S = 30.0
SERVICES_FRESH_S = 0.5  # witness.ROW_AGE_S
ASK_REMOTE_S = 3.0


class Executor:
    """See the module. `permit` and `feed` are the engine's; `observe` takes observations."""

    def __init__(
        self,
        *,
        permit: Callable[[Command], str],
        feed: Callable[[Finished], None],
        observe: Callable[[AnyObservation], None],
        policy: Policy,
        clock: Clock,
        cloud: Cloud,
        fencer: Fencer,
        monitor: Monitor,
    ) -> None:
        self.policy = policy
        self._permit = permit
        self._feed = feed
        self._observe = observe
        self._clock = clock
        self._cloud = cloud
        self._fencer = fencer
        self._monitor = monitor
        self._threads = ThreadPoolExecutor(NOVA_THREADS, thread_name_prefix="nova")
        self._lookers = ThreadPoolExecutor(LOOKERS, thread_name_prefix="nova-look")  # never in the way of a command
        self._free = asyncio.Semaphore(NOVA_THREADS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._fences: dict[str, asyncio.Task[None]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}  # by the id of the command that ends it
        self._services: tuple[float, Mapping[str, ComputeService] | None] | None = None  # and when they were asked for
        self._services_lock = asyncio.Lock()

    def carry_out(self, effects: Sequence[AnyEffect]) -> None:
        """Start each effect; returns at once."""
        for effect in effects:
            match effect:
                case Do(command=command):
                    if command.kind in (CommandKind.CANCEL_FENCE, CommandKind.POWER_ON):
                        # the attempt that it ends is the one before it, begun or not; never one that comes later
                        before = self._fences.pop(command.host, None)
                        if before is not None:
                            before.cancel()
                            self._ending[command.id] = before
                    task = self._start(self._do(command))
                    if command.kind is CommandKind.FENCE:
                        self._fences[command.host] = task
                case AskWitness():
                    self._monitor.probe(effect.witness, effect.target, effect.nonce, effect.deadline_s)
                case ReadBmc(host=host):
                    self._start(self._read_bmc(host))
                case ReadNova(host=host):
                    self._start(self._read_nova(host))
                case AckGuest():
                    self._monitor.acknowledge(effect.host, effect.report)

    async def stop(self) -> None:
        """No attempt is alive when it returns."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._fencer.close()
        self._threads.shutdown(wait=False)  # nothing is queued there: see _nova
        self._lookers.shutdown(wait=False, cancel_futures=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- commands ---

    async def _do(self, command: Command) -> None:
        try:
            outcome = await self._run(command)
        except asyncio.CancelledError:
            if command.kind is CommandKind.FENCE:
                await self._fencer.cancel(command.host)
            raise
        except Exception as error:
            outcome = failed(command, error)
        self._feed(Finished(outcome=outcome))

    async def _run(self, command: Command) -> Outcome:
        kind, host = command.kind, command.host
        policy = self.policy.hosts.get(host) or HostPolicy(name=host)
        deadline = policy.fencing.attempt_s
        match kind:
            case CommandKind.FENCE:
                self._allowed(command)
                return self._read(command, await self._fencer.off(host, command.level, deadline))
            case CommandKind.READ_POWER:
                return self._read(command, await self._fencer.read(host, command.level, policy.fencing.read_s))
            case CommandKind.CANCEL_FENCE:
                await self._cancel_fence(command)
                return Outcome(command=command.id, status=Status.OK)
            case CommandKind.POWER_ON:
                await self._cancel_fence(command)  # safety: no off may be alive when a host is powered on (S4)
                self._allowed(command)
                return self._read(command, await self._fencer.on(host, command.level, deadline))
            case CommandKind.OPEN_GATE:
                self._allowed(command)
                await self._monitor.open_gate(host, command.boot_id, ASK_REMOTE_S)
                return Outcome(command=command.id, status=Status.OK)
            case CommandKind.CHECK_ABSENT:
                presence = await self._monitor.domain(host, command.subject, ASK_REMOTE_S)
                return Outcome(command=command.id, status=Status.OK, presence=presence)
            case _:
                return await self._nova(lambda: ask(self._cloud, command), policy, command)

    async def _nova(self, call: Callable[[], Outcome], policy: HostPolicy, command: Command) -> Outcome:
        """One call in a thread that is free at once; `permit` is asked immediately before it."""
        await self._free.acquire()
        try:
            self._allowed(command)
            future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        except BaseException:
            self._free.release()
            raise
        future.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(policy.recovery.api_max_s):
                return await asyncio.shield(future)
        except TimeoutError:
            raise Unanswered(f"Nova did not answer {command.kind} in time") from None

    def _ended(self, call: asyncio.Future[Outcome]) -> None:
        """A thread is free again when its call has ended, not when we stopped waiting for it. Nobody may be left to ask how it ended."""
        self._free.release()
        if not call.cancelled():
            call.exception()

    def _allowed(self, command: Command) -> None:
        refusal = self._permit(command)
        if refusal:
            raise DriverError(f"not sent: {refusal}")

    def _read(self, command: Command, readings: Sequence[Reading]) -> Outcome:
        return Outcome(command=command.id, status=Status.OK, readings=tuple(readings))

    async def _cancel_fence(self, command: Command) -> None:
        before = self._ending.pop(command.id, None)
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        await self._fencer.cancel(command.host)

    # --- looks ---

    async def look(self, call: Callable[[], T]) -> T:
        """One blocking look at Nova, never in the way of a command. Raises what the driver raises, and TimeoutError."""
        future = asyncio.get_running_loop().run_in_executor(self._lookers, call)
        async with asyncio.timeout(LOOK_S):
            return await future

    async def _read_bmc(self, host: str) -> None:
        policy = self.policy.hosts.get(host)
        if policy is None or not policy.fencing.levels:
            return
        try:
            readings = await self._fencer.read(host, 0, policy.fencing.read_s)
        except HaAgentError:
            return
        except Exception:
            log.exception("a driver failed in an unexpected way; %s was not read", host)
            return
        self._observe(PowerSeen(host=host, at=self._clock.now(), readings=tuple(readings)))

    async def _read_nova(self, host: str) -> None:
        """Nova's row of the host, from one listing that all suspects share."""
        async with self._services_lock:
            now = self._clock.now()
            if self._services is None or now - self._services[0] > SERVICES_FRESH_S:
                self._services = (now, await self._list_services())
            at, services = self._services
        self._observe(row_seen(host, at, services))

    async def _list_services(self) -> Mapping[str, ComputeService] | None:
        """By host; None where Nova cannot be read."""
        try:
            return {s.host: s for s in await self.look(self._cloud.services)}
        except (HaAgentError, TimeoutError):
            return None
        except Exception:
            log.exception("a driver failed in an unexpected way; Nova counts as unreadable")
            return None
