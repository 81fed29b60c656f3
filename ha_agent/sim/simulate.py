"""`ha-agent simulate`: random worlds, one a seed, in virtual time, judged after every step. The same seed gives the same bytes."""

from __future__ import annotations

import json as jsonlib
import random
import sys
from collections.abc import Callable
from typing import Any, TextIO

from ha_agent.controller.engine import Engine
from ha_agent.model import Incident, Mode, Order, Phase, ServerStage, Step
from ha_agent.policy import Detection, Fencing, HostPolicy, Policy, Recovery, Storm
from ha_agent.sim import faults
from ha_agent.sim.loop import MakeEngine
from ha_agent.sim.simulation import PROTECTED, Simulation
from ha_agent.sim.timeline import stream

DAY_S = 86_400.0
CALM_LIMIT_S = 2400.0
OPERATOR_EVERY_S = 20.0
OPERATOR_PATIENCE_S = 60.0
LEFT = frozenset({ServerStage.NOT_MOVED, ServerStage.GIVEN_UP})


def policy_of(chance: random.Random) -> Policy:
    """A cloud of a few hosts: settings vary within what `config check` would accept."""
    count = chance.randint(4, 10)
    racks = chance.randint(1, 3)
    levels: tuple[tuple[str, ...], ...] = chance.choice(((("bmc",),), (("bmc",), ("pdu",)), (("bmc",), ("pdu",))))
    detection = Detection(down_after_s=chance.choice((8.0, 10.0, 15.0)), suspect_after_s=chance.choice((3.0, 4.0)))
    fencing = Fencing(
        levels=levels, attempt_s=chance.choice((10.0, 20.0)), evidence_max_age_s=chance.choice((15.0, 30.0))
    )
    recovery = Recovery(settle_after_s=300.0, api_max_s=10.0, window_min=chance.choice((1, 2, 4)))
    told = Recovery(mode=Mode.NOTIFY, fence=chance.random() < 0.5, settle_after_s=300.0, api_max_s=10.0)
    names = [f"h{n}" for n in range(1, count + 1)]
    notified = set(names[:1]) if chance.random() < 0.2 else set()
    return Policy(
        hosts={
            name: HostPolicy(
                name=name,
                domain=f"rack{i % racks}",
                detection=detection,
                fencing=fencing,
                recovery=told if name in notified else recovery,
            )
            for i, name in enumerate(names)
        },
        detection=detection,
        storm=Storm(max_share=chance.choice((0.2, 0.5))),
    )


def populate(sim: Simulation, chance: random.Random) -> None:
    """Servers, most of them protected, some image-backed, some stopped."""
    number = 0
    for host in sim.policy.hosts:
        for _ in range(chance.randint(0, 4)):
            number += 1
            sim.world.nova.add_server(
                host,
                f"vm{number}",
                tags=(PROTECTED,) if chance.random() < 0.8 else (),
                volume=chance.random() < 0.85,
                stopped=chance.random() < 0.1,
            )


