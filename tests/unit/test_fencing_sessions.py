"""Which session serves which request, in virtual time."""

from __future__ import annotations

import msgspec

from ha_agent.errors import Unanswered
from ha_agent.fencing.topology import Device
from ha_agent.fencing.window import Window
from ha_agent.fencing.worker import Request, Sessions
from ha_agent.model import Power

READ = Request(op="read", device=Device(name="bmc", address="one"), act_by=110.0, until=120.0)
OFF = msgspec.structs.replace(READ, op="off")


class Clock:
    def __init__(self) -> None:
        self.t = 100.0

    def now(self) -> float:
        return self.t

    def wall(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.t += seconds


class Bmc:
    """Remembers what it was asked. `stands`: whether its session may be used again."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.power = Power.ON
        self.said: list[str] = []
        self.stands = True
        self.broken = False
        self.window: Window | None = None

    def read(self) -> Power:
        if self.broken:
            raise Unanswered("lost")
        self.said.append("read")
        return self.power

    def off(self) -> None:
        self.said.append("off")
        self.power = Power.OFF

    def on(self) -> None:
        self.said.append("on")

    def machine(self) -> str:
        return ""

    def again(self, window: Window) -> bool:
        self.window = window
        return self.stands

    def close(self) -> None:
        if self.window is not None:
            self.window.check(changes=False)
        self.said.append("close")


class Lab:
    def __init__(self) -> None:
        self.opened: list[Bmc] = []
        self.clock = Clock()
        self.sessions = Sessions(self.clock, self.connect)

    def connect(self, device: Device, window: Window) -> Bmc:
        self.opened.append(Bmc(device))
        return self.opened[-1]

    def serve(self, request: Request) -> str:
        return self.sessions.serve(request, lambda line: None)


def test_the_next_read_of_the_same_device_uses_the_session() -> None:
    lab = Lab()
    assert [lab.serve(READ), lab.serve(READ)] == ["", ""]
    [bmc] = lab.opened
    assert bmc.said == ["read", "read"]
    assert lab.sessions.kept
    lab.sessions.drop()
    assert bmc.said == ["read", "read", "close"]
    assert not lab.sessions.kept


def test_a_session_that_was_kept_for_long_may_still_say_good_bye() -> None:
    lab = Lab()
    lab.serve(READ)
    lab.clock.t += 60.0
    lab.sessions.drop()
    assert lab.opened[0].said == ["read", "close"]
    assert lab.opened[0].window is not None
    assert lab.opened[0].window.left_s(changes=True) < 0  # and nothing else


def test_another_device_gets_its_own() -> None:
    lab = Lab()
    other = msgspec.structs.replace(READ, device=Device(name="bmc", address="two"))
    lab.serve(READ)
    lab.serve(other)
    assert [bmc.device.address for bmc in lab.opened] == ["one", "two"]
    assert lab.opened[0].said == ["read", "close"]


def test_an_off_begins_with_a_login_of_its_own_and_leaves_no_session() -> None:
    lab = Lab()
    lab.serve(READ)
    assert lab.serve(OFF) == ""
    read, off = lab.opened
    assert read.said == ["read", "close"]
    assert off.said[0] == "off"
    assert off.said[-1] == "close"
    assert not lab.sessions.kept


def test_a_read_that_failed_leaves_no_session() -> None:
    lab = Lab()
    lab.serve(READ)
    lab.opened[0].broken = True
    assert lab.serve(READ) == "lost"
    assert not lab.sessions.kept
    assert lab.opened[0].said[-1] == "close"


def test_a_session_that_does_not_stand_is_replaced() -> None:
    lab = Lab()
    lab.serve(READ)
    lab.opened[0].stands = False
    assert lab.serve(READ) == ""
    assert len(lab.opened) == 2
