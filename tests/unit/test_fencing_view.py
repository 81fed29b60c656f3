"""What a person is told of fencing before it is needed: what would be done, what forbids it, and how the devices answer now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from ha_agent.api.facade import DeviceHealth
from ha_agent.controller.devices import Devices
from ha_agent.controller.fencing_view import LOOKS_AT_ONCE, FencingView, plan
from ha_agent.errors import UsageError
from ha_agent.model import Fleet, HostRecord, Mode, Power, Reading, State
from ha_agent.policy import Fencing, HostPolicy, Policy, Recovery
from tests.unit.test_engine import Clock

replace = msgspec.structs.replace
HOST = HostPolicy(name="h1", fencing=Fencing(levels=(("bmc",), ("plug1", "plug2")), attempt_s=20.0))
POLICY = Policy(hosts={"h1": HOST})
SEEN = HostRecord(host="h1", first_seen_wall=1.0)
ARMED = State(fleet=Fleet(armed=True), hosts={"h1": SEEN}, incidents={}, closed=())


class Noted(Devices):
    """The health of devices, without an engine."""

    def __init__(self) -> None:
        self.drivers = {("h1", "bmc"): "ipmi", ("h1", "plug1"): "fence_agent", ("h1", "hand"): "manual"}
        self.looks: list[tuple[str, int]] = []

    def result(self, host: str, level: int, readings: Sequence[Reading]) -> None:
        self.looks.append((host, level))


class TwoLevels:
    """A fencer. `slow`: how long each level takes by the clock."""

    def __init__(self, clock: Clock, levels: Sequence[Sequence[Reading]]) -> None:
        self.clock, self.answers = clock, levels
        self.now = self.most = 0

    def levels(self, host: str) -> int:
        return len(self.answers)

    async def read(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.clock.at += 0.25
        self.now -= 1
        return self.answers[level]

    async def off(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        raise AssertionError("a look switches nothing")

    on = off

    async def cancel(self, host: str) -> None: ...

    async def close(self) -> None: ...


def reading(device: str, power: Power = Power.ON, **fields: object) -> Reading:
    return replace(Reading(device=device, power=power, at=1.0), **fields)


async def test_every_level_is_read_and_counts_as_a_look() -> None:
    clock, devices = Clock(), Noted()
    fencer = TwoLevels(
        clock,
        [
            [reading("bmc", machine="4c4c")],
            [reading("plug1", Power.UNKNOWN, error="refused"), reading("plug2", Power.UNKNOWN)],
            [reading("hand", Power.UNKNOWN)],
        ],
    )
    found = await FencingView(fencer, devices, clock).look(POLICY, "h1")
    assert [(d.level, d.device, d.driver, d.power, d.machine, d.error) for d in found] == [
        (1, "bmc", "ipmi", Power.ON, "4c4c", ""),
        (2, "plug1", "fence_agent", Power.UNKNOWN, "", "refused"),
        (2, "plug2", "", Power.UNKNOWN, "", "it says neither on nor off"),
        (3, "hand", "manual", Power.UNKNOWN, "", ""),
    ]
    assert all(d.took_s > 0 for d in found)
    assert devices.looks == [("h1", 0), ("h1", 1), ("h1", 2)]


async def test_only_so_many_hosts_are_read_at_once() -> None:
    clock = Clock()
    fencer = TwoLevels(clock, [[reading("bmc")]])
    view = FencingView(fencer, Noted(), clock)
    await asyncio.gather(*(view.look(POLICY, "h1") for _ in range(3 * LOOKS_AT_ONCE)))
    assert fencer.most == LOOKS_AT_ONCE


async def test_an_unknown_host_is_refused() -> None:
    clock = Clock()
    with pytest.raises(UsageError, match="h9 is not in the inventory"):
        await FencingView(TwoLevels(clock, []), Noted(), clock).look(POLICY, "h9")
    with pytest.raises(UsageError, match="h9 is not in the inventory"):
        plan(POLICY, ARMED, [], "h9")


def test_the_plan_names_levels_devices_and_bounds() -> None:
    bmc = DeviceHealth(host="h1", device="bmc", level=1, driver="ipmi", ok=True)
    other = DeviceHealth(host="h2", device="plug1", level=2, driver="ipmi", ok=True)
    found = plan(POLICY, ARMED, [bmc, other], "h1")
    assert (found.mode, found.fence, found.alarm_s, found.attempt_s) == (Mode.AUTO, True, 11.5, 20.0)
    assert [(level.level, level.evidence_s) for level in found.levels] == [(1, 31.5), (2, 51.5)]
    assert found.levels[0].devices == (bmc,)
    assert [d.device for d in found.levels[1].devices] == ["plug1", "plug2"]
    assert not any(d.ok for d in found.levels[1].devices), "nothing is known of them, nor of another host's"
    assert (found.forbidden, found.release) == ("", "")


@pytest.mark.parametrize(
    ("state", "why", "release"),
    [
        (replace(ARMED, fleet=Fleet()), "disarmed", "ha-agent arm"),
        (replace(ARMED, fleet=Fleet(armed=True, paused="work (ann)")), "paused: work", "ha-agent unpause"),
        (replace(ARMED, hosts={"h1": replace(SEEN, maintenance="disks")}), "maintenance", "maintenance off h1"),
        (replace(ARMED, hosts={}), "never seen alive", "ha-agent fence h1"),
        (replace(ARMED, hosts={"h1": HostRecord(host="h1")}), "never seen alive", "ha-agent fence h1"),
        (replace(ARMED, hosts={"h1": replace(SEEN, contradiction="bmc lies")}), "bmc lies", "ha-agent fence h1"),
    ],
)
def test_the_plan_says_what_forbids_it_now(state: State, why: str, release: str) -> None:
    found = plan(POLICY, state, [], "h1")
    assert why in found.forbidden
    assert release in found.release


def test_a_host_without_a_device_waits_for_a_person_and_one_that_is_never_fenced_for_nobody() -> None:
    bare = replace(HOST, fencing=Fencing(levels=()))
    assert "confirm-fenced h1" in plan(Policy(hosts={"h1": bare}), ARMED, [], "h1").release
    told = replace(bare, recovery=Recovery(mode=Mode.NOTIFY, fence=False))
    found = plan(Policy(hosts={"h1": told}), ARMED, [], "h1")
    assert (found.fence, found.forbidden) == (False, "")
