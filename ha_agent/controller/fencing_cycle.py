"""One fencing level of one host, tried for real: read, off, on again, and heard again. By the same fencer as a fence, in worker processes of
its own; what is read here is told to whoever asked, and to no incident (S2)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from ha_agent import guards
from ha_agent.api.fencing_tests import DeviceTest, LevelTest, LevelVerdict
from ha_agent.controller.fencing_permit import Permit
from ha_agent.controller.fencing_view import FencingView
from ha_agent.model import Evidence, Power, Reading
from ha_agent.policy import HostPolicy
from ha_agent.ports import Clock, Fencer
from ha_agent.witness import View

ON_TRIES = 3
ON_PAUSE_S = 5.0
POLL_S = 0.5

log = logging.getLogger("ha_agent")

Switch = Callable[[str, int, float], Awaitable[Sequence[Reading]]]
replace = msgspec.structs.replace


class Cycle:
    """One level, counted from 0, of one host; to be run once. `seen`: the host as the detection sees it now. `say` takes one sentence at a time.
    `sleep` takes seconds."""

    def __init__(
        self,
        policy: HostPolicy,
        level: int,
        *,
        fencer: Fencer,
        view: FencingView,
        clock: Clock,
        permit: Permit,
        seen: Callable[[], View | None],
        say: Callable[[str], None],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.away = False  # an off may have been sent, and no on was read since
        self._host = policy.name
        self._policy = policy
        self._level = level
        self._names = policy.fencing.levels[level]
        self._fencer = fencer
        self._view = view
        self._clock = clock
        self._permit = permit
        self._seen = seen
        self._tell = say
        self._sleep = sleep
        self._devices: dict[str, DeviceTest] = {}
        self._on_at = 0.0

    async def run(self, return_s: float) -> LevelTest:
        """Off, and then on whatever came of the off. `return_s`: how long the host may take to be heard again."""
        why = await self._before()
        refusal = self._permit.off()
        if not why and refusal is not None:
            return self._result(LevelVerdict.NOT_TESTED, _why(refusal))
        if why:
            return self._result(LevelVerdict.FAILED, f"{why}; nothing was sent")
        before = self._seen()
        heard = before if before is not None and before.heard_at is not None and before.suspect_at is None else None
        proof = await self._off()
        not_on = await self._on()
        not_off = proof if isinstance(proof, str) else ""
        if not_on:
            return self._result(LevelVerdict.FAILED, not_off, not_on, back=False)
        if heard is None:
            note = "it was not heard before, so its return was not awaited"
            return self._result(LevelVerdict.FAILED if not_off else LevelVerdict.WORKS, not_off, note)
        off_at = None if isinstance(proof, str) else max(reading.at for reading in proof.readings)
        return await self._back(heard, off_at, not_off, return_s)

    async def _before(self) -> str:
        """Reads the level. Why it is not to be switched; empty where it can."""
        looks = await self._view.level(self._host, self._level, self._policy.fencing.attempt_s)
        for look in looks:
            self._devices[look.device] = DeviceTest(
                device=look.device, driver=look.driver, machine=look.machine, before=look.power
            )
            machine = f", machine {look.machine}" if look.machine else ""
            self._say(f"{look.device} reads {look.power}{machine}" + (f": {look.error}" if look.error else ""))
        if {look.device for look in looks} != set(self._names):
            return "its devices are others than those of the policy"
        return "; ".join(
            f"{look.device} {look.error or f'reads {look.power}'}" for look in looks if look.power is not Power.ON
        )

    async def _off(self) -> Evidence | str:
        """The proof, as a fence would want it, or why there is none."""
        began = self._clock.now()
        self.away = True
        self._say("off is sent")
        readings = await self._switch(self._fencer.off)
        proof = guards.evidence_of(self._level, self._names, readings, began)
        for name, last in _last(readings).items():
            off_s = round(last.at - began, 1) if last.power is Power.OFF else None
            self._devices[name] = replace(self._devices[name], off=last.power, off_s=off_s)
        took_s = self._clock.now() - began
        self._say(
            f"not proven off: {proof}" if isinstance(proof, str) else f"every device read off twice in {took_s:.1f} s"
        )
        return proof

    async def _on(self) -> str:
        """Why it does not read on; empty where every device does."""
        self._on_at = self._clock.now()
        why = ""
        for number in range(ON_TRIES):
            if number:
                self._say(f"{why}; again in {ON_PAUSE_S:g} s")
                await self._sleep(ON_PAUSE_S)
            refusal = self._permit.on()
            if refusal is not None:
                why = f"on was not sent: {_why(refusal)}"
                continue
            self._say("on is sent")
            last = _last(await self._switch(self._fencer.on))
            for name, reading in last.items():
                on_s = round(reading.at - self._on_at, 1) if reading.power is Power.ON else None
                self._devices[name] = replace(self._devices[name], on=reading.power, on_s=on_s)
            dark = [r for r in last.values() if r.power is not Power.ON]
            if not dark and set(last) == set(self._names):
                self.away = False
                self._say(f"every device reads on after {self._clock.now() - self._on_at:.1f} s")
                return ""
            why = "not on again: " + (
                ", ".join(f"{r.device} {r.error or f'reads {r.power}'}" for r in dark) or "no reading"
            )
        self._say(why)
        return f"{why}: the host may be off"

    async def _back(self, before: View, off_at: float | None, not_off: str, return_s: float) -> LevelTest:
        """Waits for the host. `off_at`: when it read off last; None: it never did for certain, so any boot will do."""
        deadline = self._on_at + return_s
        patience_s = self._policy.detection.suspect_after_s  # what was on its way may still arrive
        since = (off_at if off_at is not None else self._clock.now()) + patience_s
        while True:
            view = self._seen()
            heard_at = view.heard_at if view is not None and view.heard_at is not None else 0.0
            if view is not None and heard_at > self._on_at and view.boot_id != before.boot_id:
                back_s = round(heard_at - self._on_at, 1)
                self._say(f"{self._host} is heard again, in a new boot, after {back_s:g} s")
                return self._result(
                    LevelVerdict.FAILED if not_off else LevelVerdict.WORKS, not_off, back=True, back_s=back_s
                )
            if heard_at > since:
                why = not_off or (
                    "its devices read off, and yet the host ran on in the same boot: they do not switch it off, or not they alone"
                )
                self._say(f"{self._host} is heard in the boot from before")
                return self._result(LevelVerdict.FAILED, why)
            refusal = self._permit.test()
            if refusal is not None:
                why = f"its return is not awaited: {_why(refusal)}"
                return self._result(LevelVerdict.FAILED, not_off, why, back=False)
            if self._clock.now() >= deadline:
                why = f"{self._host} was not heard again within {return_s:g} s"
                self._say(why)
                return self._result(LevelVerdict.FAILED, not_off, why, back=False)
            await self._sleep(POLL_S)

    async def _switch(self, switch: Switch) -> Sequence[Reading]:
        """A driver's bug reads as unknown (S9): the host is to be switched on all the same."""
        try:
            return await switch(self._host, self._level, self._policy.fencing.attempt_s)
        except Exception as error:
            log.exception("a driver failed in an unexpected way; what %s reads is unknown", self._host)
            now, wall = self._clock.now(), self._clock.wall()
            text = type(error).__name__
            return [Reading(device=n, power=Power.UNKNOWN, at=now, wall=wall, error=text) for n in self._names]

    def _result(self, verdict: LevelVerdict, *why: str, back: bool = True, back_s: float | None = None) -> LevelTest:
        return LevelTest(
            level=self._level + 1,
            verdict=verdict,
            devices=tuple(self._devices[name] for name in self._names if name in self._devices),
            back=back,
            back_s=back_s,
            why="; ".join(each for each in why if each),
        )

    def _say(self, text: str) -> None:
        self._tell(f"level {self._level + 1}: {text}")


def _last(readings: Sequence[Reading]) -> dict[str, Reading]:
    """The newest reading of each device."""
    return {reading.device: reading for reading in sorted(readings, key=lambda r: r.at)}


def _why(refusal: guards.Refusal) -> str:
    return refusal.reason + (f" ({refusal.release})" if refusal.release else "")
