"""Planted bugs that the judge must catch, in worlds where the real engine breaks nothing; S1 to S6, S2b, S8,
S9, L1 and TOLD have one at least; that of S7 is in test_crash. Some tell what is not so, or nothing, which excuses nothing.

A bug is planted through the engine's own parameters: a `decide` or a `may_send` that is wrong in one way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import pytest

from ha_agent import guards
from ha_agent.controller.engine import Decide, Engine
from ha_agent.decide import Decision, decide
from ha_agent.model import (
    AnyEvent,
    Beat,
    Command,
    CommandKind,
    Finished,
    HostRecord,
    Incident,
    MachineSeen,
    Now,
    Order,
    Power,
    PowerRead,
    Reading,
    State,
    Status,
    Step,
    Tick,
    Verdict,
    VerdictGiven,
)
from ha_agent.planes import MANAGEMENT
from ha_agent.policy import Policy, Select, Storm
from ha_agent.ports import AnyObservation, Disconnected, GuestSeen, ProbeAnswered
from ha_agent.sim.actions import perform
from ha_agent.sim.devices import DeviceFault
from ha_agent.sim.loop import MakeEngine
from ha_agent.sim.simulation import Simulation
from ha_agent.sim.weather import Trouble
from tests.simulation.clouds import cloud, policy

replace = msgspec.structs.replace

FULL = 13  # so many writes fail until the one that Nova's answer brings
OF_ALL = ("incident", "host", "mode", "verdict", "reason")  # what every notification of an incident says


# --- the bugs ---


def unknown_is_down(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """A host of which nobody can say anything must be down."""
    if isinstance(event, VerdictGiven) and event.host == "h2" and event.verdict is Verdict.UNKNOWN:
        event = replace(event, verdict=Verdict.DOWN, silent=1, silent_domain=1)
    return decide(state, event, rules, now)


class Hasty(Engine):
    """It acts before it looks: whoever was not heard while it stood still itself is down."""

    _turned_at: float | None = None

    def tick(self) -> None:
        before, self._turned_at = self._turned_at, self.clock.now()
        super().tick()
        if before is not None and self._turned_at - before > self.policy.detection.suspect_after_s and self.leading:
            view = self.views["h2"]
            self.feed(
                VerdictGiven(
                    host="h2",
                    verdict=Verdict.DOWN,
                    reason="not heard",
                    boot_id=view.boot_id,
                    last_seen_at=view.heard_at,
                    new_id=self.random.uuid(),
                )
            )

    def _heard_since(self, command: Command) -> str:
        return ""


def unknown_is_off(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """A device that does not answer must be off."""
    if isinstance(event, Finished):
        readings = tuple(replace(r, power=Power.OFF) if r.power is Power.UNKNOWN else r for r in event.outcome.readings)
        event = Finished(outcome=replace(event.outcome, readings=readings))
    return decide(state, event, rules, now)


def one_off_is_enough(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """What reads off once is off."""
    if isinstance(event, Finished):
        off = [r for r in event.outcome.readings if r.power is Power.OFF]
        readings = tuple(again for r in off for again in (r, replace(r, at=r.at + 0.001)))
        event = Finished(outcome=replace(event.outcome, readings=readings))
    return decide(state, event, rules, now)


def twice(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Each evacuation is posted twice, to be sure."""
    return _also(decide(state, event, rules, now), CommandKind.EVACUATE, lambda c: replace(c, id=c.id[:-1] + "x"))


