"""What many ask for costs as much as if one did; what one asks for does not cost what all would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import msgspec
import pytest

from ha_agent.api import views
from ha_agent.api.recent import KEEP_S, Recent
from ha_agent.controller.daemon import Controller
from ha_agent.controller.ownhost import OwnNetwork
from ha_agent.metrics import Snapshot
from ha_agent.model import Verdict
from ha_agent.policy import HostPolicy, Policy
from ha_agent.ports import Heartbeat
from tests.unit.api_support import FakeFacade, running
from tests.unit.test_daemon_feels import Deaf, Time, controller

READERS = 64


class Counting(Deaf):
    """Is asked for certificates whenever all hosts, or one, are looked at."""

    def __init__(self) -> None:
        self.asked = 0

    def certificate_days(self) -> Mapping[str, float]:
        self.asked += 1
        return {}


def started(tmp_path: Path) -> tuple[Controller, Counting, Time]:
    clock = Time()
    made = controller(clock, OwnNetwork(tmp_path))
    monitor = made.monitor = Counting()  # type: ignore[assignment]
    made.engine.start()
    return made, monitor, clock


def read(made: Controller) -> Sequence[object]:
    return views.status(made), views.hosts(made), Snapshot.of(made), made.ready(), made.notes()


def test_it_is_made_anew_when_it_is_old_or_forgotten() -> None:
    made: list[int] = []
    now = 100.0
    recent = Recent(lambda: made.append(1) or len(made), lambda: now)  # type: ignore[func-returns-value]
    assert [recent() for _ in range(READERS)] == [1] * READERS
    now += KEEP_S - 0.01
    assert recent() == 1
    now += 0.01
    assert (recent(), recent()) == (2, 2)
    recent.forget()
    assert recent() == 3


def test_all_who_read_within_a_second_cost_one_look_at_all_hosts(tmp_path: Path) -> None:
    made, monitor, clock = started(tmp_path)
    for _ in range(READERS):
        read(made)
    assert monitor.asked == 1
    clock.at += KEEP_S
    read(made)
    assert monitor.asked == 2


def test_one_host_is_shown_as_it_is_and_alone(tmp_path: Path) -> None:
    made, _, clock = started(tmp_path)
    read(made)
    before = made.views()
    made.engine.observe(Heartbeat(host="h", at=clock.at, boot_id="b"))
    assert views.host(made, "h").row.view.verdict is Verdict.ALIVE
    assert made.views() is before, "the others were not looked at"
    assert before["h"].verdict is Verdict.NEVER_SEEN
    assert made.view("nobody") is None


def test_a_new_inventory_is_seen_at_once(tmp_path: Path) -> None:
    made, _, _ = started(tmp_path)
    read(made)
    hosts = {name: HostPolicy(name=name) for name in ("h", "another")}
    made.set_policy(Policy(controller="c", hosts=hosts), {}, None, {("another", "bmc"): "ipmi"})
    assert set(made.views()) == set(hosts)
    assert [device.host for device in made.devices()] == ["another"]
    made.set_policy(Policy(controller="c", hosts={}), {}, None, {})
    assert list(made.ready())


def test_a_list_of_all_hosts_that_many_ask_for_is_made_once() -> None:
    def hosts(port: int) -> bytes:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/v1/hosts")
            return connection.getresponse().read()
        finally:
            connection.close()

    with running() as api, ThreadPoolExecutor(16) as readers:
        bodies = set(readers.map(hosts, [api.port] * READERS))
        assert api.facade.looked == 1
        (body,) = bodies
        assert [row["view"]["host"] for row in msgspec.json.decode(body)] == ["h1", "h2", "h3"]


@pytest.mark.parametrize("host", ["h1", "h2"])
@pytest.mark.parametrize("verdict", list(Verdict))
def test_status_is_what_the_rows_of_all_hosts_say(verdict: Verdict, host: str) -> None:
    """Of one without an open incident, and of one that has it."""
    facade = FakeFacade()
    facade.hosts[host] = msgspec.structs.replace(facade.hosts[host], verdict=verdict)
    status, rows = views.status(facade), views.hosts(facade)
    assert status.hosts == len(rows)
    assert status.troubled == tuple(r for r in rows if r.incident or r.view.verdict is not Verdict.ALIVE)
    assert status.maintenance == tuple(r.view.host for r in rows if r.maintenance)
    assert sum(status.verdicts.values()) == len(rows)
    assert status.verdicts[str(verdict)] >= 1
