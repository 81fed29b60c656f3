"""One attempt, in virtual time, on a device that does what the test says."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ha_agent.errors import DriverError, Unanswered
from ha_agent.fencing.topology import Device
from ha_agent.fencing.worker import Attempt, Line, Request
from ha_agent.model import Power

ON, OFF = Power.ON, Power.OFF
OFF_REQUEST = Request(op="off", device=Device(name="bmc"), act_by=110.0, until=120.0)


class VirtualTime:
    def __init__(self) -> None:
        self.t = 100.0

    def now(self) -> float:
        return self.t

    def wall(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.t += seconds


class Scripted:
    """Reads what it is given, then the last of it for ever."""

    def __init__(
        self, clock: VirtualTime, reads: Iterable[Power | Exception], off: Exception | None = None, machine: str = ""
    ) -> None:
        self.clock, self.reads, self.off_error, self.id = clock, list(reads), off, machine
        self.sent: list[float] = []

    def read(self) -> Power:
        self.clock.t += 0.01
        result = self.reads.pop(0) if len(self.reads) > 1 else self.reads[0]
        if isinstance(result, Exception):
            raise result
        return result

    def off(self) -> None:
        self.sent.append(self.clock.t)
        if self.off_error:
            raise self.off_error

    def on(self) -> None:
        self.sent.append(self.clock.t)

    def machine(self) -> str:
        return self.id

    def close(self) -> None:
        pass


def run(
    *reads: Power | Exception,
    off: Exception | None = None,
    machine: str = "",
    request: Request = OFF_REQUEST,
    late_s: float = 0.0,
) -> tuple[str, list[Line], Scripted]:
    clock = VirtualTime()
    clock.t += late_s
    device = Scripted(clock, reads, off, machine)
    lines: list[Line] = []
    return Attempt(request, device, lines.append, clock).run(), lines, device


def powers(lines: list[Line]) -> list[Power]:
    return [line.reading.power for line in lines if line.reading]


def test_off_is_sent_once_and_read_twice_apart() -> None:
    error, lines, device = run(OFF)
    at = [line.reading.at for line in lines if line.reading]
    assert error == ""
    assert len(device.sent) == 1
    assert powers(lines) == [OFF, OFF]
    assert at[1] - at[0] >= OFF_REQUEST.gap_s
    assert at[0] >= device.sent[0]


def test_an_on_between_starts_the_count_again() -> None:
    error, lines, _ = run(OFF, ON, OFF, OFF)
    assert error == ""
    assert powers(lines) == [OFF, ON, OFF, OFF]


def test_a_reading_that_failed_between_starts_the_count_again() -> None:
    error, lines, _ = run(OFF, Unanswered("lost"), OFF, OFF)
    assert error == ""
    assert powers(lines) == [OFF, OFF, OFF]
    assert [line.text for line in lines if line.kind == "trouble"] == ["lost"]


def test_off_that_is_ignored_ends_as_on_with_an_error() -> None:
    error, lines, device = run(ON)
    assert error.startswith("not off ")
    assert set(powers(lines)) == {ON}
    assert len(device.sent) == 1
    assert device.clock.t <= OFF_REQUEST.until


def test_a_refused_off_counts_if_it_reads_off_and_ends_early_if_it_reads_on() -> None:
    refusal = DriverError("refused: not in this state")
    assert run(OFF, off=refusal)[0] == ""
    error, _, device = run(ON, off=refusal)
    assert error == "refused: not in this state"
    assert device.clock.t < 102


def test_an_off_without_an_answer_may_have_worked() -> None:
    error, lines, _ = run(ON, OFF, OFF, off=Unanswered("session lost"))
    assert error == ""
    assert powers(lines)[-2:] == [OFF, OFF]


def test_another_machine_is_not_switched() -> None:
    request = msgspec.structs.replace(OFF_REQUEST, expect="aaa")
    error, lines, device = run(OFF, machine="bbb", request=request)
    assert "aaa" in error
    assert "bbb" in error
    assert device.sent == []
    assert powers(lines) == []


def test_a_machine_that_does_not_say_its_id_any_more_is_not_switched() -> None:
    _, _, device = run(OFF, machine="", request=msgspec.structs.replace(OFF_REQUEST, expect="aaa"))
    assert device.sent == []


def test_ids_are_compared_without_case() -> None:
    error, lines, _ = run(OFF, machine="AAA", request=msgspec.structs.replace(OFF_REQUEST, expect="aaa"))
    assert error == ""
    assert all(line.reading.machine == "AAA" for line in lines if line.reading)


def test_nothing_is_sent_late() -> None:
    error, _, device = run(OFF, late_s=10.5)
    assert "too late" in error
    assert device.sent == []


def test_on_is_read_once() -> None:
    error, lines, device = run(OFF, ON, request=msgspec.structs.replace(OFF_REQUEST, op="on"))
    assert error == ""
    assert powers(lines) == [OFF, ON]
    assert len(device.sent) == 1


def test_read_changes_nothing() -> None:
    error, lines, device = run(ON, request=msgspec.structs.replace(OFF_REQUEST, op="read"))
    assert (error, powers(lines), device.sent) == ("", [ON], [])
    assert run(DriverError("no"), request=msgspec.structs.replace(OFF_REQUEST, op="read"))[0] == "no"
