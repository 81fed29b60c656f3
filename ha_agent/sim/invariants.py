"""The judge: after every step it holds the world's own books against the rules S1-S9 and L1. It shares no code with `decide`.

What counts is what happened: which server runs where, which requests really left, and when. What the engine believes does not count, and what
it tells excuses nothing: intents are read from the journal, moments from the world.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from ha_agent.bounds import host_bounds
from ha_agent.model import (
    Answer,
    Command,
    CommandKind,
    Mode,
    Notification,
    Operator,
    Order,
    Outcome,
    Phase,
    Power,
    Status,
)
from ha_agent.policy import Fencing
from ha_agent.ports import Delete, Lease, ProbeAnswered, Put
from ha_agent.sim.hands import Owner
from ha_agent.sim.loop import Process
from ha_agent.sim.nova_state import EVACUATION
from ha_agent.sim.world import Violation, World
from ha_agent.store.memory import MemoryStore, Moment

DESTRUCTIVE = frozenset({"fence", "power_on", "force_down", "clear_force_down", "evacuate", "start", "stop", "reboot"})
TOLD_S = 60.0  # a broker that works has a notification by then
GATE = ("await_return",)  # the plan of a host that only waits at its gate
NEVER = (-1.0, -1.0)
ARRIVES_S = 1.0  # what a device said has reached the controller that asked it by then
LEAVES_S = 0.01  # a command that was allowed has left by then
HEARD_S = 3.0  # a host that this controller heard all this time is alive to it
REACHED_S = (
    8.0  # longer than a round of probes and its answers: a host that every witness reached all this time is known to be
)


class _Intent(msgspec.Struct):
    kind: str


class _Incident(msgspec.Struct):
    """What the judge reads of an incident in the journal."""

    host: str
    plan: tuple[str, ...]
    mode: str = ""
    phase: str = Phase.OPEN
    pending: tuple[_Intent, ...] = ()
    blocked: str = ""
    release: str = ""


class _Document(msgspec.Struct):
    incident: _Incident


class Judge:
    """See the module. One judge for one world and its controllers; `violations` is what it found."""

    def __init__(self, world: World, store: MemoryStore) -> None:
        self.world = world
        self.store = store
        self.violations: list[Violation] = []
        self.beyond: list[Violation] = []  # rules that a documented limit broke: nothing was promised there
        self.told: list[tuple[float, Notification]] = []
        self.sent: list[tuple[float, str, Command]] = []
        self.confirmed: set[str] = set()  # silent hosts that a person confirmed while they were on: a documented limit
        self.planned: set[str] = set()  # hosts that were in planned work: their servers are their owners' business
        self._seen: set[tuple[str, str]] = set()
        self._doubles = 0
        self._ruined = 0
        self._armed = False
        self._paused = False
        self._maintenance: set[str] = set()
        self._ordered: dict[str, str] = {}  # hosts that a person wants off, and in which boot
        self._words: dict[
            tuple[str, str, str], tuple[Answer, float]
        ] = {}  # controller, host, witness: the last answer, and when it was asked
        self._off: dict[tuple[str, str], tuple[float, float]] = {}  # host, device: the last two times it read off
        self._on: dict[tuple[str, str], float] = {}  # and when it last read on
        self._opened: dict[str, float] = {}  # incident -> since when it is journalled: evidence for it is younger
        self._word_at: dict[str, float] = {}  # host -> when a person last said that it is off
        self._heard_since: dict[tuple[str, str], float] = {}
        self._heard_at: dict[tuple[str, str], float] = {}
        self._reached_since: dict[str, float] = {}
        self._answers_since: dict[
            tuple[str, str], float
        ] = {}  # controller, host: its remote answers, with nothing that is trusted
        self._evacuated: set[str] = set()  # hosts whose servers began to move and that did not come back yet
        self._released: set[str] = set()  # of those: what still moves was given up by a person
        self._switched_on: dict[str, int] = {}  # hosts that we switched on, and in which of their lives
        self._gate_open: set[str] = set()
        self._fences: dict[str, tuple[float, str]] = {}  # incident -> when and which host: the first off of each
        self._lost: dict[str, float] = {}  # server -> when the answer to its evacuation was found lost
        self._lease: Lease | None = None
        self._lease_at = 0.0
        self._open: dict[str, set[str]] = {}  # host -> its open incidents
        self._by_word: list[tuple[str, float]] = []  # hosts that were told to be off by a person's word, and when
        self._heralded: set[tuple[str, str]] = set()  # incident, and what was told of it
        self._deaths: dict[str, float] = {}  # host -> when it was last heard
        self._spoke: dict[str, float] = {}
        self._published: set[str] = set()
        store.on_commit(self._committed)

    def broken(self, rule: str, text: str) -> None:
        """Note a violation, once per rule and text."""
        if (rule, text) not in self._seen:
            self._seen.add((rule, text))
            self.violations.append(Violation(rule, self.world.now, text))
            self.world.log(f"VIOLATION {rule}: {text}")

    def _broken_at(self, hosts: Sequence[str], rule: str, text: str) -> None:
        """The same, but where a documented limit is in play at one of the hosts it is only noted as such."""
        if not any(self.limited(h) for h in hosts):
            self.broken(rule, text)
        elif (rule, text) not in self._seen:
            self._seen.add((rule, text))
            self.beyond.append(Violation(rule, self.world.now, text))
            self.world.log(f"a documented limit, {rule}: {text}")

    def limited(self, host: str) -> bool:
        """Whether a documented limit is in play: nothing proves anything about this host."""
        return host in self.world.lied or host in self.confirmed

    def _limit_ends(self, host: str) -> None:
        """Nothing is open of it any more, it is heard, and its devices say what is so."""
        row = self.world.hosts.get(host)
        if row is not None and row.speaks and not self.world.lying(host) and not self._open.get(host):
            self.world.lied.discard(host)
            self.confirmed.discard(host)

    # --- after every step ---

    def step(self) -> None:
        """S1, and what time alone shows."""
        if self.store.read_lease() is not self._lease:
            self._look_at_lease()
        nova = self.world.nova
        if not nova.double_history and not nova.ruined:
            return
        if len(nova.double_history) == self._doubles and len(nova.ruined) == self._ruined:
            return
        while self._doubles < len(nova.double_history):
            _, server, hosts = nova.double_history[self._doubles]
            self._doubles += 1
            name = nova.servers[server].name if server in nova.servers else server
            self._broken_at(hosts, "S1", f"{name} runs on {' and '.join(hosts)}")
        while self._ruined < len(nova.ruined):
            server = nova.ruined[self._ruined]
            self._ruined += 1
            self.broken("S1", f"{nova.servers[server].name} was evacuated a second time during the first")

    def _look_at_lease(self) -> Lease | None:
        """The lease as it is now; and when it was last taken or renewed."""
        lease = self.store.read_lease()
        if lease is not self._lease:
            self._lease, self._lease_at = lease, self.world.now
        return lease

    def pulse(self, name: str, controllers: Sequence[Process]) -> None:
        """Once per heartbeat interval: who cannot hear the host any more, and since when every other host reaches it."""
        world, now = self.world, self.world.now
        host = world.hosts[name]
        if host.speaks:
            self._deaths.pop(name, None)
            self._spoke[name] = now
            if self.limited(name):
                self._limit_ends(name)
        for c in controllers:
            if now < c.sick_until:
                self._deaths.pop(name, None)  # the bounds hold for a controller in good health
            key = (c.name, name)
            deaf = c.engine is None or c.paused or name not in c.policy.hosts
            if deaf or not host.speaks or not world.reach(c.name, name):
                self._heard_since.pop(key, None)
            if deaf or not host.answers or not world.reach(c.name, name) or world.astray(c.policy, name):
                self._answers_since.pop(key, None)
            elif host.refused:
                self._answers_since.setdefault(key, now)
        if host.speaks and not world.network.poor and self._all_reach(name):
            self._reached_since.setdefault(name, now)
        else:
            self._reached_since.pop(name, None)

    def heard(self, who: Owner, host: str) -> None:
        """A heartbeat reached a controller."""
        boot_id = self.world.hosts[host].boot_id
        if self._ordered.get(host, boot_id) != boot_id:
            del self._ordered[host]  # nobody ordered anything about this life
        self._heard_since.setdefault((who.name, host), self.world.now)
        self._heard_at[who.name, host] = self.world.now

    def _all_reach(self, name: str) -> bool:
        """Whether another host speaks, and all that do reach this one."""
        world = self.world
        others = (h.name for h in world.hosts.values() if h.name != name and h.speaks)
        if world.network.whole:
            return next(others, None) is not None
        words = [world.reach_over_any(o, name) for o in others]
        return bool(words) and all(words)

    # --- what is sent ---

    def sending(self, who: Owner, command: Command) -> None:
        """A command leaves."""
        now, host, kind = self.world.now, command.host, str(command.kind)
        self.sent.append((now, who.name, command))
        if kind not in DESTRUCTIVE:
            return
        lease = self._look_at_lease()  # it may have been renewed in this very moment
        if lease is None or lease.epoch != command.epoch or lease.owner != who.name:
            self.broken("S4", f"{who.name} sent {kind} {command.subject} in epoch {command.epoch}, without the lease")
        elif now > self._lease_at + lease.lease_s:
            self.broken("S8", f"{who.name} sent {kind} {command.subject} after its lease had ended")
        if not self._armed:
            self.broken("S6", f"{kind} {command.subject} was sent while disarmed")
        if self._paused:
            self.broken("S6", f"{kind} {command.subject} was sent while paused")
        if host in self._maintenance:
            self.broken("S6", f"{kind} {command.subject} was sent while {host} is in maintenance")
        lost_at = self._lost.get(command.subject, -1e9)
        api_max_s = self.world.policy.hosts[host].recovery.api_max_s
        if command.kind is CommandKind.EVACUATE and now - lost_at < api_max_s:
            self.broken("S9", f"{command.subject} is evacuated again {now - lost_at:.1f} s after an answer was lost")
        if command.kind in (CommandKind.FORCE_DOWN, CommandKind.EVACUATE):
            self._aged(who, command)
        if command.kind is CommandKind.FENCE:
            self._fencing(who, command)
        alive = [a for a in self.world.attempts if a.alive and a.host == host and a.controller == who.name]
        if alive and command.kind in (CommandKind.FENCE, CommandKind.POWER_ON, CommandKind.CLEAR_FORCE_DOWN):
            self.broken("S4", f"{kind} {host} was sent while an off attempt on it was alive")

    def read(self, host: str, device: str, power: Power) -> None:
        """What a look at a device for a controller found."""
        if power is Power.OFF:
            self._off[host, device] = (self._off.get((host, device), NEVER)[1], self.world.now)
        if power is Power.ON:
            self._on[host, device] = self.world.now

    def _aged(self, who: Owner, command: Command) -> None:
        """Of some level every device was read off twice in this incident and since a heartbeat was heard, and lately (unless the level is
        declared trusted), or a person said so."""
        host = command.host
        since = max(self._opened.get(command.incident, math.inf), self._heard_at.get((who.name, host), 0.0))
        policies = (self.world.policy, who.policy)  # before a reload and after it
        rules = [policy.hosts[host].fencing for policy in policies if host in policy.hosts]
        if self._word_at.get(host, -1.0) < since and not any(self._read_off(host, each, since) for each in rules):
            row = self.world.nova.servers.get(command.subject)
            what = f"Nova is told that {host} is down" if command.kind is CommandKind.FORCE_DOWN else ""
            what = what or f"{row.name if row is not None else command.subject} is evacuated off {host}"
            self.broken("S2", f"{what}, no level of which was read off twice lately")

    def _read_off(self, host: str, fencing: Fencing, since: float) -> bool:
        """Whether a level was, and it still counts."""
        young = self.world.now - fencing.evidence_max_age_s - LEAVES_S
        for number, devices in enumerate(fencing.levels):
            least = since if number in fencing.trusted_levels else young
            if devices and all(self._off_twice(host, device, since, least) for device in devices):
                return True
        return False

    def _off_twice(self, host: str, device: str, since: float, least: float) -> bool:
        """Whether it read off twice after `since`, not before `least` the second time, and nothing else after that: but for an "on" that may
        still be on its way to whoever asked."""
        first, last = self._off.get((host, device), NEVER)
        on = self._on.get((host, device), -1.0)
        known = self.world.now - on > ARRIVES_S
        return first >= since and last >= least and not (known and on >= first)

    def _fencing(self, who: Owner, command: Command) -> None:
        now, name = self.world.now, command.host
        host = self.world.hosts[name]
        if name in self._ordered or name in self._evacuated:
            return  # a person wants it, or servers move already: S1 outranks S5
        if not host.heard:
            self.broken("S5", f"{name} was never seen alive and is fenced")
        heard = self._heard_since.get((who.name, name))
        if heard is not None and now - heard >= HEARD_S:
            rule, again = ("S2b", " again") if self._opened.get(command.incident, now) < heard else ("S5", "")
            self.broken(rule, f"{name} is fenced although {who.name} has heard it{again} for {now - heard:.0f} s")
        answers = self._answers_since.get((who.name, name))
        if answers is not None and now - answers >= HEARD_S:
            self.broken("S5", f"{name} is fenced although its remote has answered {who.name} for {now - answers:.0f} s")
        self._said_otherwise(who, name)
        if host.speaks and self.world.astray(who.policy, name):
            self.broken("S5", f"{name} lives and is fenced: it was looked for where it is not")
        # whatever this controller hears: where it can ask nobody, nobody denied the host
        reached = self._reached_since.get(name)
        asks = any(p.hosts[name].detection.witnesses_min for p in (self.world.policy, who.policy) if name in p.hosts)
        if reached is not None and now - reached >= REACHED_S and asks:
            self.broken("S5", f"{name} is fenced although every other host has reached it for {now - reached:.0f} s")
        self._storm(command)

    def answered(self, who: Owner, answered: ProbeAnswered, asked_at: float) -> None:
        """An answer of a witness reached a controller."""
        self._words[who.name, answered.host, answered.witness] = (answered.answer, asked_at)

    def _said_otherwise(self, who: Owner, name: str) -> None:
        """A witness that got a signed answer in the last round speaks for the host, whatever the others say."""
        lately = self.world.now - self.world.policy.hosts[name].detection.probe_interval_s
        for (controller, host, witness), (answer, asked_at) in self._words.items():
            if (controller, host, answer) != (who.name, name, Answer.SIGNED) or asked_at <= lately:
                continue
            if witness == who.name or (self.world.hosts[witness].speaks and self.world.reach(who.name, witness)):
                ago_s = self.world.now - asked_at
                self.broken("S5", f"{name} is fenced although {witness} got its signed answer {ago_s:.1f} s ago")

    def _storm(self, command: Command) -> None:
        now, storm = self.world.now, self.world.policy.storm
        self._fences.setdefault(command.incident, (now, command.host))
        recent = {h for at, h in self._fences.values() if at > now - storm.window_s} | {command.host}
        limit = min(storm.max_hosts, max(1, int(len(self.world.hosts) * storm.max_share)))
        if len(recent) > limit:
            self.broken("S6", f"{len(recent)} hosts are fenced within {storm.window_s:.0f} s, the limit is {limit}")
        domain = self.world.hosts[command.host].domain
        alike = [h for h in recent if self.world.hosts[h].domain == domain]
        if domain and len(alike) > max(1, storm.domain_max_hosts):
            self.broken("S6", f"{len(alike)} hosts of {domain} are fenced, the limit is {storm.domain_max_hosts}")

    def switched(self, command: Command, actual: str, *, on: bool) -> None:
        """A power command reaches a device, which switches the host `actual`."""
        if actual != command.host and not self.limited(command.host):
            self.broken("S5", f"{actual} is switched {'on' if on else 'off'} instead of {command.host}")
        if on and any(a.alive and a.host == command.host for a in self.world.attempts):
            self.broken("S4", f"{command.host} is switched on while an off attempt is alive")
        if on and actual == command.host:
            left = self._unsettled(actual)
            if left and actual not in self._released:
                self.broken("S3", f"{actual} is switched on while {left} is on its way")
            row = self.world.hosts[actual]
            self._switched_on[actual] = row.life + (not row.powered)

    def before_nova(self, command: Command) -> None:
        """A request reaches Nova: what is true at that moment?"""
        if command.kind is not CommandKind.EVACUATE or self.world.weather.stops_all:
            return
        nova, server, source = self.world.nova, command.subject, command.host
        row = nova.servers.get(server)
        where = sorted(nova.runs.get(server, ()))
        name = row.name if row else server
        recovery = self.world.policy.hosts[source].recovery
        if row is not None and not recovery.select.all and recovery.select.server_tag not in row.tags:
            self.broken("S9", f"{name} is evacuated, and nobody chose it")
        agreed = recovery.shared_storage or recovery.image_backed_rebuild or (row and "recover-from-image" in row.tags)
        if row is not None and not row.volume and not agreed:
            self.broken("S9", f"{name} is evacuated, and its disk stays behind")
        if where:
            self._broken_at(where, "S2", f"{name} is evacuated off {source} while it runs on {', '.join(where)}")
        if self._long_on(source):
            self.broken("S2", f"{name} is evacuated off {source}, which has been on for long")
        if not nova.hosts[source].forced_down:
            self.broken("S3", f"{name} is evacuated off {source} before Nova was told that it is down")
        if source in self._gate_open and not self.limited(source):
            self.broken("S3", f"{name} is evacuated off {source} after its gate was opened")
        if self._switched_on.get(source) == self.world.hosts[source].life:
            self.broken("S3", f"{name} is evacuated off {source}, which was switched on for its return")
        if any(m.server == server and self.world.nova.may_land(m) for m in nova.migrations):
            self.broken("S1", f"{name} is evacuated a second time during the first")
        self._evacuated.add(source)

    def after_nova(self, command: Command, outcome: Outcome, learned_at: float) -> None:
        """Nova answered, or not; the controller learns it at `learned_at`."""
        error = outcome.error
        if command.kind is CommandKind.EVACUATE and outcome.status is Status.LOST and not self._carried_out(command):
            self._lost[command.subject] = learned_at
        if command.kind is CommandKind.CLEAR_FORCE_DOWN:
            if "refused (400)" in error:
                self.broken("S3", f"forced_down of {command.host} was to be cleared before its nova-compute cleaned up")
            elif not error and self._unsettled(command.host):
                self.broken("S3", f"forced_down of {command.host} is cleared while servers of it move")
            if not error:
                self._evacuated.discard(command.host)
        if command.kind is CommandKind.FORCE_DOWN and not error:
            self._gate_open.discard(command.host)
            if self._long_on(command.host):
                self.broken("S3", f"Nova was told that {command.host} is down while it has been on for long")

    def _carried_out(self, command: Command) -> bool:
        """Whether Nova began what it was just asked: then its record shows it to everyone, and nothing is still on its way."""
        calls = self.world.nova.evacuate_calls
        return bool(calls) and calls[-1] == (self.world.now, command.subject)

    def _long_on(self, name: str) -> bool:
        """Whether the host is on and no reading that still counts can say otherwise. A host that came back moments ago is off in the
        youngest reading, and its guests do not run before its gate opens."""
        host = self.world.hosts[name]
        grace = self.world.policy.hosts[name].fencing.evidence_max_age_s + self.world.boot_s + HEARD_S
        return host.powered and self.world.now - host.powered_at > grace and not self.limited(name)

    def gate_opened(self, host: str) -> None:
        """nova-compute may start."""
        self._gate_open.add(host)
        left = self._unsettled(host)
        if left:
            self.broken("S3", f"the gate of {host} opened while {left} is on its way")

    def _unsettled(self, host: str) -> str:
        """A server off the host whose newest evacuation may still start it somewhere."""
        nova = self.world.nova
        newest = {m.server: m for m in nova.migrations if m.kind == EVACUATION and m.source == host}
        return next((nova.servers[m.server].name for m in newest.values() if self.world.nova.may_land(m)), "")

    # --- orders ---

    def ordered(self, order: Operator) -> None:
        """An order was journalled: from now on it holds."""
        match order.order:
            case Order.ARM:
                self._armed = True
            case Order.DISARM | Order.FOREIGN:
                self._armed = False
            case Order.PAUSE:
                self._paused = True
            case Order.UNPAUSE:
                self._paused = False
            case Order.MAINTENANCE_ON:
                self._maintenance.add(order.host)
                self.planned.add(order.host)
            case Order.MAINTENANCE_OFF:
                self._maintenance.discard(order.host)
            case Order.FENCE:
                self._ordered[order.host] = self.world.hosts[order.host].boot_id
            case Order.RELEASE:
                self._ordered.pop(order.host, None)
                self._released.add(order.host)
            case Order.CONFIRM_FENCED:
                host = self.world.hosts[order.host]
                self._word_at[order.host] = self.world.now
                heard = host.speaks and self.world.reach(self.world.policy.controller, order.host)
                if host.powered and not heard:
                    self.confirmed.add(order.host)
            case _:
                pass

    # --- what is told ---

    def published(self, note: Notification) -> None:
        """The broker has it."""
        self._published.add(note.id)

    # --- L1 ---

    def died(self, host: str) -> None:
        """A host died a death that nothing hides: armed, alone, with a device that works. L1 holds for it, from its last heartbeat on."""
        self._deaths[host] = self._spoke.get(host, self.world.now)

    def _committed(self, moment: Moment, number: int, writes: Sequence[Put | Delete]) -> None:
        if moment is not Moment.AFTER:
            return
        for write in writes:
            if isinstance(write, Put) and write.kind == "outbox":
                self._heard_of(msgspec.json.decode(write.body, type=Notification))
        for write in writes:
            if isinstance(write, Put) and write.kind == "incident":
                self._journalled(write.key, msgspec.json.decode(write.body, type=_Document).incident)

    def _journalled(self, key: str, incident: _Incident) -> None:
        """From now on this counts, whatever is told of it."""
        host, intents = incident.host, {c.kind for c in incident.pending}
        if key not in self._opened:
            self._opened[key] = self.world.now
            self._told_of(key, incident, "incident.opened")
        if incident.blocked and incident.release:
            self._told_of(key, incident, "incident.blocked")
        # S2b counts from the intent: whoever leads next cannot know whether it was sent
        commits = CommandKind.EVACUATE if incident.mode == Mode.AUTO else CommandKind.FORCE_DOWN
        if commits in intents:
            self._evacuated.add(host)
        if incident.phase == Phase.OPEN:
            self._open.setdefault(host, set()).add(key)
            return
        self._told_of(key, incident, "incident.closed")
        self._open.get(host, set()).discard(key)
        self._ordered.pop(host, None)
        self._evacuated.discard(host)
        self._released.discard(host)
        self._limit_ends(host)

    def _told_of(self, key: str, incident: _Incident, event: str) -> None:
        """What happens to an incident is told in the very commit that journals it, but for a host that only waits at its gate."""
        if incident.plan != GATE and (key, event) not in self._heralded:
            self.broken("TOLD", f"nobody is told {event} of {incident.host}")

    def _heard_of(self, note: Notification) -> None:
        self.told.append((self.world.now, note))
        data = note.payload.get("ha_agent_object.data")
        if not isinstance(data, dict):
            return
        host = str(data.get("host", ""))
        incident, level = str(data.get("incident", "")), int(str(data.get("level", 0)))
        self._heralded.add((incident, note.event_type))
        if note.event_type == "host.fence.end":
            self._proven(host, level, self._opened.get(incident, math.inf))
        if host not in self._deaths:
            return
        alarm_s, evidence_s = host_bounds(self.world.policy.hosts[host])
        silent = self.world.now - self._deaths[host]
        if note.event_type == "incident.opened" and silent > alarm_s:
            self.broken("L1", f"{host}: {silent:.1f} s from silence to alarm, the bound is {alarm_s:.1f} s")
        if note.event_type == "host.fence.end":
            if silent > evidence_s[level]:
                text = f"{silent:.1f} s from silence to evidence by level {level + 1}, the bound is {evidence_s[level]:.1f} s"
                self.broken("L1", f"{host}: {text}")
            del self._deaths[host]

    def _proven(self, host: str, level: int, since: float) -> None:
        """A proof is told: by a level, whose devices all read off twice, or (a level below 0) by a person's word."""
        if level < 0:
            self._by_word.append((host, self.world.now))
        elif not all(
            self._off_twice(host, d, since, since) for d in self.world.policy.hosts[host].fencing.levels[level]
        ):
            self.broken("TOLD", f"{host} is told to be proven off, and level {level + 1} was not read off twice")

    def late(self) -> None:
        """At the end: deaths that nobody noticed, and what nobody was told."""
        untold = [n for at, n in self.told if n.id not in self._published and self.world.now - at > TOLD_S]
        if untold and not self.world.broker:
            self.broken(
                "TOLD", f"{len(untold)} notifications never reached the bus, the first is {untold[0].event_type}"
            )
        for row in self.world.hosts.values():
            waits = [e for e in row.events.values() if self.world.now - e.at > TOLD_S]
            if waits and row.speaks and self.world.reach(self.world.policy.controller, row.name):
                self.broken("TOLD", f"no controller took what {row.name} has to tell of a guest: {waits[0].fault}")
        for host, at in self._by_word:
            if self._word_at.get(host, -1.0) < at:
                self.broken("TOLD", f"{host} is told to be off by a person's word, and nobody gave it")
        for host, at in self._deaths.items():
            if self.world.now - at > 120.0:
                self.broken("L1", f"{host} died and was never proven off")
