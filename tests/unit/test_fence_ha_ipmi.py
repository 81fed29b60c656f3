"""fence_ha_ipmi, in virtual time, on a BMC that does what the test says: success is what is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ha_agent.errors import DriverError, HaAgentError, Unanswered
from ha_agent.fenceagents import ipmi
from ha_agent.fenceagents.options import Options
from ha_agent.fenceagents.run import Answer, World
from ha_agent.fencing.drivers import Connection
from ha_agent.fencing.worker import Request
from ha_agent.model import Power

ON, OFF = Power.ON, Power.OFF
VALUES = {
    "ip": "bmc-1",
    "ipport": "6230",
    "username": "ann",
    "password": "tiger",
    "privlvl": "operator",
    "cipher": "3",
    "login_timeout": "5",
    "power_timeout": "10",
}


class Bmc:
    """A switch in virtual time; it is also the clock. `obeys`: what really happens on off and on."""

    def __init__(self, power: Power = ON, *, obeys: bool = True, machine: str = "") -> None:
        self.t, self.power, self.obeys, self.id = 100.0, power, obeys, machine
        self.sent: list[str] = []
        self.closed = 0
        self.requests: list[Request] = []
        self.passwords: list[bytes] = []
        self.trouble: Callable[[], None] = lambda: None
        self.on_trouble: Exception | None = None

    def now(self) -> float:
        return self.t

    def wall(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.t += seconds

    def connect(self, request: Request, password: bytes, world: World) -> Connection:
        self.requests.append(request)
        self.passwords.append(password)
        return self

    def read(self) -> Power:
        self.t += 0.01
        self.trouble()
        return self.power

    def off(self) -> None:
        self._set(OFF)

    def on(self) -> None:
        if self.on_trouble is not None:
            raise self.on_trouble
        self._set(ON)

    def _set(self, power: Power) -> None:
        self.sent.append(str(power))
        if self.obeys:
            self.power = power

    def machine(self) -> str:
        self.trouble()
        return self.id

    def close(self) -> None:
        self.closed += 1

    def act(self, action: str, **values: str) -> Answer:
        self.murmurs: list[str] = []
        world = World(clock=self, murmur=self.murmurs.append)
        return ipmi.act(action, Options({**VALUES, **values}), world, self.connect)


@pytest.mark.parametrize(("power", "code", "text"), [(ON, 0, "Status: ON"), (OFF, 2, "Status: OFF")])
def test_status(power: Power, code: int, text: str) -> None:
    bmc = Bmc(power)
    assert bmc.act("status") == Answer(code, text)
    assert (bmc.sent, bmc.closed) == ([], 1)


@pytest.mark.parametrize("power", [ON, OFF])
def test_a_monitor_is_well_when_the_bmc_answers(power: Power) -> None:
    """FenceAgentAPI lets it be 2 where it is off, but Pacemaker would take that for a broken device."""
    assert Bmc(power).act("monitor").code == 0


@pytest.mark.parametrize("power", [ON, OFF])
def test_off_is_read_twice(power: Power) -> None:
    bmc = Bmc(power)
    answer = bmc.act("off")
    assert (answer.code, bmc.power) == (0, OFF)
    assert len([m for m in bmc.murmurs if m == "reading off"]) >= 2
    request = bmc.requests[0]
    assert (request.device.address, request.device.port, request.device.username) == ("bmc-1", 6230, "ann")
    assert request.device.options == {"privilege": "operator", "cipher": "3"}
    assert bmc.passwords == [b"tiger"]
    assert not any("tiger" in m for m in (*bmc.murmurs, answer.text))


def test_on_and_reboot() -> None:
    assert (Bmc(OFF).act("on").code, Bmc(ON).act("reboot").code) == (0, 0)
    bmc = Bmc(ON)
    bmc.act("reboot")
    assert (bmc.sent, bmc.power, bmc.closed) == (["off", "on"], ON, 2)


def test_a_reboot_whose_on_fails_has_fenced() -> None:
    bmc = Bmc(ON)
    bmc.on_trouble = DriverError("refused: no power supply")
    answer = bmc.act("reboot")
    assert answer.code == 0
    assert "could not be switched on" in answer.text
    bmc = Bmc(ON, obeys=False)
    with pytest.raises(DriverError):
        bmc.act("reboot")
    assert bmc.sent == ["off"], "what is not proven off is not switched on"


def test_a_bmc_that_says_yes_and_stays_on_is_a_failure_in_time() -> None:
    bmc = Bmc(ON, obeys=False)
    with pytest.raises(DriverError, match="not off"):
        bmc.act("off")
    assert bmc.t <= 100 + ipmi.limit_s("off", Options(VALUES))


@pytest.mark.parametrize("action", ["off", "reboot", "status", "monitor", "on"])
@pytest.mark.parametrize("error", [DriverError("wrong password"), Unanswered("no answer")])
def test_trouble_is_never_a_success(action: str, error: HaAgentError) -> None:
    bmc = Bmc(OFF)

    def fail() -> None:
        raise error

    bmc.trouble = fail
    with pytest.raises(HaAgentError):
        bmc.act(action)
    assert bmc.closed == len(bmc.requests) == 1


def test_another_machine_is_not_switched() -> None:
    bmc = Bmc(ON, machine="4c4c4544-0000-0000-0000-000000000000")
    with pytest.raises(DriverError, match="wrong machine"):
        bmc.act("off", machine="deadbeef-0000-0000-0000-000000000000")
    assert bmc.sent == []
    assert bmc.act("off", machine="4C4C4544-0000-0000-0000-000000000000").code == 0


def test_nothing_is_sent_late() -> None:
    """A process that was frozen while it logged in."""
    bmc = Bmc(ON)

    def frozen() -> None:
        bmc.t += 60
        bmc.trouble = lambda: None

    bmc.trouble = frozen
    with pytest.raises(DriverError, match="too late"):
        bmc.act("off")
    assert (bmc.sent, bmc.power) == ([], ON)


def test_passwords_that_ipmi_does_not_know_are_refused_before_the_login(tmp_path: Path) -> None:
    bmc = Bmc(ON)
    (tmp_path / "secret").write_text("x" * 21)
    for values in ({"password": "x" * 21}, {"password_file": str(tmp_path / "secret")}):
        with pytest.raises(HaAgentError, match="longer than 20"):
            bmc.act("status", **values)
    assert bmc.requests == []


@pytest.mark.parametrize(
    ("action", "limit"), [("status", 5.0), ("monitor", 5.0), ("off", 15.0), ("on", 15.0), ("reboot", 30.0)]
)
def test_limits(action: str, limit: float) -> None:
    assert ipmi.limit_s(action, Options(VALUES)) == limit
    assert ipmi.limit_s(action, Options({**VALUES, "password_script": "x"})) == limit + 10
