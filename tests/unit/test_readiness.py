"""Would the servers of a host live on if it died now: what is found, what only is a note, and how it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from msgspec.structs import replace

from ha_agent.api.facade import DeviceHealth, HostViewSummary
from ha_agent.api.readiness import Check, Protection
from ha_agent.cli.readiness import NAMED_MAX, told, well
from ha_agent.controller.quiet_nova import AFTER_ERROR_S, QuietNova, protection
from ha_agent.controller.readiness import judge, whole
from ha_agent.errors import DriverError
from ha_agent.heartbeat.expiry import Thresholds
from ha_agent.model import ComputeService, HostRecord, Mode, Power, Server, Verdict
from ha_agent.policy import Fencing, HostPolicy, Policy, Recovery, Select
from tests.unit.cli_support import Controller, cli, served

T = TypeVar("T")

RULES = HostPolicy(name="h1", fencing=Fencing(levels=(("bmc",), ("pdu-a", "pdu-b"))))
VIEW = HostViewSummary(host="h1", verdict=Verdict.ALIVE, last_seen_age_s=0.4, witnesses=2, certificate_days=300.0)
UP = ComputeService(id="1", host="h1", state="up")


def device(name: str, **changes: object) -> DeviceHealth:
    fine = DeviceHealth(host="h1", device=name, level=1, driver="ipmi", ok=True, power=Power.ON, checked_age_s=3.0)
    return replace(fine, **changes)


WELL = (device("bmc"), device("pdu-a"), device("pdu-b"))
BAD = "wrong password"


def found(
    rules: HostPolicy = RULES,
    view: HostViewSummary = VIEW,
    record: HostRecord | None = None,
    devices: Sequence[DeviceHealth] = WELL,
    service: ComputeService | None = UP,
    servers: Protection | None = None,
) -> list[tuple[str, str, bool]]:
    """(check, text, stops) of all findings; that the whole is ready fits them."""
    services = {service.host: service} if service else {}
    host = judge(rules, view, record, devices=devices, services=services, servers=servers, limits=Thresholds())
    assert host.ready is not any(each.stops for each in host.findings)
    assert host.servers == servers
    return [(each.check, each.text, each.stops) for each in host.findings]


def test_a_host_in_order_is_ready() -> None:
    assert found(servers=Protection(protected=3, unprotected=2)) == []


@pytest.mark.parametrize(
    ("view", "check", "says", "stops"),
    [
        ({"last_seen_age_s": None}, Check.HEARTBEAT, "no heartbeat", True),
        ({"verdict": Verdict.HUNG, "reason": "it stands still"}, Check.HEARTBEAT, "hung: it stands still", True),
        ({"witnesses": 0}, Check.WITNESSES, "0 of at least 1 witnesses", True),
        ({"certificate_days": 6.0}, Check.CERTIFICATE, "expires in 6 days", True),
        ({"certificate_days": -1.0}, Check.CERTIFICATE, "expired 1 day ago", True),
        ({"certificate_days": 20.0}, Check.CERTIFICATE, "expires in 20 days", False),
        ({"gate": "waiting"}, Check.GATE, "waits at the gate", True),
    ],
)
def test_what_is_wrong_with_the_host(view: dict[str, object], check: Check, says: str, stops: bool) -> None:
    [(seen, text, stopped)] = found(view=replace(VIEW, **view))
    assert (seen, stopped) == (check, stops)
    assert says in text


def test_a_certificate_that_was_never_shown_is_no_finding() -> None:
    assert found(view=replace(VIEW, certificate_days=None)) == []


@pytest.mark.parametrize(
    ("service", "says", "stops"),
    [
        (None, "no nova-compute service of this name", True),
        (replace(UP, forced_down=True), "forced down", False),
        (replace(UP, state="down"), "its nova-compute is down", False),
        (replace(UP, state=None), "of unknown state", False),
    ],
)
def test_what_nova_says(service: ComputeService | None, says: str, stops: bool) -> None:
    [(check, text, stopped)] = found(service=service)
    assert (check, stopped) == (Check.NOVA_COMPUTE, stops)
    assert says in text


def test_a_nova_that_was_not_read_is_no_yes() -> None:
    host = judge(RULES, VIEW, None, devices=WELL, services=None, servers=None, limits=Thresholds())
    assert not host.ready
    assert [each.text for each in host.findings] == ["Nova was not read yet"]


@pytest.mark.parametrize(
    ("devices", "said", "stops"),
    [
        ((device("bmc", ok=False, error=BAD), *WELL[1:]), [f"bmc: {BAD}"], False),  # level 2 is whole
        ((WELL[0], device("pdu-a", ok=False, error=BAD), WELL[2]), [f"pdu-a: {BAD}"], False),
        ((device("bmc", ok=False), device("pdu-a", ok=False), WELL[2]), ["bmc: it failed", "pdu-a: it failed"], True),
        ((device("bmc", checked_age_s=None), *WELL[1:]), ["bmc was not looked at yet"], False),
        ((), [f"{name} was not looked at yet" for name in ("bmc", "pdu-a", "pdu-b")], True),
    ],
)
def test_one_level_that_works_whole_is_enough(devices: Sequence[DeviceHealth], said: list[str], stops: bool) -> None:
    assert found(devices=devices) == [(Check.FENCING, text, stops) for text in said]


def test_a_person_is_no_device_that_works() -> None:
    """Who has only a level by hand is told so; beside one that works it is nothing to tell."""
    hand = device("hand", driver="manual", checked_age_s=None)
    only = replace(RULES, fencing=Fencing(levels=(("hand",),)))
    assert found(only, devices=(hand,)) == [(Check.FENCING, "only a person can switch it off", True)]
    both = replace(RULES, fencing=Fencing(levels=(("bmc",), ("hand",))))
    assert found(both, devices=(WELL[0], hand)) == []
    broken = device("bmc", ok=False, error=BAD)
    assert found(both, devices=(broken, hand)) == [(Check.FENCING, f"bmc: {BAD}", True)]


def test_a_host_without_devices_is_not_ready_unless_it_is_never_fenced() -> None:
    bare = replace(RULES, fencing=Fencing(levels=()))
    assert found(bare, devices=()) == [(Check.FENCING, "no fencing device", True)]
    assert found(replace(bare, recovery=Recovery(fence=False)), devices=()) == []


def test_devices_that_guard_another_host() -> None:
    [(check, text, stops)] = found(record=HostRecord(host="h1", contradiction="they read off while it lives"))
    assert (check, text, stops) == (Check.FENCING, "they read off while it lives", True)


def test_what_somebody_decided_is_a_note() -> None:
    [(check, text, stops)] = found(record=HostRecord(host="h1", maintenance="new disks (ann)"))
    assert (check, stops) == (Check.POLICY, False)
    assert "new disks (ann)" in text
    told_only = replace(RULES, recovery=Recovery(mode=Mode.NOTIFY))
    assert found(told_only) == [(Check.POLICY, "recovery.mode is notify: somebody else moves its servers", False)]


@pytest.mark.parametrize(("many", "says"), [(1, "1 server is"), (4, "4 servers are")])
def test_servers_that_would_stay_although_chosen(many: int, says: str) -> None:
    [(check, text, stops)] = found(servers=Protection(protected=3, at_risk=many))
    assert (check, stops) == (Check.SERVERS, False)
    assert text.startswith(f"{says} chosen and would stay")


def test_the_cloud_is_ready_if_all_hosts_are_and_the_controller_acts() -> None:
    fine = judge(RULES, VIEW, None, devices=WELL, services={"h1": UP}, servers=None, limits=Thresholds())
    broken = replace(fine, ready=False)
    assert whole([], "", [fine, fine]).ready
    assert not whole([], "", [fine, broken]).ready
    assert not whole(["disarmed"], "", [fine]).ready


# --- what Nova says in quiet times ---


def test_servers_are_counted_by_what_would_become_of_them() -> None:
    tag = ("automatic-recovery",)
    servers = [
        Server(id="a", host="h1", status="ACTIVE", tags=tag, local_disk=False),
        Server(id="b", host="h1", status="ACTIVE", tags=tag, local_disk=True),
        Server(id="c", host="h1", status="ACTIVE", tags=tag, local_disk=None),
        Server(id="d", host="h1", status="PAUSED", tags=tag, local_disk=False),
        Server(id="e", host="h1", status="ACTIVE", local_disk=False),
        Server(id="f", host="h1", status="ACTIVE", tags=(*tag, "no-recovery"), local_disk=False),
    ]
    assert protection(servers, Recovery()) == Protection(protected=1, at_risk=3, unprotected=2)
    assert protection(servers, Recovery(shared_storage=True)) == Protection(protected=3, at_risk=1, unprotected=2)
    every = Recovery(select=Select(all=True))
    assert protection(servers, every) == Protection(protected=2, at_risk=3, unprotected=1)
    assert protection([], every) == Protection()


class Quiet:
    """A Nova that is looked at on the spot, and says or raises what it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.said: list[str] = []
        self.rows: Sequence[ComputeService] = (UP,)
        self.raises: Exception | None = None
        self.leads = True
        self.asked: list[str] = []
        self.policy = Policy(hosts={"h1": HostPolicy(name="h1")})
        self.nova = QuietNova(
            services=self.services,
            servers=self.servers,
            look=self.look,
            policy=lambda: self.policy,
            leads=lambda: self.leads,
            now=self.now,
            say=self.said.append,
        )

    def now(self) -> float:
        return self.now_s

    async def look(self, call: Callable[[], T]) -> T:
        if self.raises is not None:
            raise self.raises
        return call()

    def services(self) -> Sequence[ComputeService]:
        return self.rows

    def servers(self, host: str) -> Sequence[Server]:
        self.asked.append(host)
        return [Server(id="a", host=host, status="ACTIVE", tags=("automatic-recovery",), local_disk=False)]

    async def a_moment(self, work: Awaitable[None]) -> None:
        """A loop that never ends, until it waits."""
        task = asyncio.ensure_future(work)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def look_once(self) -> str:
        asyncio.run(self.a_moment(self.nova.check_services(60.0)))
        return self.nova.error


