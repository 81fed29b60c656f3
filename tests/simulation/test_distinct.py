"""Faults that look alike are not the same: what one of a pair shows, the other does not."""

from __future__ import annotations

import pytest

from ha_agent.errors import DriverError, Unanswered
from ha_agent.model import CommandKind
from ha_agent.sim.actions import perform
from ha_agent.sim.faults import BY_NAME
from ha_agent.sim.network import FRAME_RTO_S
from ha_agent.sim.requests import LOOK_AGE_S, SimCloud
from ha_agent.sim.simulation import BUSY_S, Simulation
from ha_agent.sim.stage import MENDED_S, STORIES, Stage
from ha_agent.sim.weather import Trouble
from tests.simulation.clouds import cloud, policy

US, HOST = "controller-1", "h2"


def heard_at(sim: Simulation, controller: int = 0) -> float:
    engine = sim.processes[controller].engine
    assert engine is not None
    at = engine.views[HOST].heard_at
    assert at is not None
    return at


# --- frames that are lost one way ---


def test_what_nobody_acknowledges_is_heard_once_more() -> None:
    """Towards the host: one heartbeat comes yet. From the host: none."""
    for line, more in ((f"one_way {US} {HOST}", 1), (f"one_way {HOST} {US}", 0)):
        sim = cloud()
        last = heard_at(sim)
        perform(sim, line)
        sim.run(8.0)
        assert heard_at(sim) == pytest.approx(last + more), line


def test_what_is_asked_of_a_host_arrives_in_one_direction_only() -> None:
    towards, back = cloud().world, cloud().world
    towards.one_way(US, HOST, lost=True)
    back.one_way(HOST, US, lost=True)
    assert not towards.arrives(US, HOST)
    assert back.arrives(US, HOST)
    assert not back.arrives(HOST, US)


def test_after_the_first_frame_only_that_one_is_repeated() -> None:
    sim = cloud()
    sim.world.one_way(HOST, US, lost=True)
    assert sim.world.arrives(US, HOST)
    sim.run(FRAME_RTO_S / 2)
    assert sim.world.arrives(US, HOST)
    sim.run(FRAME_RTO_S)
    assert not sim.world.arrives(US, HOST)
    sim.world.one_way(HOST, US, lost=False)
    assert sim.world.arrives(US, HOST)


@pytest.mark.parametrize("line", ["crash 0.1", f"agent_crash {HOST} for 0.1", f"reboot {HOST} 0.1"])
def test_no_connection_is_made_over_such_a_path(line: str) -> None:
    """Whoever ends has lost the one that stood."""
    before, after = cloud(), cloud()
    perform(before, line)
    perform(before, f"one_way {HOST} {US}")
    perform(after, f"one_way {HOST} {US}")
    perform(after, line)
    for sim in (before, after):
        sim.run(1.0)
        assert not sim.world.arrives(US, HOST)


def test_a_connection_without_heartbeats_is_given_up() -> None:
    sim = cloud()
    sim.world.one_way(HOST, US, lost=True)
    sim.run(5.1)
    assert not sim.world.arrives(US, HOST)


def test_witnesses_have_no_connection_that_stands() -> None:
    sim = cloud()
    sim.world.one_way("h1", HOST, lost=True)
    assert not sim.world.arrives(HOST, "h1")


# --- a store that is full, one that is locked ---


def test_a_full_store_fails_at_once_and_a_locked_one_makes_its_writer_wait() -> None:
    full, locked = cloud(), cloud()
    perform(full, "store_full 30")
    perform(locked, "store_locked 30")
    stood = {id(full): 0, id(locked): 0}
    for _ in range(60):
        for sim in (full, locked):
            sim.run(0.5)
            stood[id(sim)] += sim.processes[0].paused
    assert stood[id(full)] == 0
    assert stood[id(locked)] > 20


def test_a_lock_that_is_short_only_delays() -> None:
    sim = cloud()
    perform(sim, f"store_locked {BUSY_S - 1.0}")
    engine = sim.processes[0].engine
    assert engine is not None
    for _ in range(40):
        sim.run(0.5)
        assert not engine.store_error
    assert engine.leading
    assert not sim.store.held


