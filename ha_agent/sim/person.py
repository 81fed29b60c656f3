"""The person on call in a simulated cloud: reads what is blocked, and does what it says, carefully; and at the end asks whether every
protected server runs, or an incident says why it does not."""

from __future__ import annotations

import random

from ha_agent.model import CommandKind, Incident, Mode, Order, ServerStage, Step
from ha_agent.sim.devices import DeviceFault
from ha_agent.sim.simulation import PROTECTED, Simulation

LOOKS_EVERY_S = 20.0
PATIENCE_S = 60.0
LEFT = frozenset({ServerStage.NOT_MOVED, ServerStage.GIVEN_UP})


class Person:
    """See the module. `looks_every_s`: how often it looks; `patience_s`: how long something may stand still before it acts. `mended`:
    nothing is broken any more, so what is still wrong is for the person to end."""

    def __init__(
        self,
        sim: Simulation,
        chance: random.Random,
        looks_every_s: float = LOOKS_EVERY_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.sim = sim
        self._looks_every_s, self._patience_s = looks_every_s, patience_s
        self.incidents: dict[str, Incident] = {}  # all that were ever seen, by id
        self._chance = chance
        self._wanted = {s.id for s in sim.world.nova.servers.values() if s.vm_state == "active"}
        self._stands_since: dict[tuple[str, str], float] = {}
        self._looks_at = 0.0
        self.waiting = False  # what happens now happens by itself
        self._plugs: set[str] = set()  # of hosts that the person keeps off

    def pass_time(self, seconds: float, *, mended: bool = False) -> bool:
        """Time passes, and the person looks now and then. Says whether the cloud came to where it halts."""
        sim = self.sim
        end = sim.world.now + seconds
        while sim.world.now < end:
            self.waiting = True
            halted = sim.run_halting(min(end, max(self._looks_at, sim.world.now + 0.001)))
            self.waiting = False
            if halted:
                return True
            if sim.world.now >= self._looks_at:
                self._looks_at = sim.world.now + self._looks_every_s
                self.look(mended=mended)
        return False

    def look(self, *, mended: bool) -> None:
        """Once. A host is confirmed only with its plug in hand; one that the agent is about to switch on is left to it."""
        sim, world = self.sim, self.sim.world
        leader = sim.leader
        if leader is None or leader.engine is None:
            return
        self.note()
        if mended:
            self._tidy_up()
        busy = {}
        for i in sim.open():
            busy[i.host] = i
            since = self._stands_since.setdefault((i.id, i.blocked or i.waiting), world.now)
            if world.now - since >= self._patience_s:
                self._resolve(i)
        for name, host in world.hosts.items():
            incident = busy.get(name)
            waits = incident is None or Step.FENCE not in incident.plan or incident.settled
            if incident is None or "confirm-fenced" not in incident.release:
                self._plugs.discard(name)
            ours = incident is not None and any(c.kind is CommandKind.POWER_ON for c in incident.pending)
            if mended and not host.powered and waits and not ours and name not in self._plugs:
                world.power_on(name, "an operator switches it on")

    def note(self) -> None:
        """Remember what the leader knows."""
        leader = self.sim.leader
        if leader is not None and leader.engine is not None:
            self.incidents.update(leader.engine.state.incidents)

    def _tidy_up(self) -> None:
        """Orders that were given for a while only are taken back."""
        sim, leader = self.sim, self.sim.leader
        assert leader is not None
        assert leader.engine is not None
        fleet = leader.engine.state.fleet
        if not fleet.armed:
            sim.order(Order.ARM)
        if fleet.paused:
            sim.order(Order.UNPAUSE)
        for name, row in sorted(leader.engine.state.hosts.items()):
            if row.maintenance and name in sim.world.hosts and sim.world.hosts[name].speaks:
                since = self._stands_since.setdefault((name, "maintenance"), sim.world.now)
                if sim.world.nova.hosts[name].works or sim.world.now - since >= self._patience_s:
                    sim.order(Order.MAINTENANCE_OFF, name)
            else:
                self._stands_since.pop((name, "maintenance"), None)
        if self._chance.random() < 0.1:
            self._reset_states()

    def _reset_states(self) -> None:
        """Servers that hang in a task are freed."""
        nova = self.sim.world.nova
        for server in sorted(nova.servers.values(), key=lambda s: s.name):
            if server.task_state in ("migrating", "powering-off", "powering-on"):
                self.sim.world.log(f"somebody resets the state of {server.name}, which is {server.task_state}")
                nova.reset_state(server.id, "active")

    def _resolve(self, i: Incident) -> None:
        sim, host = self.sim, self.sim.world.hosts[i.host]
        well = all(d.fault is DeviceFault.NONE for d in host.devices.values())
        if "ha-agent fence" in i.release and (well or not host.speaks):
            sim.order(Order.FENCE, i.host)
        elif "confirm-fenced" in i.release:
            sim.world.power_off(i.host, "an operator pulls its plug")
            self._plugs.add(i.host)  # and holds it until the agent has taken the word for it
            if not sim.order(Order.CONFIRM_FENCED, i.host):
                self._plugs.discard(i.host)
        elif "gate --override" in i.release:
            moving = [m for m in sim.world.nova.migrations if m.source == i.host and sim.world.nova.may_land(m)]
            if not moving and host.speaks:  # the person went and looked
                sim.world.log(f"somebody opens the gate of {i.host} by hand")
                sim.world.open_gate(i.host, host.boot_id)
        elif "ha-agent release" in i.release:
            sim.order(Order.RELEASE, i.host)

    # --- at the end ---

    def all_up(self) -> bool:
        """Every host works, and Nova knows it."""
        return all(h.works and not h.forced_down for h in self.sim.world.nova.hosts.values())

    def complain(self) -> None:
        """Liveness: what is still open although nothing is broken."""
        sim = self.sim
        for i in sim.open():
            why = i.blocked or i.waiting or "nothing that it names"
            sim.judge.broken("LIVE", f"the incident of {i.host} does not end: at {i.step} it waits for {why}")
        if sim.leader is None:
            sim.judge.broken("LIVE", "no controller leads")
        if not sim.open() and not self.all_up():
            rows = self.sim.world.nova.hosts.values()
            left = ", ".join(h.name for h in rows if not h.works or h.forced_down)
            sim.judge.broken("LIVE", f"no incident is open, and {left} is not back")

    def servers_run(self) -> None:
        """Liveness: a protected server that can run runs, or an incident says why it does not. Then its owner starts it."""
        self.note()
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
                text = f"{row.name} on {row.host} is protected and does not run; nobody says why"
                self.sim.judge.broken("LIVE", text)
            if nova.hosts[row.host].works:
                row.vm_state, row.task_state = "stopped", None
                nova.start(server)
        self.sim.judge.planned.clear()

    def _excused(self, host: str) -> bool:
        """Whether somebody else looks after the servers of the host."""
        return host in self.sim.judge.planned or self.sim.policy.hosts[host].recovery.mode is Mode.NOTIFY