def test_a_nova_that_cannot_be_read_is_told_once_and_again_when_it_can() -> None:
    quiet = Quiet()
    assert (quiet.look_once(), quiet.nova.services) == ("", {"h1": UP})
    for failure, says in [
        (DriverError("503"), "Nova cannot be read: 503"),
        (TimeoutError(), "Nova cannot be read: no answer in time"),
        (RuntimeError("secret"), "Nova cannot be read: RuntimeError"),
    ]:
        quiet.raises = failure
        assert [quiet.look_once(), quiet.look_once()] == [says, says]
        assert quiet.said.pop() == says, "once"
        assert not quiet.said
        assert quiet.nova.services == {"h1": UP}, "what was read stands"
        quiet.raises = None
        assert quiet.look_once() == ""
        assert quiet.said.pop() == "Nova can be read again"


def test_hosts_that_nova_does_not_know_are_named() -> None:
    quiet = Quiet()
    quiet.rows = ()
    assert quiet.look_once() == "Nova has no nova-compute service of h1"
    quiet.policy = Policy(hosts={f"h{n}": HostPolicy(name=f"h{n}") for n in range(1, 8)})
    assert quiet.look_once() == "Nova has no nova-compute service of h1, h2, h3, h4, h5 …"


def test_the_servers_of_a_host_are_counted_and_the_count_grows_old() -> None:
    quiet = Quiet()
    assert quiet.nova.protection("h1") is None
    assert asyncio.run(quiet.nova.count("h1")) == 0.0
    quiet.now_s = 160.0
    assert quiet.nova.protection("h1") == Protection(protected=1, age_s=60.0)