def test_nobody_takes_the_lease_of_a_locked_store() -> None:
    sim = cloud(controllers=2)
    perform(sim, "store_locked 60")
    sim.processes[0].pause()
    sim.run(50.0)
    assert sim.leader is None or sim.leader.paused
    other = sim.processes[1].engine
    assert other is not None
    assert not other.leading
    sim.run(30.0)
    assert other.leading


def test_a_store_that_is_locked_can_be_read() -> None:
    sim = cloud()
    perform(sim, "store_locked 60")
    assert sim.store.read_lease() is not None
    assert sim.store.list("host")


# --- Keystone, and Nova's reads ---


def readable(nova: SimCloud) -> bool:
    try:
        return bool(nova.services())
    except DriverError:
        return False


def test_requests_go_on_with_the_token_that_is_there() -> None:
    sim = cloud()
    nova = SimCloud(sim.world, US)
    perform(sim, "keystone_down 10 for 60")
    assert readable(nova)
    assert not sim.world.weather.stops_all
    sim.run(10.0)
    assert sim.world.weather.stops_all
    with pytest.raises(DriverError, match="no token from Keystone"):
        nova.force_down(HOST, value=True)
    assert not readable(nova)
    sim.run(51.0)
    assert readable(nova)


def test_a_controller_that_starts_meanwhile_has_none() -> None:
    sim = cloud(controllers=2)
    perform(sim, "keystone_down 100 for 60")
    perform(sim, f"crash 1 {US}")
    sim.run(5.0)
    assert not readable(SimCloud(sim.world, US))
    assert readable(SimCloud(sim.world, "controller-2"))


@pytest.mark.parametrize("trouble", [Trouble.E500, Trouble.E503, Trouble.E429])
def test_what_a_driver_reads_before_a_change_fails_too(trouble: Trouble) -> None:
    sim = cloud()
    server = next(s.id for s in sim.world.nova.servers.values() if s.host == HOST)
    sim.world.nova.hosts[HOST].forced_down = True
    nova = SimCloud(sim.world, US)
    sim.world.weather.set(trouble, 1.0)
    with pytest.raises(DriverError):
        nova.force_down(HOST, value=False)
    with pytest.raises(DriverError):
        nova.evacuate(server, HOST)


def test_a_flag_that_cannot_be_read_back_may_be_set() -> None:
    """Of many tries under a Nova that fails often, some end so; one that was not set is no such one."""
    sim = cloud()
    nova, row = SimCloud(sim.world, US), sim.world.nova.hosts[HOST]
    sim.world.weather.set(Trouble.E429, 0.5)
    ends: set[str] = set()
    for _ in range(60):
        row.forced_down = False
        try:
            nova.force_down(HOST, value=True)
        except Unanswered as error:
            ends.add(str(error).split(":")[0])
            assert row.forced_down
        except DriverError:
            assert not row.forced_down
    assert ends == {f"forced_down of {HOST} was set, but cannot be read back"}


def test_an_evacuate_after_a_fresh_look_is_sent_without_another() -> None:
    """So its answer may be lost; after an old one the look fails before anything is sent."""
    sim = cloud()
    sim.world.nova.hosts[HOST].forced_down = True
    servers = [s.id for s in sim.world.nova.servers.values() if s.host == HOST]
    nova = SimCloud(sim.world, US)
    nova.evacuations(HOST)
    sim.run(LOOK_AGE_S / 2)
    sim.world.weather.set(Trouble.E503, 1.0)
    with pytest.raises(Unanswered):
        nova.evacuate(servers[0], HOST)
    with pytest.raises(DriverError):  # what was listed before it was sent says nothing of it now
        nova.evacuate(servers[0], HOST)
    sim.run(LOOK_AGE_S / 2)
    with pytest.raises(DriverError):
        nova.evacuate(servers[1], HOST)


