"""The periodic look at fencing devices: who is what is learned once, and what another machine says counts for nothing."""

from __future__ import annotations

import msgspec

from ha_agent.controller.devices import Devices
from ha_agent.model import AnyEvent, MachineSeen, Power, PowerRead, Reading
from tests.unit.test_engine import Bench

ON = Reading(device="bmc", power=Power.ON, at=1.0, machine="4C4C-1")


class Looked:
    """A bench whose hosts were heard, and what its devices' looks were told to the engine."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.bench.run(3.0)
        self.devices = Devices(self.bench.engine, self.bench.clock, {("c1", "bmc"): "ipmi"})
        self.fed: list[AnyEvent] = []
        feed = self.bench.engine.feed

        def keep(event: AnyEvent) -> None:
            self.fed.append(event)
            feed(event)

        self.bench.engine.feed = keep  # type: ignore[method-assign]

    def look(self, **changes: object) -> list[AnyEvent]:
        self.fed.clear()
        self.devices.result("c1", 0, [msgspec.structs.replace(ON, **changes)])
        return list(self.fed)

    def told(self) -> tuple[bool, str]:
        health = self.devices.all()[0]
        return health.ok, health.error


def test_which_machine_a_device_is_is_learned_once_while_its_host_is_heard() -> None:
    looked = Looked()
    assert MachineSeen(host="c1", device="bmc", machine="4C4C-1") in looked.look()
    assert looked.devices.expected("c1", "bmc") == "4C4C-1"
    assert looked.look() == [PowerRead(host="c1", readings=(ON,))]
    assert looked.told() == (True, "")


def test_nothing_is_learned_of_a_host_that_is_off_or_not_heard() -> None:
    looked = Looked()
    assert looked.look(power=Power.OFF) == []
    looked.bench.dead.add("c1")
    looked.bench.run(60.0)
    assert [type(e) for e in looked.look()] == [PowerRead]
    assert looked.devices.expected("c1", "bmc") is None


def test_what_another_machine_reads_says_nothing_of_this_host() -> None:
    looked = Looked()
    looked.look()
    assert looked.look(machine="4c4c-1") != [], "it is the same one, said in other letters"
    assert looked.look(machine="5D5D-2") == []
    assert looked.told() == (False, "it says that it is machine 5D5D-2; it was 4C4C-1 before")
    assert looked.look(power=Power.UNKNOWN, machine="", error="no answer") == []
    assert looked.told() == (False, "no answer")