def test_only_a_leader_counts_and_only_hosts_of_the_inventory() -> None:
    quiet = Quiet()
    assert asyncio.run(quiet.nova.count("h9")) == 0.0
    quiet.leads = False
    assert asyncio.run(quiet.nova.count("h1")) == 0.0
    assert quiet.asked == []


def test_an_ill_nova_is_left_in_peace_and_the_old_count_stands() -> None:
    quiet = Quiet()
    asyncio.run(quiet.nova.count("h1"))
    quiet.raises = DriverError("503")
    assert asyncio.run(quiet.nova.count("h1")) == AFTER_ERROR_S
    assert quiet.nova.protection("h1") == Protection(protected=1)


def test_the_walk_goes_over_all_hosts_and_forgets_those_that_are_gone() -> None:
    quiet = Quiet()
    asyncio.run(quiet.a_moment(quiet.nova.count_servers(3600.0)))
    assert quiet.asked == ["h1"]
    quiet.policy = Policy(hosts={"h2": HostPolicy(name="h2")})
    asyncio.run(quiet.a_moment(quiet.nova.count_servers(3600.0)))
    assert quiet.asked == ["h1", "h2"]
    assert quiet.nova.protection("h1") is None
    assert quiet.nova.protection("h2") is not None


# --- how it is told ---


