"""Which servers would be moved if their host died now: counted from what Nova says, and by what stands in the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from ha_agent.api.facade import Covered, DeviceHealth, HostViewSummary
from ha_agent.controller.coverage import Coverage, counted, covered
from ha_agent.errors import DriverError
from ha_agent.model import Fleet, HostRecord, Mode, Server, State, Verdict
from ha_agent.policy import Fencing, HostPolicy, Policy, Recovery

TAG = "automatic-recovery"
SERVERS = (
    Server(id="1", host="h1", status="ACTIVE", tags=(TAG,), local_disk=False),
    Server(id="2", host="h1", status="SHUTOFF", tags=(TAG,), local_disk=False),
    Server(id="3", host="h1", status="ACTIVE", local_disk=False),
    Server(id="4", host="h1", status="ACTIVE", tags=(TAG,), local_disk=True),
    Server(id="5", host="h1", status="ACTIVE", tags=(TAG,), local_disk=None),
    Server(id="6", host="h1", status="PAUSED", tags=(TAG,), local_disk=False),
)
RULES = HostPolicy(name="h1", fencing=Fencing(levels=(("bmc",), ("pdu-a", "pdu-b"))))
POLICY = Policy(hosts={"h1": RULES})
GOOD = HostRecord(host="h1", first_seen_wall=1.0)
ARMED = Fleet(armed=True)
VIEW = HostViewSummary(host="h1", verdict=Verdict.ALIVE, last_seen_age_s=0.1, witnesses=2)


def device(name: str, *, ok: bool = True) -> DeviceHealth:
    return DeviceHealth(host="h1", device=name, level=1, ok=ok, checked_age_s=1.0)


def risk(
    fleet: Fleet = ARMED, record: HostRecord | None = GOOD, view: HostViewSummary = VIEW, devices: str = "bmc"
) -> str:
    state = State(fleet=fleet, hosts={} if record is None else {"h1": record})
    return covered(POLICY, state, view, [device(name) for name in devices.split()], {}).risk


def test_servers_are_counted_as_a_recovery_would_choose_them() -> None:
    found = covered(
        POLICY, State(fleet=ARMED, hosts={"h1": GOOD}), VIEW, [device("bmc")], counted(SERVERS, RULES.recovery)
    )
    unprotected = {"not_selected": 1, "local_disk": 2, "status": 1}
    assert found == Covered(host="h1", known=True, protected=2, unprotected=unprotected)


def test_where_we_only_tell_nothing_is_protected_by_us() -> None:
    assert counted(SERVERS, Recovery(mode=Mode.NOTIFY)) == {"notify_mode": 6}


def test_what_was_not_read_is_unknown_not_none() -> None:
    assert not covered(POLICY, State(), VIEW, [], None).known
    assert covered(POLICY, State(), VIEW, [], {}).known


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (risk(), ""),
        (risk(devices="pdu-a pdu-b"), ""),
        (risk(devices="pdu-a"), "fencing"),
        (risk(devices=""), "fencing"),
        (risk(fleet=Fleet()), "stopped"),
        (risk(fleet=Fleet(armed=True, paused="a storm")), "stopped"),
        (risk(record=msgspec.structs.replace(GOOD, maintenance="new disks")), "maintenance"),
        (risk(record=None), "never_seen"),
        (risk(record=HostRecord(host="h1")), "never_seen"),
        (risk(record=msgspec.structs.replace(GOOD, contradiction="it reads off")), "contradiction"),
        (risk(view=msgspec.structs.replace(VIEW, witnesses=0)), "witnesses"),
    ],
)
def test_what_puts_a_host_at_risk(found: str, expected: str) -> None:
    assert found == expected


def test_a_device_that_fails_does_not_count() -> None:
    state = State(fleet=ARMED, hosts={"h1": GOOD})
    assert covered(POLICY, state, VIEW, [device("bmc", ok=False)], {}).risk == "fencing"


class Nova:
    """Says what is on a host, or that it cannot."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken: Exception | None = None

    def servers(self, host: str) -> Sequence[Server]:
        self.asked.append(host)
        if self.broken is not None:
            raise self.broken
        return SERVERS


class Leader:
    """What is asked of an engine."""

    def __init__(self, *hosts: str) -> None:
        self.policy = Policy(hosts={host: HostPolicy(name=host) for host in hosts})
        self.state = State()
        self.leading = True
        self.failed = ""

    def open_of(self, host: str) -> str:
        return "an incident" if host == self.failed else ""


async def look(call: Callable[[], Any]) -> Any:
    return call()


def made(*hosts: str) -> tuple[Coverage, Leader, Nova]:
    leader, nova = Leader(*hosts), Nova()
    return Coverage(leader, nova, look), leader, nova  # type: ignore[arg-type]


def known(coverage: Coverage, leader: Leader) -> dict[str, bool]:
    views = {host: msgspec.structs.replace(VIEW, host=host) for host in leader.policy.hosts}
    return {each.host: each.known for each in coverage.figures(views, [])}


async def test_hosts_take_turns() -> None:
    coverage, leader, nova = made("a", "b", "c")
    for _ in range(5):
        await coverage.read_next()
    assert nova.asked == ["a", "b", "c", "a", "b"]
    leader.policy = Policy(hosts={host: HostPolicy(name=host) for host in ("b", "c", "new")})
    for _ in range(3):
        await coverage.read_next()
    assert nova.asked[5:] == ["new", "c", "b"]


async def test_a_host_with_an_incident_is_left_alone_and_a_standby_asks_nothing() -> None:
    coverage, leader, nova = made("a", "b")
    await coverage.read_next()
    assert known(coverage, leader) == {"a": True, "b": False}
    leader.failed = "a"
    for _ in range(2):
        await coverage.read_next()
    assert nova.asked == ["a", "b", "b"]
    assert known(coverage, leader) == {"a": False, "b": True}
    leader.leading, leader.failed = False, ""
    await coverage.read_next()
    assert nova.asked == ["a", "b", "b"]


async def test_the_first_round_is_quick_and_the_later_ones_are_not() -> None:
    coverage, leader, _ = made("a", "b", "c")
    assert [await coverage.read_next() for _ in range(4)] == [1.0, 1.0, 200.0, 200.0]
    leader.failed = "b"
    assert await coverage.read_next() == 300.0, "an incident may be open for days"
    leader.policy = Policy(hosts={f"h{n}": HostPolicy(name=f"h{n}") for n in range(700)})
    assert {await coverage.read_next() for _ in range(701)} == {1.0}


@pytest.mark.parametrize("error", [DriverError("503"), TimeoutError(), ValueError("a bug")])
async def test_what_cannot_be_read_stays_as_it_was_or_unknown(error: Exception) -> None:
    coverage, leader, nova = made("a", "b")
    await coverage.read_next()
    nova.broken = error
    for _ in range(3):
        await coverage.read_next()
    assert known(coverage, leader) == {"a": True, "b": False}
    assert nova.asked == ["a", "b", "a", "b"], "nobody waits for the one that cannot be read"
