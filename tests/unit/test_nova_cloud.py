"""NovaCloud: the real openstacksdk against the simulated Nova over loopback."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import openstack
import pytest

from ha_agent.errors import DriverError, Unanswered
from ha_agent.recovery.nova import NovaCloud
from ha_agent.recovery.nova_rows import ActionsAnswer, decode
from ha_agent.sim.nova_api import NovaApi
from ha_agent.sim.nova_state import Fault, NovaState

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
A, B, C = "compute-a", "compute-b", "compute-c"


class Lab:
    """A simulated Nova with three hosts, its clock in the test's hand, and our driver beside it."""

    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.state = NovaState(lambda: self.now, random.Random(3))
        for name in (A, B, C):
            self.state.add_host(name)
        self.api = NovaApi(self.state, **options)
        self.api.start_thread()

    def cloud(self, **options: Any) -> NovaCloud:
        connection = openstack.connection.Connection(**self.api.cloud(), app_name="test")
        return NovaCloud(connection=connection, **{"timeout_s": 2.0, "now": lambda: self.now, **options})

    def boot(self, host: str, count: int = 1, **options: Any) -> list[str]:
        return self.api.call(lambda: [self.state.add_server(host, **options).id for _ in range(count)])

    def dead(self, host: str) -> None:
        def cut() -> None:
            self.state.power_cut(host)
            self.state.force_down(self.state.hosts[host].service_id, True)

        self.api.call(cut)

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.api.call(self.state.tick)

    def fail(self, operation: str, fault: Fault, times: int = 1) -> None:
        self.api.call(lambda: self.state.fail_next(operation, fault, times))

    def asked(self, word: str) -> list[str]:
        return [line for line in self.api.requests if word in line]

    def statuses(self, server: str) -> list[str]:
        return [m.status for m in self.state.migrations if m.server == server]


@contextmanager
def running(**options: Any) -> Iterator[Lab]:
    lab = Lab(**options)
    try:
        yield lab
    finally:
        lab.api.stop_thread()


@pytest.fixture
def lab() -> Iterator[Lab]:
    with running() as lab:
        yield lab


# --- reads ------------------------------------------------------------------------------------------------------------


def test_services_come_with_state_and_flag(lab: Lab) -> None:
    lab.dead(B)
    rows = {s.host: s for s in lab.cloud().services()}
    assert [(h, rows[h].state, rows[h].forced_down) for h in (A, B, C)] == [
        (A, "up", False),
        (B, "down", True),
        (C, "up", False),
    ]
    assert all(s.id and s.updated_at for s in rows.values())


def test_servers_are_listed_over_all_pages_and_projects_and_of_one_host_only() -> None:
    with running(page=2) as lab:
        mine = lab.boot(A, 5, tags=["automatic-recovery"])
        lab.boot(B, 3)
        lab.api.call(lambda: setattr(lab.state.servers[mine[0]], "project_id", "b" * 32))
        rows = lab.cloud().servers(A)
        assert [s.id for s in rows] == mine
        assert {s.tags for s in rows} == {("automatic-recovery",)}
        assert len(lab.asked("/servers/detail")) == 3


def test_a_server_tells_whether_its_data_lies_on_the_host(lab: Lab) -> None:
    (volume,), (image,) = lab.boot(A, volume=True), lab.boot(A, volume=False, metadata={"a": "b"})
    rows = {s.id: s for s in lab.cloud().servers(A)}
    assert (rows[volume].local_disk, rows[image].local_disk) == (False, True)
    assert rows[image].metadata == {"a": "b"}


def test_migrations_are_read_over_all_pages_newest_first() -> None:
    with running(page=2) as lab:
        servers = lab.boot(A, 5)
        (other,) = lab.boot(B)
        lab.dead(A)
        lab.dead(B)

        def evacuate_all() -> None:
            for server in (*servers, other):
                lab.state.evacuate(server, (2, 94), C)

        lab.api.call(evacuate_all)
        cloud = lab.cloud()
        assert [m.id for m in cloud.evacuations(A)] == [5, 4, 3, 2, 1]
        assert {m.server for m in cloud.unfinished_evacuations()} == {*servers, other}
        lab.after(0.7)
        assert {m.status for m in cloud.unfinished_evacuations()} == {"pre-migrating"}
        lab.after(20)
        assert cloud.unfinished_evacuations() == []
        assert [m.id for m in cloud.migrations(C)] == [6, 5, 4, 3, 2, 1], "as destination too"
        assert [(m.status, m.source, m.dest, m.kind) for m in cloud.migrations(B)] == [("done", B, C, "evacuation")]


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.ERROR_503, Fault.LOST_DONE, Fault.GARBAGE_DONE])
def test_a_failed_look_up_is_an_error_and_never_an_empty_answer(lab: Lab, fault: Fault) -> None:
    cloud = lab.cloud()
    looks: list[tuple[str, Callable[[], object]]] = [
        ("services", cloud.services),
        ("servers", lambda: cloud.servers(A)),
        ("migrations", lambda: cloud.evacuations(A)),
    ]
    for operation, look in looks:
        look()
        lab.fail(operation, fault)
        before = cloud.calls
        with pytest.raises(DriverError):
            look()
        assert cloud.calls == before + 1, "no retry of the library's own"
        look()