def absent_is_proof(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """A domain that is absent will never be there, whoever may be at work on it."""
    incidents = {
        key: replace(i, servers=tuple(s.with_(spawns={}) for s in i.servers)) for key, i in state.incidents.items()
    }
    return decide(replace(state, incidents=incidents), event, rules, now)


def unfence_early(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Nova is told that the host is back while its servers move."""
    return _also(
        decide(state, event, rules, now),
        CommandKind.EVACUATE,
        lambda c: replace(c, id=c.id[:-1] + "y", kind=CommandKind.CLEAR_FORCE_DOWN, subject=c.host),
    )


def powers_on_early(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """The host is switched on with the first evacuation: it takes a while to boot."""
    return _also(
        decide(state, event, rules, now),
        CommandKind.EVACUATE,
        lambda c: replace(c, id=c.id[:-1] + "z", kind=CommandKind.POWER_ON, subject=c.host),
    )


def _also(decision: Decision, kind: CommandKind, make: Callable[[Command], Command]) -> Decision:
    """For each command of a kind, another one, journalled like the first."""
    extra = tuple(make(c) for c in decision.commands if c.kind is kind)
    incidents: dict[str, Incident] = dict(decision.state.incidents)
    for c in extra:
        incident = incidents[c.incident]
        incidents[c.incident] = replace(incident, pending=(*incident.pending, c))
    state = replace(decision.state, incidents=incidents)
    return replace(decision, state=state, changed=None, commands=(*decision.commands, *extra))


def fences_what_is_heard(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Whoever is to be fenced is fenced: heartbeats come too late."""
    heard = isinstance(event, VerdictGiven) and event.verdict is Verdict.ALIVE
    if isinstance(event, Beat) or heard:
        assert isinstance(event, Beat | VerdictGiven)
        if any(i.host == event.host and i.step is Step.FENCE for i in state.incidents.values()):
            event = Tick()
    incidents = {key: replace(i, verdict_at=now.at) for key, i in state.incidents.items()}
    return decide(replace(state, incidents=incidents), event, rules, now)


class FencesWhatIsHeard(Engine):
    """And the last look before the sending does not look at them either."""

    def __init__(self, **given: Any) -> None:
        super().__init__(decide=fences_what_is_heard, **given)

    def _heard_since(self, command: Command) -> str:
        return ""


class BelievesForGood(Engine):
    """A heartbeat that cannot be journalled revokes nothing."""

    def _heard_since(self, command: Command) -> str:
        return super()._heard_since(command) if command.kind is CommandKind.FENCE else ""


def opens_the_gate_early(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Who waits at its gate may go on, whatever moves."""
    boot_id = event.boot_id if isinstance(event, Beat | VerdictGiven) else ""
    return _also(
        decide(state, event, rules, now),
        CommandKind.FENCE,
        lambda c: replace(c, id=c.id[:-1] + "g", kind=CommandKind.OPEN_GATE, boot_id=boot_id),
    )


def evacuates_before_it_tells_nova(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Nova will notice by itself that the host is down."""
    decision = decide(state, event, rules, now)
    early = {c.incident for c in decision.commands if c.kind is CommandKind.FORCE_DOWN}
    incidents = {
        key: replace(
            i,
            position=i.position + 1,
            pending=tuple(c for c in i.pending if c.kind is not CommandKind.FORCE_DOWN),
            wake_at=now.at,
        )
        if key in early
        else i
        for key, i in decision.state.incidents.items()
    }
    commands = tuple(c for c in decision.commands if c.kind is not CommandKind.FORCE_DOWN)
    return replace(decision, state=replace(decision.state, incidents=incidents), changed=None, commands=commands)


def powers_on_at_once(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Off and on again, to be quick."""
    return _also(
        decide(state, event, rules, now),
        CommandKind.FENCE,
        lambda c: replace(c, id=c.id[:-1] + "p", kind=CommandKind.POWER_ON),
    )


def unfences_at_once(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Nova is told that the host is back while an off is under way."""
    return _also(
        decide(state, event, rules, now),
        CommandKind.FENCE,
        lambda c: replace(c, id=c.id[:-1] + "u", kind=CommandKind.CLEAR_FORCE_DOWN),
    )


def both_levels_at_once(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """The next level is tried before the attempt is dead."""
    return _also(decide(state, event, rules, now), CommandKind.FENCE, lambda c: replace(c, id=c.id[:-1] + "l", level=1))


def never_paused(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Nor is a pause."""
    return decide(replace(state, fleet=replace(state.fleet, paused="")), event, rules, now)


def any_share_of_a_rack(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Only all hosts together are counted."""
    return decide(state, event, replace(rules, storm=replace(rules.storm, domain_max_hosts=1000)), now)


def forgets_its_fences(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Only what fails in this moment counts."""
    return decide(replace(state, fleet=replace(state.fleet, fences=())), event, rules, now)


def untold(event_type: str, bug: Decide = decide) -> Decide:
    """Nobody is told of it."""

    def silently(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
        decision = bug(state, event, rules, now)
        return replace(decision, told=tuple(t for t in decision.told if t.event_type != event_type))

    return silently


def claims(event_type: str, instead_of: str, bug: Decide, **data: object) -> Decide:
    """It tells something that does not happen, where it tells something else."""

    def lies(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
        decision = bug(state, event, rules, now)
        claimed = tuple(
            replace(t, event_type=event_type, data={**{name: t.data[name] for name in OF_ALL}, **data})
            for t in decision.told
            if t.event_type == instead_of
        )
        return replace(decision, told=(*decision.told, *claimed))

    return lies


def partitioned_is_down(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Our own silence is enough."""
    if isinstance(event, VerdictGiven) and event.verdict is Verdict.PARTITIONED:
        event = replace(event, verdict=Verdict.DOWN)
    return decide(state, event, rules, now)


def everything(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Whatever ran there is moved."""
    hosts = {
        name: replace(host, recovery=replace(host.recovery, select=Select(all=True), image_backed_rebuild=True))
        for name, host in rules.hosts.items()
    }
    return decide(state, event, replace(rules, hosts=hosts), now)


def never_seen_is_down(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """A host that was never heard must be down."""
    if isinstance(event, VerdictGiven) and event.verdict is Verdict.NEVER_SEEN:
        seen = HostRecord(host=event.host, first_seen_wall=1.0)
        state = replace(state, hosts={**state.hosts, event.host: seen})
        event = replace(event, verdict=Verdict.DOWN)
    return decide(state, event, rules, now)


def no_storm_guard(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """The more the merrier."""
    free = Storm(max_hosts=1000, max_share=1.0, domain_max_hosts=1000)
    return decide(state, event, replace(rules, storm=free), now)


def always_armed(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Disarmed is not for us."""
    return decide(replace(state, fleet=replace(state.fleet, armed=True)), event, rules, now)


def no_maintenance(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """Nor is maintenance."""
    hosts = {h: replace(r, maintenance="") for h, r in state.hosts.items()}
    return decide(replace(state, hosts=hosts), event, rules, now)


def lost_is_failed(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """No answer means that nothing happened."""
    if isinstance(event, Finished) and event.outcome.status is Status.LOST:
        event = Finished(outcome=replace(event.outcome, status=Status.FAILED))
    return decide(state, event, rules, now)


def evidence_never_ages(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """What was off once stays off."""
    hosts = {
        name: replace(host, fencing=replace(host.fencing, evidence_max_age_s=1e6)) for name, host in rules.hosts.items()
    }
    return decide(state, event, replace(rules, hosts=hosts), now)


def on_revokes_nothing(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """What was proven off once is off, whatever its devices read since."""
    if isinstance(event, PowerRead):
        event = replace(event, readings=_all_off(event.readings))
    if isinstance(event, Finished):
        event = Finished(outcome=replace(event.outcome, readings=_all_off(event.outcome.readings)))
    return decide(state, event, rules, now)


def _all_off(readings: tuple[Reading, ...]) -> tuple[Reading, ...]:
    return tuple(replace(r, power=Power.OFF) for r in readings)


def slow_to_believe(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """A verdict is taken seriously after a minute only."""
    if isinstance(event, VerdictGiven) and event.verdict in (Verdict.DOWN, Verdict.OFF):
        seen = event.last_seen_at if event.last_seen_at is not None else now.at
        if now.at - seen < 60.0:
            event = replace(event, verdict=Verdict.SUSPECT)
    return decide(state, event, rules, now)


def anything_goes(state: State, command: Command, rules: Policy, now_s: float) -> str:
    """Nothing is looked at before the sending."""
    return ""


class OnePlaneIsAll(Engine):
    """What is found over the management plane is taken for what there is: answers over other planes are ignored."""

    def observe(self, obs: AnyObservation) -> None:
        if isinstance(obs, ProbeAnswered) and obs.over:
            found = obs.over[MANAGEMENT]
            obs = replace(obs, answer=found, over=dict.fromkeys(obs.over, found))
        super().observe(obs)


class Careless(Engine):
    """Sends whatever it has, whoever leads by now."""

    def permit(self, command: Command) -> str:
        return ""


class AnyMachine(Engine):
    """Which machine a device says it is, is forgotten."""

    def feed(self, event: AnyEvent) -> None:
        if not isinstance(event, MachineSeen):
            super().feed(event)


class DeafToGuests(Engine):
    """What remotes tell of guests is neither taken nor acknowledged."""

    def observe(self, obs: AnyObservation) -> None:
        if not isinstance(obs, GuestSeen):
            super().observe(obs)


class NothingSpeaks(Engine):
    """Whether a program at the other end has spoken is not told from a kernel that answers TCP."""

    def observe(self, obs: AnyObservation) -> None:
        super().observe(replace(obs, spoke=False) if isinstance(obs, Disconnected) else obs)


class NeverMended(Engine):
    """A cable of its own that was lost once explains every silence ever after."""

    def tick(self) -> None:
        own = self.lookout.own
        lost = tuple((name, self.lookout.clock.now()) for name, _ in own.no_carrier)
        self.lookout.feel(replace(own, no_carrier=lost))
        super().tick()


class AnyPlace(Engine):
    """Who reached a host anywhere may deny it anywhere."""

    def set_policy(self, policy: Policy) -> None:
        hosts = {name: replace(host, place="") for name, host in policy.hosts.items()}
        super().set_policy(replace(policy, hosts=hosts))


# --- the worlds ---


def dies(sim: Simulation) -> None:
    sim.world.power_off("h2")
    sim.judge.died("h2")
    sim.run(150.0)


def dies_and_that_is_all(sim: Simulation) -> None:
    dies(sim)
    sim.judge.late()


def guest_fails_while_the_agent_is_away(sim: Simulation) -> None:
    perform(sim, "agent_crash h2 for 80")
    sim.run(1.0)
    perform(sim, "guest_fault vm3 watchdog")
    sim.run(150.0)
    sim.judge.late()


def dies_and_its_bmc_hangs(sim: Simulation) -> None:
    """Its servers move one by one, and before the second one does, nobody can read any more that the host is off."""
    sim.world.nova._evacuation_s = (60.0, 60.0)
    sim.world.power_off("h2")
    sim.run(16.0)
    assert len(sim.world.nova.evacuate_calls) == 1
    sim.world.fault("h2", DeviceFault.HANG)
    sim.run(200.0)


def dies_while_nova_is_away(sim: Simulation) -> None:
    """Nova can be told late only, and by then nobody can read any more that the host is off."""
    perform(sim, "nova down for 90")
    sim.world.power_off("h2")
    sim.run(16.0)
    sim.world.fault("h2", DeviceFault.HANG)
    sim.run(200.0)


def dies_and_its_bmc_says_so_once(sim: Simulation) -> None:
    """It is off indeed; but its device read off once in this incident, and hangs before it is asked again."""
    sim.world.power_off("h2")
    sim.run_until(lambda: any(a.host == "h2" for a in sim.world.attempts), 60.0, 0.1)
    sim.run(0.8)
    sim.world.fault("h2", DeviceFault.HANG)
    sim.run(120.0)


def comes_back_while_nova_is_away(sim: Simulation) -> None:
    """Switched on by somebody before its servers could be moved; its gate is shut, so no guest runs there, and its devices say what is so."""
    sim.world.power_off("h2")
    sim.run_until(lambda: sim.world.nova.hosts["h2"].forced_down, 60.0, 0.1)
    perform(sim, "nova down for 40")
    sim.run(1.0)
    sim.world.power_on("h2")
    sim.run(200.0)


def dies_long_after_a_cable(sim: Simulation) -> None:
    """A cable of the controller, over which nothing of this goes, is lost for good; a host dies much later."""
    perform(sim, "own_cable")
    sim.run(100.0)
    dies(sim)


def freezes_without_bmc(sim: Simulation) -> None:
    sim.world.fault("h2", DeviceFault.DEAD)
    sim.world.freeze("h2")
    sim.run(150.0)


def freezes_behind_a_relay_that_bounces(sim: Simulation) -> None:
    sim.world.fault("h2", DeviceFault.FLAPS)
    sim.world.freeze("h2")
    sim.run(150.0)


def freezes_behind_another_bmc(sim: Simulation) -> None:
    """The address of its BMC is another machine's by now."""
    sim.world.fault("h2", DeviceFault.ELSEWHERE)
    sim.world.freeze("h2")
    sim.run(60.0)


def our_path_is_cut(sim: Simulation) -> None:
    sim.world.cut("controller-1", "h2")
    sim.run(60.0)


def our_network_is_cut(sim: Simulation) -> None:
    perform(sim, "no_hosts controller-1 for 60")
    sim.run(120.0)


def we_stand_still(sim: Simulation) -> None:
    sim.processes[0].pause()
    sim.run(9.0)
    sim.processes[0].resume()
    sim.run(60.0)


def one_path_is_left(sim: Simulation) -> None:
    """h4 alone reaches the host."""
    for name in ("controller-1", *(h for h in sim.world.hosts if h not in ("h2", "h4"))):
        sim.world.cut(name, "h2")
    sim.run(60.0)


def dies_with_others_servers(sim: Simulation) -> None:
    """One has no tag, the disk of another is on the host."""
    sim.world.nova.add_server("h2", "untagged")
    sim.world.nova.add_server("h2", "on a local disk", tags=("automatic-recovery",), volume=False)
    dies(sim)


def never_up(sim: Simulation) -> None:
    """h2 was never heard since the beginning: its remote was not installed yet."""
    sim.run(60.0)


def two_die(sim: Simulation) -> None:
    sim.world.power_off("h2")
    sim.world.power_off("h3")
    sim.run(60.0)


def dies_disarmed(sim: Simulation) -> None:
    sim.order(Order.DISARM)
    sim.world.power_off("h2")
    sim.run(60.0)


def dies_in_maintenance(sim: Simulation) -> None:
    sim.order(Order.MAINTENANCE_ON, "h2", "new fans")
    sim.world.power_off("h2")
    sim.run(60.0)


def evacuated_by_hand(sim: Simulation) -> None:
    """While we are disarmed somebody evacuates a server of a dead host, slowly; then we are armed."""
    sim.order(Order.DISARM)
    sim.world.nova._evacuation_s = (200.0, 200.0)
    sim.world.power_off("h2")
    sim.run(70.0)
    sim.world.nova.evacuate(next(s.id for s in sim.world.nova.servers.values() if s.host == "h2"))
    sim.run(55.0)
    sim.order(Order.ARM)
    sim.run(300.0)


def answers_are_lost(sim: Simulation) -> None:
    """Nova is slow, and the first evacuations do not arrive, nor does any answer for a while."""
    sim.world.nova._evacuation_s = (60.0, 60.0)
    sim.world.power_off("h2")
    sim.run_until(lambda: any(c.kind is CommandKind.EVACUATE for _, _, c in sim.judge.sent), 60.0, 0.001)
    sim.world.weather.set(Trouble.LOST_NOT_DONE, 1.0)
    sim.run(3.0)
    sim.world.weather.set(Trouble.LOST_NOT_DONE, 0.0)
    sim.run(60.0)


def stands_still_while_it_sends(sim: Simulation) -> None:
    """The process stops between the decision to fence and the sending, for longer than its lease."""
    sim.world.power_off("h2")
    sim.run_until(lambda: bool(sim.open()), 60.0, 0.001)
    sim.processes[0].pause()
    sim.run(60.0)
    sim.processes[0].resume()
    sim.run(5.0)


def shows_a_certificate_that_expired(sim: Simulation) -> None:
    """And Nova does not hear of it either: that its programs run shows in nothing else."""
    perform(sim, "certificate_refused h2 for 120")
    perform(sim, "cut h2 nova for 120")
    sim.run(130.0)


def loses_its_management_plane(sim: Simulation) -> None:
    sim.world.lose_plane("h2", MANAGEMENT, lost=True)
    sim.run(60.0)


def gets_a_wrong_address(sim: Simulation) -> None:
    """While Nova, whose word would help it, cannot be read."""
    perform(sim, "nova down for 60")
    perform(sim, "astray h2")
    sim.run(50.0)


def starts_with_a_wrong_address(sim: Simulation) -> None:
    perform(sim, "crash 10")
    gets_a_wrong_address(sim)


def thaws_while_it_is_fenced(sim: Simulation) -> None:
    """Its BMC switches nothing off; it goes on after the first attempt began, and is heard."""
    perform(sim, "device h2 ignore_off bmc")
    sim.world.freeze("h2")
    sim.run_until(lambda: any(a.host == "h2" for a in sim.world.attempts), 60.0, 0.1)
    sim.world.thaw("h2")
    sim.run(60.0)


def comes_back_while_the_store_is_full(sim: Simulation) -> None:
    """Its heartbeats cannot be journalled; when the store works again, what Nova lists is there before the next one."""
    sim.world.power_off("h2")
    sim.run_until(lambda: sim.world.nova.hosts["h2"].forced_down, 60.0, 0.1)
    perform(sim, "nova down for 3")
    perform(sim, "power_on h2 1")
    sim.run(0.2)
    perform(sim, f"store_full {FULL}")
    sim.run(60.0)


def comes_back_while_its_servers_move(sim: Simulation) -> None:
    """Switched on by somebody after the first request; it boots fast, and Nova is slow."""
    sim.world.nova._evacuation_s = (60.0, 60.0)
    sim.world.power_off("h2")
    sim.run_until(lambda: bool(sim.world.nova.evacuate_calls), 60.0, 0.1)
    perform(sim, "power_on h2 1")
    sim.run(150.0)


def freezes(sim: Simulation) -> None:
    sim.world.freeze("h2")
    sim.run(60.0)


def freezes_and_stays_on(sim: Simulation) -> None:
    """Its BMC switches nothing off."""
    perform(sim, "device h2 ignore_off bmc")
    freezes(sim)


def dies_paused(sim: Simulation) -> None:
    sim.order(Order.PAUSE, reason="new switches")
    sim.world.power_off("h2")
    sim.run(60.0)


def two_of_a_rack_die(sim: Simulation) -> None:
    sim.world.power_off("h2")
    sim.world.power_off("h4")
    sim.run(60.0)


def two_die_in_turn(sim: Simulation) -> None:
    """The second one when the first one is back."""
    dies(sim)
    sim.world.power_off("h3")
    sim.run(60.0)


@dataclass(frozen=True)
class Case:
    """A rule and some of the text that names how it is broken, a bug that breaks it, and a world in which that shows. `plant`: what is
    done to the simulation beside, for a bug of what carries commands out."""

    rule: str
    text: str
    make: MakeEngine
    world: Callable[[Simulation], None]
    build: Callable[[MakeEngine], Simulation] = cloud
    plant: Callable[[Simulation], None] = lambda sim: None


def workers_live_on(sim: Simulation) -> None:
    """Nobody ends an off attempt before the power comes back."""
    sim.processes[0]._hands.kill = lambda host: None  # type: ignore[method-assign]


def planted(bug: Callable[[State, AnyEvent, Policy, Now], Decision]) -> MakeEngine:
    return partial(Engine, decide=bug)


def unguarded(bug: Callable[[State, AnyEvent, Policy, Now], Decision]) -> MakeEngine:
    """A bug that the last look before the sending would catch has that look removed too."""
    return partial(Engine, decide=bug, may_send=anything_goes)


def mute_h2(make: MakeEngine) -> Simulation:
    """A cloud in which h2 was never heard."""
    sim = Simulation(1, policy(), make=make)
    sim.world.hosts["h2"].remote = False
    sim.start()
    sim.run(20.0)
    return sim


def two_planes(make: MakeEngine) -> Simulation:
    """A cloud in which every host has a second plane."""
    rules = policy()
    hosts = {name: replace(host, planes=("storage",)) for name, host in rules.hosts.items()}
    sim = Simulation(1, replace(rules, hosts=hosts), make=make)
    sim.start()
    sim.run(20.0)
    return sim


def one_at_a_time(make: MakeEngine) -> Simulation:
    """A cloud that moves one server at a time."""
    rules = policy()
    hosts = {
        name: replace(host, recovery=replace(host.recovery, window_min=1, window_max=1))
        for name, host in rules.hosts.items()
    }
    sim = Simulation(1, replace(rules, hosts=hosts), make=make)
    for number in (1, 2):
        sim.world.nova.add_server("h2", f"vm{number}", tags=("automatic-recovery",))
    sim.start()
    sim.run(20.0)
    return sim


def two_levels(make: MakeEngine) -> Simulation:
    """A cloud in which every host has a second fencing device."""
    rules = policy()
    hosts = {
        name: replace(host, fencing=replace(host.fencing, levels=(("bmc",), ("pdu",))))
        for name, host in rules.hosts.items()
    }
    sim = Simulation(1, replace(rules, hosts=hosts), make=make)
    sim.start()
    sim.run(20.0)
    return sim


def one_of_a_rack(make: MakeEngine) -> Simulation:
    """A cloud in which one host of each rack may be fenced, and three in all."""
    rules = policy()
    sim = Simulation(1, replace(rules, storm=replace(rules.storm, domain_max_hosts=1)), make=make)
    sim.start()
    sim.run(20.0)
    return sim


def believes_for_long(make: MakeEngine) -> Simulation:
    """A cloud in which a reading counts for minutes, so that only what was read since can say otherwise."""
    rules = policy()
    hosts = {
        name: replace(host, fencing=replace(host.fencing, evidence_max_age_s=150.0))
        for name, host in rules.hosts.items()
    }
    sim = Simulation(1, replace(rules, hosts=hosts), make=make)
    sim.world.boot_s = 100.0
    sim.world.nova.add_server("h2", "vm1", tags=("automatic-recovery",))
    sim.start()
    sim.run(20.0)
    return sim


CASES = {
    "second evacuate": Case("S1", "is evacuated a second time during the first", planted(twice), dies),
    "absent is proof": Case(
        "S1", "is evacuated a second time during the first", planted(absent_is_proof), evacuated_by_hand
    ),
    "unknown is off": Case(
        "S2", "no level of which was read off twice lately", planted(unknown_is_off), freezes_without_bmc
    ),
    "one off is enough": Case(
        "S2",
        "no level of which was read off twice lately",
        planted(one_off_is_enough),
        freezes_behind_a_relay_that_bounces,
    ),
    "one off of a dead host": Case(
        "S2", "no level of which was read off twice lately", planted(one_off_is_enough), dies_and_its_bmc_says_so_once
    ),
    "evidence never ages": Case(
        "S2", "is evacuated off h2, no level", unguarded(evidence_never_ages), dies_and_its_bmc_hangs, one_at_a_time
    ),
    "evidence never ages for Nova": Case(
        "S2", "Nova is told that h2 is down, no level", unguarded(evidence_never_ages), dies_while_nova_is_away
    ),
    "on revokes nothing": Case(
        "S2",
        "no level of which was read off twice lately",
        unguarded(on_revokes_nothing),
        comes_back_while_nova_is_away,
        believes_for_long,
    ),
    "any machine": Case("S5", "h3 is switched off instead of h2", AnyMachine, freezes_behind_another_bmc),
    "unfence early": Case(
        "S3", "forced_down of h2 is cleared while servers of it move", unguarded(unfence_early), dies
    ),
    "power on early": Case("S3", "h2 is switched on while vm", unguarded(powers_on_early), dies),
    "no lease": Case(
        "S4", "in epoch 1, without the lease", Careless, stands_still_while_it_sends, partial(cloud, controllers=2)
    ),
    "no witnesses": Case("S5", "got its signed answer", planted(partitioned_is_down), our_path_is_cut),
    "unknown is down": Case(
        "S5", "although every other host has reached it", planted(unknown_is_down), our_network_is_cut
    ),
    "acts before it looks": Case("S5", "although every other host has reached it", Hasty, we_stand_still),
    "one witness is not enough": Case(
        "S5", "although h4 got its signed answer", planted(partitioned_is_down), one_path_is_left
    ),
    "everything": Case(
        "S9", "untagged is evacuated, and nobody chose it", planted(everything), dies_with_others_servers
    ),
    "second plane ignored": Case("S5", "got its signed answer", OnePlaneIsAll, loses_its_management_plane, two_planes),
    "any place, reload": Case("S5", "it was looked for where it is not", AnyPlace, gets_a_wrong_address),
    "any place, restart": Case("S5", "it was looked for where it is not", AnyPlace, starts_with_a_wrong_address),
    "nothing speaks": Case(
        "S5",
        "although its remote has answered controller-1",
        NothingSpeaks,
        shows_a_certificate_that_expired,
    ),
    "never seen": Case("S5", "h2 was never seen alive and is fenced", planted(never_seen_is_down), never_up, mute_h2),
    "no storm guard": Case(
        "S6",
        "2 hosts are fenced within 600 s, the limit is 1",
        planted(no_storm_guard),
        two_die,
        partial(cloud, share=0.2),
    ),
    "disarmed": Case("S6", "fence h2 was sent while disarmed", unguarded(always_armed), dies_disarmed),
    "maintenance": Case(
        "S6", "fence h2 was sent while h2 is in maintenance", unguarded(no_maintenance), dies_in_maintenance
    ),
    "over-long lease": Case(
        "S8",
        "controller-1 sent fence h2 after its lease had ended",
        Careless,
        stands_still_while_it_sends,
        partial(cloud, seed=3),
    ),
    "lost is failed": Case("S9", "s after an answer was lost", planted(lost_is_failed), answers_are_lost),
    "deaf to guests": Case(
        "TOLD",
        "no controller took what h2 has to tell of a guest: watchdog",
        DeafToGuests,
        guest_fails_while_the_agent_is_away,
    ),
    "slow": Case("L1", "s from silence to alarm, the bound is", planted(slow_to_believe), dies),
    "never mended": Case("L1", "s from silence to alarm, the bound is", NeverMended, dies_long_after_a_cable),
    "fences what is heard": Case(
        "S2b", "although controller-1 has heard it again", FencesWhatIsHeard, thaws_while_it_is_fenced
    ),
    "heard is forgotten": Case(
        "S2", "is evacuated off h2, no level", BelievesForGood, comes_back_while_the_store_is_full
    ),
    "gate opened early": Case(
        "S3", "the gate of h2 opened while", unguarded(opens_the_gate_early), comes_back_while_its_servers_move
    ),
    "evacuate before force_down": Case(
        "S3", "before Nova was told that it is down", unguarded(evacuates_before_it_tells_nova), dies
    ),
    "power on during off": Case(
        "S4",
        "power_on h2 was sent while an off attempt on it was alive",
        unguarded(powers_on_at_once),
        freezes_and_stays_on,
        plant=workers_live_on,
    ),
    "unfence during off": Case(
        "S4",
        "clear_force_down h2 was sent while an off attempt on it was alive",
        unguarded(unfences_at_once),
        freezes_and_stays_on,
    ),
    "both levels at once": Case(
        "S4",
        "fence h2 was sent while an off attempt on it was alive",
        unguarded(both_levels_at_once),
        freezes_and_stays_on,
        two_levels,
    ),
    "paused": Case("S6", "was sent while paused", unguarded(never_paused), dies_paused),
    "no limit of a rack": Case(
        "S6",
        "2 hosts of rack1 are fenced, the limit is 1",
        planted(any_share_of_a_rack),
        two_of_a_rack_die,
        one_of_a_rack,
    ),
    "no window": Case(
        "S6",
        "2 hosts are fenced within 600 s, the limit is 1",
        planted(forgets_its_fences),
        two_die_in_turn,
        partial(cloud, share=0.2),
    ),
    "opened untold": Case("TOLD", "nobody is told incident.opened of h2", planted(untold("incident.opened")), dies),
    "closed untold": Case("TOLD", "nobody is told incident.closed of h2", planted(untold("incident.closed")), dies),
    "blocked untold": Case(
        "TOLD",
        "nobody is told incident.blocked of h",
        planted(untold("incident.blocked")),
        two_die,
        partial(cloud, share=0.2),
    ),
    "power on early, says that all moved": Case(
        "S3",
        "h2 is switched on while",
        unguarded(claims("host.evacuation.end", "server.evacuate.start", powers_on_early)),
        dies,
    ),
    "power on early, says nothing": Case(
        "S3",
        "which was switched on for its return",
        unguarded(untold("server.evacuate.start", powers_on_early)),
        dies,
        one_at_a_time,
    ),
    "no witnesses, says that it moves servers": Case(
        "S5",
        "got its signed answer",
        planted(claims("server.evacuate.start", "incident.opened", partitioned_is_down, server="none")),
        our_path_is_cut,
    ),
    "proof is told too early": Case(
        "TOLD",
        "is told to be proven off, and level 1 was not read off twice",
        planted(claims("host.fence.end", "host.fence.start", decide, level=0, evidence=None)),
        dies,
    ),
    "proof by nobody's word": Case(
        "TOLD",
        "is told to be off by a person's word, and nobody gave it",
        planted(claims("host.fence.end", "host.fence.start", decide, level=-1, evidence=None)),
        dies_and_that_is_all,
    ),
    "one off, opened untold": Case(
        "S2",
        "no level of which was read off twice lately",
        planted(untold("incident.opened", one_off_is_enough)),
        dies_and_its_bmc_says_so_once,
    ),
}


def caught(case: Case) -> list[str]:
    """What the judge says of the bug."""
    sim = case.build(case.make)
    case.plant(sim)
    case.world(sim)
    return [str(v) for v in sim.violations]


@pytest.mark.parametrize("name", CASES)
def test_the_judge_catches_the_planted_bug(name: str) -> None:
    """By the rule that it breaks, and in words that fit it: not by chance or for another reason."""
    case = CASES[name]
    found = caught(case)
    assert any(v.startswith(f"{case.rule} at ") and case.text in v for v in found), found


@pytest.mark.parametrize("name", CASES)
def test_the_engine_breaks_nothing_there(name: str) -> None:
    case = CASES[name]
    sim = case.build(Engine)
    case.world(sim)
    assert [str(v) for v in sim.violations] == []


def test_guards_are_what_the_engine_uses() -> None:
    """The seam is real: without a planted one it is guards.may_send."""
    assert Engine.__init__.__kwdefaults__ is not None
    assert Engine.__init__.__kwdefaults__["may_send"] is guards.may_send