def test_some_reads_are_not_answered_where_answers_are_lost() -> None:
    sim = cloud()
    nova = SimCloud(sim.world, US)
    sim.world.weather.set(Trouble.LOST_DONE, 1.0)
    failed = sum(not readable(nova) for _ in range(300))
    assert 10 < failed < 60


def test_a_slow_nova_is_slow_to_show_a_row() -> None:
    sim = cloud()
    perform(sim, "nova slow")
    sim.world.power_off(HOST)
    engine = sim.processes[0].engine
    assert engine is not None
    sim.run_until(lambda: engine.views[HOST].suspect_at is not None, 20.0, 0.1)
    sim.run(1.5)
    assert engine.views[HOST].nova_tried_at is None
    sim.run(19.0)
    assert engine.views[HOST].nova_tried_at is not None


# --- kernels ---


def test_a_panic_is_silent_for_longer_than_a_reset() -> None:
    sim = cloud()
    perform(sim, f"panic {HOST} 30 1")
    row = sim.world.hosts[HOST]
    sim.run(5.0)
    assert row.powered
    assert not row.answers_tcp
    sim.world.thaw(HOST)  # nobody can
    sim.world.unhang(HOST)
    assert not sim.world.nova.hosts[HOST].works
    sim.run(20.0)
    assert not any("rebooted" in line for line in [str(i.verdict) for i in sim.open()])
    assert [c.kind for _, _, c in sim.judge.sent if c.kind is CommandKind.FENCE] == [CommandKind.FENCE]


def test_a_host_that_booted_before_its_dump_ended_does_not_reset_once_more() -> None:
    sim = cloud()
    perform(sim, f"panic {HOST} 30 1")
    sim.world.power_off(HOST)
    sim.world.power_on(HOST, boot_s=1.0)
    boot = sim.world.hosts[HOST].boot
    sim.run(40.0)
    assert sim.world.hosts[HOST].boot == boot


def story(name: str) -> Stage:
    return Stage(1, story=next(s for s in STORIES if s.name == name))


def test_a_host_counts_as_hung_in_the_matrix() -> None:
    lines: list[str] = []
    stage = story("hangs")
    stage.tell(lines.append)
    stage.begin()
    stage.finish()
    assert any("[fence] now hung" in line for line in lines)
    assert stage.sim.violations == []


@pytest.mark.parametrize("name", ["freeze 40 s", "hang past patience", "pause past the lease", "certificate refused"])
def test_what_means_nothing_when_it_is_short_is_not_mended_sooner(name: str) -> None:
    assert BY_NAME[name].lasts_s > MENDED_S
    lines: list[str] = []
    stage = Stage(1, log=lines.append, story=STORIES[0], controllers=2)
    stage.begin()
    stage.strike(BY_NAME[name])
    at = stage.sim.world.now
    stage.play(at + BY_NAME[name].lasts_s - 1.0, ends=False)
    assert not any("everything that is broken is mended" in line for line in lines)
    stage.play(at + BY_NAME[name].lasts_s + 3.0, ends=False)
    assert any("everything that is broken is mended" in line for line in lines)


def test_a_pause_past_the_lease_is_nothing_where_nobody_else_can_lead() -> None:
    alone, two = Stage(1, controllers=1), Stage(1, controllers=2)
    for stage in (alone, two):
        stage.begin()
    assert alone.strike(BY_NAME["pause past the lease"]) == []
    (line,) = two.strike(BY_NAME["pause past the lease"])
    assert float(line.split()[-1]) > two.sim.policy.lease_s
    two.play(two.sim.world.now + float(line.split()[-1]) - 1.0)
    other = two.sim.processes[1].engine
    assert other is not None
    assert other.leading


def test_the_judge_knows_of_a_remote_that_answers_with_what_nobody_accepts() -> None:
    sim = Simulation(1, policy())
    sim.start()
    sim.run(20.0)
    perform(sim, f"certificate_refused {HOST}")
    row = sim.world.hosts[HOST]
    assert row.answers
    assert not row.speaks
    assert row.answers_tcp