@pytest.mark.parametrize(
    "spoil",
    [
        {"OS-EXT-SRV-ATTR:host": None},  # hidden from those who are not admin
        {"tags": None},
        {"status": "UNKNOWN"},  # a cell that is down
        {"status": None},
    ],
)
def test_a_row_that_lacks_what_we_need_fails_the_whole_list(
    lab: Lab, spoil: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ha_agent.sim import nova_api, nova_views

    lab.boot(A, 2)
    real = nova_views.server

    def spoilt(*arguments: Any) -> dict[str, Any]:
        row = {**real(*arguments), **spoil}
        return {name: value for name, value in row.items() if name not in spoil or value is not None}

    monkeypatch.setattr(nova_api, "server", spoilt)
    with pytest.raises(DriverError):
        lab.cloud().servers(A)


def test_an_unbooted_server_without_host_is_not_of_this_host(lab: Lab) -> None:
    (server,) = lab.boot(A)
    lab.api.call(lambda: setattr(lab.state.servers[server], "host", ""))
    assert lab.cloud().servers(A) == []


# --- microversion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "most", "spoken"),
    [
        ((2, 1), (2, 96), (2, 94)),
        ((2, 1), (2, 90), (2, 90)),
        ((2, 1), (2, 53), (2, 53)),
        ((2, 95), (2, 96), (2, 95)),
    ],
)
def test_the_newest_microversion_that_keeps_power_states_is_spoken(
    least: tuple[int, int], most: tuple[int, int], spoken: tuple[int, int]
) -> None:
    with running(least=least, most=most) as lab:
        (server,) = lab.boot(A)
        lab.dead(A)
        cloud = lab.cloud()
        assert cloud.http.microversion == spoken
        cloud.evacuate(server, A)
        lab.after(5)
        assert lab.state.servers[server].status == ("SHUTOFF" if spoken >= (2, 95) else "ACTIVE")
        assert [m.status for m in cloud.evacuations(A)] == ["done"]


def test_a_nova_that_is_too_old_is_named() -> None:
    with running(most=(2, 52)) as lab, pytest.raises(DriverError, match=r"2\.52; 2\.53 or later"):
        lab.cloud().services()


# --- force_down -------------------------------------------------------------------------------------------------------


def test_force_down_is_set_once_and_read_back(lab: Lab) -> None:
    cloud = lab.cloud()
    cloud.force_down(A, True)
    assert lab.state.hosts[A].forced_down
    cloud.force_down(A, True)
    assert len(lab.asked("PUT")) == 1
    cloud.force_down(A, False)
    assert not lab.state.hosts[A].forced_down


def test_our_own_change_of_the_flag_does_not_look_like_a_report(lab: Lab) -> None:
    lab.after(25)
    cloud = lab.cloud()

    def shown() -> str:
        return next(s.updated_at for s in cloud.services() if s.host == A)

    alive = shown()
    lab.api.call(lambda: lab.state.power_cut(A))
    lab.after(2)
    assert shown() == alive
    cloud.force_down(A, True)
    raw = str(cloud.http.get("/os-services", dict))
    assert alive not in raw.partition(B)[0], "Nova itself moves the time"
    assert shown() == alive
    lab.after(30)
    assert shown() == alive
    lab.api.call(lambda: lab.state.power_on(A))
    lab.api.call(lambda: lab.state.compute_start(A))
    assert shown() > alive, "under forced_down, too, a report is a report"


def test_nova_says_why_the_flag_cannot_be_cleared_yet(lab: Lab) -> None:
    (server,) = lab.boot(A)
    lab.dead(A)
    cloud = lab.cloud()
    cloud.evacuate(server, A)
    lab.after(5)
    with pytest.raises(DriverError, match="400 Unable to force up host compute-a as `done`"):
        cloud.force_down(A, False)


