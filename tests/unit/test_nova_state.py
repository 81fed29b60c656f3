"""The simulated Nova keeps the rules that a real one showed."""

from __future__ import annotations

import random

import pytest

from ha_agent.sim.nova_state import NovaError, NovaState

A, B, C = "compute-a", "compute-b", "compute-c"


class World:
    """A Nova of three hosts and a clock in the test's hand."""

    def __init__(self, **options: object) -> None:
        self.now = 0.0
        self.nova = NovaState(lambda: self.now, random.Random(7), **options)  # type: ignore[arg-type]
        for name in (A, B, C):
            self.nova.add_host(name)

    def after(self, seconds: float) -> NovaState:
        self.now += seconds
        self.nova.tick()
        return self.nova

    def force_down(self, host: str, value: bool = True) -> None:
        self.nova.force_down(self.nova.hosts[host].service_id, value)

    def dead(self, host: str) -> None:
        self.nova.power_cut(host)
        self.force_down(host)

    def statuses(self, server: str) -> list[str]:
        return [m.status for m in self.nova.migrations if m.server == server]


@pytest.fixture
def world() -> World:
    return World()


def refused(code: int, call: object, *args: object) -> str:
    with pytest.raises(NovaError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.code == code
    return caught.value.message


def test_a_dead_host_is_up_until_the_time_out_and_down_at_once_when_forced(world: World) -> None:
    nova = world.after(25)
    nova.power_cut(A)
    assert nova.updated_at(A).endswith("00:00:20"), "the last report, not the time of death"
    assert nova.is_up(A)
    world.after(54)
    assert nova.is_up(A)
    world.after(2)
    assert not nova.is_up(A)
    assert nova.is_up(B)
    world.force_down(B)
    assert not nova.is_up(B)
    first = nova.updated_at(B)
    assert world.after(20).updated_at(B) > first, "a live process keeps reporting under forced_down"


def test_an_evacuation_is_refused_while_the_source_is_up(world: World) -> None:
    server = world.nova.add_server(A).id
    assert "still in use" in refused(400, world.nova.evacuate, server)
    world.nova.power_cut(A)
    refused(400, world.nova.evacuate, server)
    world.force_down(A)
    refused(404, world.nova.evacuate, server, (2, 94), "nowhere")
    refused(400, world.nova.evacuate, server, (2, 94), A)
    world.nova.evacuate(server)
    nova = world.after(5)
    assert nova.servers[server].host in (B, C)
    assert nova.servers[server].status == "ACTIVE"
    assert nova.runs == {server: {nova.servers[server].host}}
    refused(400, nova.evacuate, server)


def test_evacuating_a_forced_down_host_that_lives_runs_the_server_twice_until_nova_compute_restarts(
    world: World,
) -> None:
    server = world.nova.add_server(A).id
    world.force_down(A)
    world.nova.evacuate(server)
    nova = world.after(5)
    assert nova.double_runs() == [server]
    assert [entry[1] for entry in nova.double_history] == [server]
    nova.compute_stop(A)
    nova.compute_start(A)
    assert nova.double_runs() == []
    assert not nova.domain_present(A, server)
    assert len(nova.double_history) == 1, "what was once double is never forgotten"


def test_the_flag_is_cleared_only_after_the_source_has_cleaned_up(world: World) -> None:
    server = world.nova.add_server(A).id
    world.dead(A)
    world.nova.evacuate(server)
    nova = world.after(5)
    assert "`done`" in refused(400, world.force_down, A, False)
    nova.power_on(A)
    nova.compute_start(A)
    assert world.statuses(server) == ["completed"]
    assert not nova.is_up(A)
    world.force_down(A, False)
    assert nova.is_up(A)


@pytest.mark.parametrize(("microversion", "lands"), [((2, 94), "ACTIVE"), ((2, 95), "SHUTOFF")])
def test_from_2_95_an_active_server_lands_stopped(world: World, microversion: tuple[int, int], lands: str) -> None:
    server = world.nova.add_server(A).id
    world.dead(A)
    world.nova.evacuate(server, microversion)
    nova = world.after(5)
    assert nova.servers[server].status == lands
    assert (server in nova.runs) == (lands == "ACTIVE")
    if lands == "SHUTOFF":
        nova.start(server)
        assert world.after(1).servers[server].status == "ACTIVE"


def test_a_second_evacuation_during_the_first_is_accepted_and_ruins_the_server(world: World) -> None:
    server = world.nova.add_server(A).id
    world.dead(A)
    world.nova.evacuate(server)
    world.after(0.8)
    world.nova.evacuate(server)
    nova = world.after(20)
    assert nova.servers[server].status == "ERROR"
    assert nova.ruined == [server]
    assert "done" not in world.statuses(server)


def test_no_valid_host_is_seen_only_in_the_record_and_can_be_tried_again(world: World) -> None:
    server = world.nova.add_server(A).id
    world.dead(A)
    world.nova.hosts[B].disabled = world.nova.hosts[C].disabled = True
    world.nova.evacuate(server)
    nova = world.after(5)
    assert world.statuses(server) == ["error"]
    assert (nova.servers[server].status, nova.servers[server].host) == ("ERROR", A)
    nova.hosts[B].disabled = False
    nova.evacuate(server)
    assert world.after(5).servers[server].status == "ACTIVE"
    assert world.statuses(server) == ["error", "done"]


def test_a_destination_that_cannot_spawn_fails_the_record(world: World) -> None:
    server = world.nova.add_server(A).id
    world.dead(A)
    world.nova.hosts[B].spawn_fails = "no space left"
    world.nova.evacuate(server, (2, 94), B)
    nova = world.after(5)
    assert world.statuses(server) == ["failed"]
    assert (nova.servers[server].status, nova.servers[server].fault) == ("ERROR", "no space left")


def test_a_destination_that_dies_leaves_its_record_for_ever(world: World) -> None:
    server = world.nova.add_server(A).id
    world.dead(A)
    world.nova.evacuate(server, (2, 94), B)
    world.after(0.6)
    world.dead(B)
    nova = world.after(600)
    assert (nova.servers[server].status, nova.servers[server].host) == ("REBUILD", A)
    assert world.statuses(server) == ["pre-migrating"]
    nova.evacuate(server)
    nova = world.after(5)
    assert (nova.servers[server].status, nova.servers[server].host) == ("ACTIVE", C)
    nova.power_on(A)
    nova.compute_start(A)
    nova.power_on(B)
    nova.compute_start(B)
    world.after(60)
    assert world.statuses(server) == ["pre-migrating", "completed"]
    assert nova.double_history == []


def test_a_destination_that_froze_starts_the_guest_when_it_thaws(world: World) -> None:
    server = world.nova.add_server(A).id
    world.dead(A)
    world.nova.evacuate(server, (2, 94), B)
    world.after(0.6)
    world.nova.freeze(B)
    world.after(120)
    world.nova.evacuate(server)
    world.after(5)
    assert world.nova.runs[server] == {C}
    world.nova.thaw(B)
    assert world.after(1).double_runs() == [server]


def test_a_message_that_waited_for_its_host_does_nothing_once_the_server_has_landed(world: World) -> None:
    server = world.nova.add_server(A).id
    world.dead(A)
    world.nova.power_cut(B)  # Nova still calls it up
    world.nova.evacuate(server, (2, 94), B)
    world.after(120)
    assert world.statuses(server) == ["accepted"]
    world.nova.evacuate(server)
    world.after(5)
    world.nova.power_on(B)
    world.nova.compute_start(B)
    nova = world.after(5)
    assert world.statuses(server) == ["failed", "done"]
    assert (nova.runs[server], nova.servers[server].status) == ({C}, "ACTIVE")


def test_a_live_migration_moves_the_guest_before_it_moves_the_books(world: World) -> None:
    moved = world.nova.add_server(A).id
    world.nova.live_migrate(moved, B, duration_s=4)
    nova = world.after(3)
    assert nova.runs[moved] == {B}
    assert nova.servers[moved].host == A
    world.dead(A)
    world.after(60)
    assert world.statuses(moved) == ["running"]
    nova.evacuate(moved, (2, 94), C)
    assert world.after(5).double_runs() == [moved], "what S2 must prevent"
    calm = nova.add_server(B).id
    nova.live_migrate(calm, C)
    assert world.after(5).servers[calm].host == C
    assert world.statuses(calm) == ["completed"]


@pytest.mark.parametrize(
    ("action", "state", "status"),
    [("pause", "paused", "PAUSED"), ("suspend", "suspended", "SUSPENDED"), ("rescue", "rescued", "RESCUE")],
)
def test_servers_that_are_set_aside_are_refused_until_they_are_reset(
    world: World, action: str, state: str, status: str
) -> None:
    server = world.nova.add_server(A).id
    world.nova.set_aside(server, action)
    assert world.nova.servers[server].status == status
    world.dead(A)
    assert state in refused(409, world.nova.evacuate, server)
    world.nova.reset_state(server, "error")
    world.nova.evacuate(server)
    assert world.after(5).servers[server].status == "ACTIVE"


def test_a_shelved_server_is_on_no_host_and_cannot_be_evacuated(world: World) -> None:
    server = world.nova.add_server(A).id
    world.nova.set_aside(server, "shelve")
    assert (world.nova.servers[server].status, world.nova.servers[server].host) == ("SHELVED_OFFLOADED", "")
    assert not world.nova.domain_present(A, server)
    assert server not in world.nova.runs
    world.dead(A)
    assert "not on any host" in refused(400, world.nova.evacuate, server)


def test_a_stopped_server_stays_stopped_and_a_task_on_a_dead_host_stays_for_ever(world: World) -> None:
    off, on = world.nova.add_server(A, stopped=True).id, world.nova.add_server(A).id
    world.dead(A)
    world.nova.stop(on)
    world.after(60)
    assert world.nova.servers[on].task_state == "powering-off"
    world.nova.evacuate(off)
    nova = world.after(5)
    assert (nova.servers[off].status, off in nova.runs) == ("SHUTOFF", False)


def test_a_returned_host_does_not_start_its_guests_and_nova_notices_late(world: World) -> None:
    server = world.nova.add_server(A).id
    world.nova.power_cut(A)
    world.after(30)
    world.nova.power_on(A)
    world.nova.compute_start(A)
    assert world.after(10).servers[server].status == "ACTIVE"
    assert server not in world.nova.runs
    assert world.nova.domain_present(A, server)
    assert world.after(60).servers[server].status == "SHUTOFF"
    world.nova.start(server)
    world.after(1)
    assert world.nova.runs[server] == {A}


def test_the_same_seed_gives_the_same_history_however_often_one_looks() -> None:
    def history(step_s: float) -> list[tuple[object, ...]]:
        world = World()
        for _ in range(10):
            world.nova.add_server(A)
        world.dead(A)
        for server in list(world.nova.servers):
            world.nova.evacuate(server)
        while world.now < 30:
            world.after(step_s)
        return [(m.server, m.status, m.dest, round(m.updated_at, 9)) for m in world.nova.migrations]

    assert history(0.25) == history(10.0)


def test_capacity_is_kept() -> None:
    world = World(capacity=2)
    servers = [world.nova.add_server(A).id for _ in range(5)]
    world.dead(A)
    for server in servers:
        world.nova.evacuate(server)
        world.after(5)
    assert sorted(world.statuses(s)[0] for s in servers) == ["done"] * 4 + ["error"]