def test_the_command_tells_what_to_do_and_ends_with_1(tmp_path: Path) -> None:
    with served(Controller(hosts=4), tmp_path) as socket:
        done = cli("readiness", socket=socket)
        assert done.returncode == 1
        assert done.stdout.splitlines() == [
            "compute-2: ready; servers: 7 protected, 1 at risk, 2 unprotected",
            "  note: 1 server is chosen and would stay",
            "    look at it",
            "compute-3: NOT READY; its servers were not counted yet",
            "  bmc: \N{REPLACEMENT CHARACTER}[2Jwrong password",
            "    ha-agent fencing check",
            "3 of 4 hosts ready",
            "servers of 2 hosts: 14 protected, 2 at risk, 4 unprotected",
        ]
        page = json.loads(cli("readiness", "--json", socket=socket).stdout)
        assert (page["ready"], [each["ready"] for each in page["hosts"]]) == (False, [True, True, False, True])
        every = cli("readiness", "--all", socket=socket).stdout
        assert "compute-1: ready; servers: 7 protected" in every


def test_one_host_counts_for_itself(tmp_path: Path) -> None:
    with served(Controller(hosts=3), tmp_path) as socket:
        assert cli("readiness", "compute-1", socket=socket).returncode == 0
        assert cli("readiness", "compute-2", socket=socket).returncode == 0
        assert cli("readiness", "compute-2", "--strict", socket=socket).returncode == 1
        assert cli("readiness", "compute-3", socket=socket).returncode == 1
        unknown = cli("readiness", "compute-33", socket=socket)
        assert unknown.returncode == 2
        assert "did you mean compute-3" in unknown.stderr


def test_a_standby_knows_little_and_alarms_nobody(tmp_path: Path) -> None:
    controller = Controller(hosts=3)
    controller.standby = "controller-2"
    with served(controller, tmp_path) as socket:
        done = cli("readiness", socket=socket)
        assert (done.returncode, done.stdout) == (0, "this controller stands by; controller-2 leads: ask it\n")


def test_a_controller_that_would_not_act_says_so_first() -> None:
    lines = told(whole(["the controller is disarmed"], "", []))
    assert lines == ["NOT READY: the controller is disarmed", "0 of 0 hosts ready"]


def test_a_controller_that_is_not_well_says_so_and_is_ready_all_the_same() -> None:
    found = whole([], "", [], ["this controller stood still once in the last 10 minutes"])
    assert told(found) == ["note: this controller stood still once in the last 10 minutes", "0 of 0 hosts ready"]
    assert (found.ready, well(found), well(found, strict=True)) == (True, True, False)
    assert well(whole([], "", []), strict=True)
    assert not well(whole(["disarmed"], "", []))


def test_of_many_hosts_the_first_are_named() -> None:
    troubled = [judge(RULES, VIEW, None, devices=(), services={}, servers=None, limits=Thresholds())] * 50
    lines = told(whole([], "", troubled))
    assert sum(line.endswith("not counted yet") for line in lines) == NAMED_MAX
    assert lines[-2:] == [f"and {50 - NAMED_MAX} more hosts; all: ha-agent readiness --all", "0 of 50 hosts ready"]