def test_an_unknown_host_is_named_with_what_to_do(lab: Lab) -> None:
    with pytest.raises(DriverError, match="no nova-compute services named Compute-A") as caught:
        lab.cloud().force_down("Compute-A", True)
    assert "byte for byte" in caught.value.hint


def test_a_flag_that_cannot_be_read_back_is_unknown(lab: Lab) -> None:
    cloud = lab.cloud()
    cloud.services()
    real = lab.state.force_down

    def then_fail(service_id: str, value: bool) -> Any:
        lab.state.fail_next("services", Fault.ERROR_500)
        return real(service_id, value)

    lab.state.force_down = then_fail  # type: ignore[method-assign]
    with pytest.raises(Unanswered):
        cloud.force_down(A, True)
    assert lab.state.hosts[A].forced_down


# --- evacuate ---------------------------------------------------------------------------------------------------------


def test_a_server_is_never_evacuated_a_second_time_during_the_first(lab: Lab) -> None:
    (server,) = lab.boot(A)
    lab.dead(A)
    cloud = lab.cloud()
    cloud.evacuate(server, A)
    for _ in range(3):
        with pytest.raises(DriverError, match="not sent: evacuation 1 of the server is"):
            cloud.evacuate(server, A)
        lab.after(0.4)
    lab.after(5)
    with pytest.raises(DriverError, match="not on this host any more"):
        cloud.evacuate(server, A)
    assert lab.statuses(server) == ["done"]
    assert lab.state.ruined == []


def test_somebody_elses_evacuation_is_seen(lab: Lab) -> None:
    first, second = lab.boot(A, 2)
    lab.dead(A)
    lab.api.call(lambda: lab.state.evacuate(second))
    cloud = lab.cloud()
    cloud.evacuate(first, A)
    with pytest.raises(DriverError, match="not sent"):
        cloud.evacuate(second, A)


def test_a_dead_destinations_record_stops_us_until_the_caller_has_judged_it(lab: Lab) -> None:
    (server,) = lab.boot(A)
    lab.dead(A)
    cloud = lab.cloud()
    cloud.evacuate(server, A)
    lab.after(0.7)
    record = lab.state.migrations[0]
    lab.dead(record.dest)
    lab.after(60)
    with pytest.raises(DriverError, match="evacuation 1 of the server is pre-migrating"):
        cloud.evacuate(server, A)
    cloud.evacuate(server, A, judged=record.id)
    with pytest.raises(DriverError, match="evacuation 2"):
        cloud.evacuate(server, A, judged=record.id)
    lab.after(5)
    assert lab.statuses(server) == ["pre-migrating", "done"]


def test_a_server_that_came_back_to_the_host_may_be_moved_again(lab: Lab) -> None:
    (server,) = lab.boot(A)
    lab.dead(A)
    cloud = lab.cloud()
    cloud.evacuate(server, A)
    lab.after(5)

    def back() -> None:
        lab.state.power_on(A)
        lab.state.compute_start(A)
        lab.state.force_down(lab.state.hosts[A].service_id, False)
        lab.state.live_migrate(server, A)

    lab.api.call(back)
    lab.after(10)
    lab.dead(A)
    assert [s.id for s in cloud.servers(A)] == [server]
    cloud.evacuate(server, A)
    lab.after(5)
    assert lab.statuses(server) == ["completed", "completed", "done"]


def test_concurrent_evacuations_share_the_look_and_each_goes_out_once(lab: Lab) -> None:
    servers = lab.boot(A, 40)
    lab.dead(A)
    cloud = lab.cloud()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda s: cloud.evacuate(s, A), servers))
    assert len(lab.asked("/action")) == 40
    assert cloud.calls <= 40 + 8
    lab.after(60)
    assert {lab.state.servers[s].status for s in servers} == {"ACTIVE"}
    assert lab.state.double_history == []


def test_the_same_server_asked_from_many_threads_goes_out_once(lab: Lab) -> None:
    (server,) = lab.boot(A)
    lab.dead(A)
    cloud = lab.cloud()

    def ask(_: int) -> bool:
        try:
            cloud.evacuate(server, A)
        except DriverError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 1
    assert len(lab.asked("/action")) == 1


def test_a_look_that_took_too_long_is_not_followed_by_a_sending(lab: Lab) -> None:
    (server,) = lab.boot(A)
    lab.dead(A)
    ticks = iter([0.0, *[9.0] * 50])
    cloud = lab.cloud(now=lambda: next(ticks))
    with pytest.raises(DriverError, match="not sent: Nova took too long"):
        cloud.evacuate(server, A)
    assert lab.asked("/action") == []


