"""The Fencer: off, on and read for all devices of a level at once, each in a worker process that is dead when the call
returns."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from ha_agent.errors import DriverError
from ha_agent.fencing import manual
from ha_agent.fencing.pool import WorkerPool
from ha_agent.fencing.topology import Device, Topology
from ha_agent.fencing.worker import Request
from ha_agent.fencing.workers import certainly
from ha_agent.model import Power, Reading
from ha_agent.ports import Clock

Op = Literal["read", "off", "on"]
Expect = Callable[[str, str], str | None]
OnResult = Callable[[str, int, Sequence[Reading]], None]

KEPT = 2  # readings of a device that are returned: the last two decide
STOP_EARLY_S = 0.2  # the worker gives up this much before it would be killed, so that it can say why
CANCELLED = "cancelled"


class WorkerFencer:
    """Implements ports.Fencer. Levels count from 0.

    `expect(host, device)`: the machine id that the device said when the host was known alive, None if it never said
    one; a device that says anything else is not switched and reads UNKNOWN. `send_within_s`: an off or on that could
    not be sent within this time of the call is not sent at all (S4: the sending ends before the lease); None: the
    attempt's own deadline. `gap_s`: between the two readings of an off device. `poll_s`: between looks at one that is
    not off yet. `checks`: how many periodic device checks may run at once.
    """

    def __init__(
        self,
        topology: Topology,
        clock: Clock,
        expect: Expect = lambda host, device: None,
        *,
        send_within_s: float | None = None,
        gap_s: float = 0.5,
        poll_s: float = 0.5,
        checks: int = 4,
        pool: WorkerPool | None = None,
    ) -> None:
        self._topology = topology
        self._clock = clock
        self._expect = expect
        self._send_within_s = send_within_s
        self._gap_s = gap_s
        self._poll_s = poll_s
        self._checks = asyncio.Semaphore(checks)
        self._pool = pool or WorkerPool(drivers=topology.drivers)
        self._acting: dict[str, asyncio.Lock] = {}
        self._attempts: dict[str, set[asyncio.Task[list[Reading]]]] = {}
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Of every living worker process, for health reports and tests."""
        return self._pool.pids

    async def start(self) -> None:
        """Has the first workers ready. Raises DriverError where none can start. Without it the first attempt starts
        its own."""
        await self._pool.start()

    def set_topology(self, topology: Topology) -> None:
        """Other devices, from the next attempt on."""
        self._topology = topology
        self._pool.drivers = topology.drivers

    def levels(self, host: str) -> int:
        """How many levels the host has."""
        return len(self._topology.of(host))

    async def off(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        """See ports.Fencer. The last two readings of each device, oldest first; one with an error comes last."""
        return await self._run(host, "off", level, deadline_s)

    async def on(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        """See ports.Fencer."""
        return await self._run(host, "on", level, deadline_s)

    async def read(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        """See ports.Fencer. Runs beside an off of the same host, and never delays it."""
        return await self._run(host, "read", level, deadline_s)

    async def cancel(self, host: str) -> None:
        """No attempt on this host is alive when it returns; the calls that it ended return UNKNOWN."""
        while tasks := self._attempts.get(host):
            for task in tasks:
                task.cancel()
            await certainly(asyncio.wait(set(tasks)))
            await asyncio.sleep(0)  # the callers take their tasks out

    async def close(self) -> None:
        """No worker is alive when it returns."""
        self._closed = True
        for host in list(self._attempts):
            await self.cancel(host)
        await self._pool.close()

    async def check_all(self, interval_s: float, deadline_s: float, on_result: OnResult) -> None:
        """Reads every level of every host once, spread over `interval_s`, and reports each (host, level, readings).
        The readings carry what each device says it is (`machine`): nothing is expected of it here."""
        todo = [(host, level) for host in self._topology.levels for level in range(self.levels(host))]
        async with asyncio.TaskGroup() as group:
            for host, level in todo:
                await self._checks.acquire()
                group.create_task(self._check(host, level, deadline_s, on_result))
                await asyncio.sleep(interval_s / len(todo))

    async def check_loop(self, interval_s: float, deadline_s: float, on_result: OnResult) -> None:
        """`check_all` for ever, until cancelled."""
        while True:
            if not any(self._topology.levels.values()):
                await asyncio.sleep(interval_s)
                continue
            await self.check_all(interval_s, deadline_s, on_result)

    async def _check(self, host: str, level: int, deadline_s: float, on_result: OnResult) -> None:
        try:
            readings = await self._run(host, "read", level, deadline_s, expected=False)
        finally:
            self._checks.release()
        if not self._closed:
            on_result(host, level, readings)

    async def _run(self, host: str, op: Op, level: int, deadline_s: float, expected: bool = True) -> list[Reading]:
        """The attempt as a task of its own, so that `cancel` can end it and we can outlive it."""
        devices = self._topology.devices(host, level)
        if self._closed:
            return [self._unknown(device, "the fencer is closed") for device in devices]
        task = asyncio.create_task(self._attempt(host, op, devices, self._clock.now() + deadline_s, expected))
        attempts = self._attempts.setdefault(host, set())
        attempts.add(task)
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():  # we are cancelled: the attempt dies first
                task.cancel()
                await certainly(asyncio.wait({task}))
            attempts.discard(task)
            if not attempts and self._attempts.get(host) is attempts:
                del self._attempts[host]
        if task.cancelled():
            return [self._unknown(device, CANCELLED) for device in devices]
        return task.result()

    async def _attempt(
        self, host: str, op: Op, devices: Sequence[Device], deadline: float, expected: bool
    ) -> list[Reading]:
        act_by = deadline if self._send_within_s is None else min(deadline, self._clock.now() + self._send_within_s)
        async with contextlib.AsyncExitStack() as stack:
            if op != "read":  # one off or on at a time for a host
                try:
                    async with asyncio.timeout(deadline - self._clock.now()):
                        await stack.enter_async_context(self._acting.setdefault(host, asyncio.Lock()))
                except TimeoutError:
                    return [
                        self._unknown(device, f"another attempt on {host} did not end in time") for device in devices
                    ]
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._one(host, op, device, act_by=act_by, deadline=deadline, expected=expected))
                    for device in devices
                ]
        return [reading for task in tasks for reading in task.result()]

    async def _one(
        self, host: str, op: Op, device: Device, *, act_by: float, deadline: float, expected: bool
    ) -> list[Reading]:
        """One device. Never raises but when cancelled."""
        if device.driver == "manual":
            return [manual.reading(device, self._clock.now(), self._clock.wall())]
        started = self._clock.now()
        request = Request(
            op=op,
            device=device,
            act_by=act_by,
            until=deadline - min(STOP_EARLY_S, (deadline - started) / 10),
            expect=(self._expect(host, device.name) or "") if expected else "",
            gap_s=self._gap_s,
            poll_s=self._poll_s,
        )
        seen = _Seen()
        try:
            async with asyncio.timeout(max(deadline - started, 0.0)):
                await self._follow(request, seen)
        except TimeoutError:
            seen.error = seen.trouble or f"timed out after {self._clock.now() - started:.1f} s while {seen.doing}"
        except DriverError as error:
            seen.error = str(error)
        return self._result(device, seen)

    async def _follow(self, request: Request, seen: _Seen) -> None:
        async with self._pool.attempt(request) as worker:
            while True:
                line = await worker.line()
                if line is None:
                    seen.error = f"the fencing worker died while {seen.doing}"
                    return
                if line.kind == "doing":
                    seen.doing = line.text
                elif line.kind == "trouble":
                    seen.trouble = line.text
                elif line.reading is not None:
                    seen.readings.append(line.reading)
                    seen.trouble = ""
                elif line.kind == "end":
                    seen.error = line.text
                    if not line.text:
                        seen.trouble = ""
                        if request.op == "read":
                            self._pool.reusable(worker)
                    return

    def _result(self, device: Device, seen: _Seen) -> list[Reading]:
        """The last readings. An error belongs to the last one where that is no success, else it is an UNKNOWN of its
        own (S9)."""
        readings = list(seen.readings)
        error = seen.trouble or seen.error
        if readings and readings[-1].power is Power.ON and not seen.trouble:
            readings[-1] = msgspec.structs.replace(readings[-1], error=seen.error)
        elif error or not readings:
            readings.append(self._unknown(device, error or "nothing was read"))
        return readings

    def _unknown(self, device: Device, error: str) -> Reading:
        return Reading(
            device=device.name, power=Power.UNKNOWN, at=self._clock.now(), wall=self._clock.wall(), error=error
        )


class _Seen:
    """What has come from a worker so far."""

    def __init__(self) -> None:
        self.readings: deque[Reading] = deque(maxlen=KEPT)
        self.doing = "starting the worker"
        self.trouble = ""
        self.error = ""