class Life:
    """One seed: a world, its episodes, and the person who is on call."""

    def __init__(self, seed: int, make: MakeEngine = Engine, log: Callable[[str], None] = lambda line: None) -> None:
        self.seed = seed
        chance = stream(seed, "policy")
        self.sim = Simulation(
            seed, policy_of(chance), controllers=2 if chance.random() < 0.3 else 1, make=make, log=log
        )
        self.sim.world.microversion = chance.choice(((2, 94), (2, 95)))
        populate(self.sim, stream(seed, "servers"))
        self._chance = stream(seed, "faults")
        self._wanted = {s.id for s in self.sim.world.nova.servers.values() if s.vm_state == "active"}
        self._blocked_since: dict[tuple[str, str], float] = {}
        self._operator_at = 0.0
        self._planned: set[str] = set()  # hosts in planned work, whose servers are their owners' business
        self.incidents: dict[str, Incident] = {}

    def live(self, days: float) -> None:
        """So many days; an episode of faults about every eight hours."""
        self.sim.start()
        self.sim.run(20.0)
        for _ in range(max(1, round(days * 3))):
            self._episode()
            self.sim.skip(self._chance.uniform(600.0, DAY_S / 2))
        self.sim.judge.late()

    def _episode(self) -> None:
        sim, world = self.sim, self.sim.world
        number = self._chance.choice((1, 1, 2, 2, 3, 4, 6))
        for _ in range(number):
            fault = faults.pick(self._chance)
            fault(sim, self._chance)
            if number == 1 and fault is faults.power:  # alone: L1 holds for it
                for host in world.hosts.values():
                    if not host.powered and self.sim.policy.hosts[host.name].recovery.fence:
                        sim.judge.died(host.name)
            self._pass(self._chance.choice((0.0, 1.0, 5.0, 15.0, 30.0)) * self._chance.random())
        self._pass(self._chance.uniform(30.0, 300.0))
        faults.mend(sim)
        limit = world.now + CALM_LIMIT_S
        while world.now < limit and not (sim.calm() and self._all_up()):
            self._pass(5.0, mended=True)
        self._pass(70.0, mended=True)  # Nova's own bookkeeping follows
        self._note()
        if world.now >= limit:
            for i in sim.open():
                why = i.blocked or i.waiting or "nothing that it names"
                sim.judge.broken("LIVE", f"the incident of {i.host} does not end: at {i.step} it waits for {why}")
            if sim.leader is None:
                sim.judge.broken("LIVE", "no controller leads")
        self._servers_run()

    def _all_up(self) -> bool:
        return all(h.works and not h.forced_down for h in self.sim.world.nova.hosts.values())

    def _pass(self, seconds: float, *, mended: bool = False) -> None:
        """Time passes, and the person on call looks now and then."""
        sim = self.sim
        end = sim.world.now + seconds
        while sim.world.now < end:
            sim.run_to(min(end, max(self._operator_at, sim.world.now + 0.001)))
            if sim.world.now >= self._operator_at:
                self._operator_at = sim.world.now + OPERATOR_EVERY_S
                self._on_call(mended=mended)

    def _on_call(self, *, mended: bool) -> None:
        """Somebody reads what is blocked and does what it says, carefully: a host is confirmed only with its plug in hand."""
        sim, world = self.sim, self.sim.world
        leader = sim.leader
        if leader is None or leader.engine is None:
            return
        self._note()
        if mended and not leader.engine.state.fleet.armed:
            sim.order(Order.ARM)
        if mended and leader.engine.state.fleet.paused:  # the unpause met a controller that stood still
            sim.order(Order.UNPAUSE)
        if mended:
            for name, row in sorted(leader.engine.state.hosts.items()):
                if row.maintenance:
                    self._planned.add(name)
                if row.maintenance and world.hosts[name].speaks:
                    sim.order(Order.MAINTENANCE_OFF, name)
        busy = {}
        if mended and self._chance.random() < 0.1:
            faults.reset_states(sim, self._chance)
        for i in sim.open():
            busy[i.host] = i
            since = self._blocked_since.setdefault((i.id, i.blocked or i.waiting), world.now)
            if world.now - since >= OPERATOR_PATIENCE_S:
                self._resolve(i)
        for name, host in world.hosts.items():
            incident = busy.get(name)
            waits = incident is None or Step.FENCE not in incident.plan or incident.settled
            if mended and not host.powered and waits:
                world.power_on(name, "an operator switches it on")

    def _resolve(self, i: Incident) -> None:
        sim, host = self.sim, self.sim.world.hosts[i.host]
        if "confirm-fenced" in i.release:
            sim.world.power_off(i.host, "an operator pulls its plug")
            sim.order(Order.CONFIRM_FENCED, i.host)
        elif "ha-agent fence" in i.release and not host.speaks:
            sim.order(Order.FENCE, i.host)
        elif "ha-agent release" in i.release:
            sim.order(Order.RELEASE, i.host)

    def _note(self) -> None:
        leader = self.sim.leader
        if leader is not None and leader.engine is not None:
            self.incidents.update(leader.engine.state.incidents)

    def _servers_run(self) -> None:
        """Liveness: a protected server that can run runs, or an incident says why it does not."""
        nova = self.sim.world.nova
        named = {s.id for i in self.incidents.values() for s in i.servers if s.stage in LEFT and s.reason}
        for server in sorted(self._wanted):
            row = nova.servers.get(server)
            if row is None:
                self._wanted.discard(server)
                continue
            if nova.runs.get(server):
                continue
            if PROTECTED in row.tags and row.volume and server not in named and not self._excused(row.host):
                self.sim.judge.broken(
                    "LIVE", f"{row.name} on {row.host} is protected and does not run; nobody says why"
                )
            if nova.hosts[row.host].works:  # its owner starts it
                row.vm_state, row.task_state = "stopped", None
                nova.start(server)
        self._planned.clear()

    def _excused(self, host: str) -> bool:
        """Whether somebody else looks after the servers of the host."""
        return host in self._planned or self.sim.policy.hosts[host].recovery.mode is Mode.NOTIFY

    def summary(self) -> dict[str, Any]:
        """What this life saw."""
        done = [i for i in self.incidents.values() if i.phase is Phase.CLOSED]
        moved = sum(
            s.stage is ServerStage.VERIFIED and bool(s.dest) for i in self.incidents.values() for s in i.servers
        )
        return {
            "incidents": len(self.incidents),
            "recovered": sum(i.committed_at is not None for i in done),
            "moved": moved,
        }


def run(
    seeds: int, first_seed: int, days: float, json: bool, out: TextIO | None = None, make: MakeEngine = Engine
) -> int:
    """Live `seeds` lives. Prints progress (not with `json`), violations with the command that replays each, and last a summary; with
    `json` each line is a JSON object. 0 if no rule was broken."""
    stdout = out if out is not None else sys.stdout
    total = {"incidents": 0, "recovered": 0, "moved": 0}
    violations: list[dict[str, Any]] = []
    for seed in range(first_seed, first_seed + seeds):
        life = Life(seed, make)
        try:
            life.live(days)
        except Exception as error:  # the core must not raise, whatever happens: that too is a finding, with its seed
            life.sim.judge.broken("ERROR", f"{type(error).__name__}: {error}")
        for key, value in life.summary().items():
            total[key] += value
        replay = f"ha-agent simulate --seeds 1 --first-seed {seed} --days {days:g}"
        for v in life.sim.violations:
            found = {"seed": seed, "rule": v.rule, "at_s": round(v.at, 3), "text": v.text, "replay": replay}
            violations.append(found)
            print(jsonlib.dumps(found) if json else f"seed {seed}: {v}\n  {replay}", file=stdout)
        if not json and (seed - first_seed + 1) % 10 == 0:
            print(f"{seed - first_seed + 1} of {seeds} seeds, {len(violations)} violations", file=stdout, flush=True)
    summary = {"seeds": seeds, "first_seed": first_seed, "days": days, **total, "violations": violations}
    print(jsonlib.dumps(summary), file=stdout)
    return 1 if violations else 0