def test_without_a_look_nothing_is_sent(lab: Lab) -> None:
    (server,) = lab.boot(A)
    lab.dead(A)
    cloud = lab.cloud()
    lab.fail("migrations", Fault.ERROR_500)
    with pytest.raises(DriverError):
        cloud.evacuate(server, A)
    assert lab.asked("/action") == []


# --- the newest reboot --------------------------------------------------------------------------------------------------


def test_the_newest_reboot_changes_with_each_that_was_taken_and_with_nothing_else(lab: Lab) -> None:
    (server, other) = lab.boot(A, 2)
    cloud = lab.cloud()
    assert cloud.last_reboot(server) == ""
    cloud.reboot(other)
    cloud.stop(server)
    assert cloud.last_reboot(server) == ""
    lab.after(1)
    cloud.reboot(server)
    first = cloud.last_reboot(server)
    lab.after(1)
    cloud.stop(server)
    assert cloud.last_reboot(server) == first != ""
    lab.after(1)
    cloud.reboot(server)
    assert cloud.last_reboot(server) not in ("", first)


@pytest.mark.parametrize(
    ("fault", "done"),
    [(Fault.ERROR_503, False), (Fault.LOST_DONE, True), (Fault.LOST_NOT_DONE, False)],
)
def test_a_reboot_whose_answer_was_lost_is_found_where_it_was_taken(lab: Lab, fault: Fault, done: bool) -> None:
    (server,) = lab.boot(A)
    cloud = lab.cloud()
    cloud.reboot(server)
    lab.after(1)
    before = cloud.last_reboot(server)
    lab.fail("reboot", fault)
    with pytest.raises(Unanswered):
        cloud.reboot(server)
    assert (cloud.last_reboot(server) != before) is done


@pytest.mark.parametrize(("most", "asks"), [((2, 96), 3), ((2, 57), 1)])
def test_the_newest_reboot_is_found_behind_many_other_actions(most: tuple[int, int], asks: int) -> None:
    with running(page=2, most=most) as lab:
        (server,) = lab.boot(A)
        cloud = lab.cloud()
        cloud.reboot(server)
        for change in (cloud.stop, cloud.start, cloud.stop, cloud.start):
            lab.after(1)
            change(server)
        assert cloud.last_reboot(server)
        assert len(lab.asked("os-instance-actions")) == asks


def test_a_newest_reboot_that_cannot_be_looked_up_is_an_error(lab: Lab) -> None:
    (server,) = lab.boot(A)
    cloud = lab.cloud()
    with pytest.raises(DriverError, match="404 Instance gone could not be found"):
        cloud.last_reboot("gone")
    for fault, words in (
        (Fault.ERROR_500, "500"),
        (Fault.LOST_DONE, "GET"),
        (Fault.GARBAGE_DONE, "cannot be understood"),
    ):
        lab.fail("actions", fault)
        with pytest.raises(DriverError, match=words):
            cloud.last_reboot(server)


@pytest.mark.parametrize("request_id", ['""', "null"])
def test_a_reboot_without_an_id_is_no_answer(request_id: str) -> None:
    body = f'{{"instanceActions": [{{"action": "reboot", "request_id": {request_id}}}]}}'
    with pytest.raises(DriverError, match="cannot be understood"):
        decode(body.encode(), ActionsAnswer, "a look")


# --- changes whose answer is bad ----------------------------------------------------------------------------------------


def test_a_refusal_is_certain_and_bears_novas_words(lab: Lab) -> None:
    (server,) = lab.boot(A)
    with pytest.raises(DriverError, match=r"evacuate: 400 Compute service of compute-a is still in use\."):
        lab.cloud().evacuate(server, A)
    with pytest.raises(DriverError, match="os-start: 409 Cannot 'start' instance"):
        lab.cloud().start(server)
    with pytest.raises(DriverError, match="404 Instance gone could not be found"):
        lab.cloud().stop("gone")


def test_too_many_requests_says_when_to_come_back(lab: Lab) -> None:
    (server,) = lab.boot(A, stopped=True)
    cloud = lab.cloud()
    lab.fail("start", Fault.TOO_MANY)
    with pytest.raises(DriverError, match="Retry-After: 7"):
        cloud.start(server)


@pytest.mark.parametrize(
    ("fault", "done"),
    [
        (Fault.ERROR_500, False),
        (Fault.ERROR_503, False),
        (Fault.LOST_DONE, True),
        (Fault.LOST_NOT_DONE, False),
    ],
)
def test_a_lost_answer_to_a_change_is_unknown_and_nothing_is_sent_twice(lab: Lab, fault: Fault, done: bool) -> None:
    (server,) = lab.boot(A)
    lab.dead(A)
    cloud = lab.cloud()
    lab.fail("evacuate", fault)
    with pytest.raises(Unanswered):
        cloud.evacuate(server, A)
    assert len(lab.asked("/action")) == 1
    assert (lab.statuses(server) == ["accepted"]) is done
    with pytest.raises(DriverError, match="not sent: an evacuate of the server is under way, or its answer was lost"):
        cloud.evacuate(server, A)
    lab.now += cloud.api_max_s()  # the hosts' clock, too: nobody ticks it
    if done:  # a look finds it
        with pytest.raises(DriverError, match="not sent"):
            cloud.evacuate(server, A)
    else:
        cloud.evacuate(server, A)
    assert lab.statuses(server).count("accepted") + lab.statuses(server).count("done") == 1


def test_a_silent_nova_costs_the_time_out_and_no_more() -> None:
    with running(lost_s=3.0) as lab:
        (server,) = lab.boot(A, stopped=True)
        cloud = lab.cloud(timeout_s=0.3)
        cloud.services()
        lab.fail("start", Fault.LOST_DONE)
        lab.fail("servers", Fault.LOST_NOT_DONE)
        began = time.monotonic()
        with pytest.raises(Unanswered, match="timed out"):
            cloud.start(server)
        with pytest.raises(DriverError, match="timed out"):
            cloud.servers(A)
        assert time.monotonic() - began < 2.0


def test_an_undecodable_answer_to_a_taken_change_changes_nothing_for_us(lab: Lab) -> None:
    (server,) = lab.boot(A, stopped=True)
    cloud = lab.cloud()
    lab.fail("start", Fault.GARBAGE_DONE)
    cloud.start(server)
    lab.after(1)
    assert lab.state.servers[server].status == "ACTIVE"


def test_a_refused_connection_is_certain(lab: Lab) -> None:
    (server,) = lab.boot(A, stopped=True)
    cloud = lab.cloud()
    cloud.services()
    lab.api.stop_thread()
    with pytest.raises(DriverError):
        cloud.start(server)
    with pytest.raises(DriverError):
        cloud.services()


def test_a_connection_that_breaks_after_the_sending_is_unknown(lab: Lab) -> None:
    """A Nova that reads the request and drops the connection; its neighbour, Keystone, is fine."""
    cloud = lab.cloud()
    cloud.services()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drop() -> None:
            peer, _ = listener.accept()
            peer.recv(65536)
            peer.close()

        thread = threading.Thread(target=drop)
        thread.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}/compute/v2.1"
        cloud.http._connection.compute.endpoint_override = endpoint
        with pytest.raises(Unanswered):
            cloud.stop("some-server")
        thread.join(5)
    with pytest.raises(DriverError):
        cloud.stop("some-server")


# --- Keystone ---------------------------------------------------------------------------------------------------------


def test_an_expired_token_is_renewed(lab: Lab) -> None:
    (server,) = lab.boot(A, stopped=True)
    cloud = lab.cloud()
    cloud.services()
    lab.api.call(lab.api.expire_tokens)
    cloud.start(server)
    lab.api.call(lab.api.expire_tokens)
    assert len(cloud.servers(A)) == 1
    lab.after(1)
    assert lab.state.servers[server].status == "ACTIVE"


def test_a_keystone_that_fails_before_the_sending_is_certain_and_heals(lab: Lab) -> None:
    (server,) = lab.boot(A, stopped=True)
    cloud = lab.cloud()
    lab.fail("token", Fault.ERROR_503)
    with pytest.raises(DriverError):
        cloud.start(server)
    assert lab.asked("/action") == []
    cloud.start(server)


def test_the_wrong_password_is_no_secret_in_the_error(lab: Lab) -> None:
    entry = lab.api.cloud()
    entry["auth"]["password"] = "hunter2-wrong"
    cloud = NovaCloud(connection=openstack.connection.Connection(**entry), timeout_s=2.0)
    with pytest.raises(DriverError) as caught:
        cloud.services()
    assert "hunter2" not in str(caught.value) + caught.value.hint


def test_a_missing_entry_of_clouds_yaml_says_what_to_do() -> None:
    with pytest.raises(DriverError, match="no-such-cloud") as caught:
        NovaCloud("no-such-cloud")
    assert "clouds.yaml" in caught.value.hint
