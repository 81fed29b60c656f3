"""One call of `decide`: the state being changed, and all that comes out of it. It lives for that one call only."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import msgspec

from ha_agent import guards
from ha_agent.model import (
    Command,
    CommandKind,
    Entry,
    Event,
    Evidence,
    Fleet,
    HostRecord,
    Incident,
    Kind,
    Mode,
    Now,
    Phase,
    ServerProgress,
    ServerStage,
    State,
    Step,
    Value,
    Verdict,
)
from ha_agent.plans import GATE
from ha_agent.policy import HostPolicy, Policy

FAR = math.inf  # "never", as a time
LONG_AGO_S = 1e6  # a confirmation of this age confirms nothing: older than any age that counts


class Told(Value, frozen=True, kw_only=True):
    """A notification to be: the engine gives it an id."""

    event_type: str
    data: dict[str, Any]


class Changed(Value, frozen=True, kw_only=True):
    """Names of hosts and ids of incidents that may differ: the others need not be compared, of which there may be thousands."""

    hosts: frozenset[str] = frozenset()
    incidents: frozenset[str] = frozenset()


class Decision(Value, frozen=True, kw_only=True):
    """What `decide` answers: the new state, what to do, what to tell, and one log line per change. `changed`: None where it is not known."""

    state: State
    changed: Changed | None = None
    commands: tuple[Command, ...] = ()
    told: tuple[Told, ...] = ()
    lines: tuple[str, ...] = ()


class Turn:
    """The one place where a state changes. Every change of an incident goes through `put`."""

    def __init__(self, state: State, policy: Policy, now: Now) -> None:
        self.fleet: Fleet = state.fleet
        self.hosts: dict[str, HostRecord] = state.hosts  # copied when the first one changes: there may be thousands
        self._before = state.hosts
        self.changed: set[str] = set()  # incidents
        self._changed_hosts: set[str] = set()
        self.incidents: dict[str, Incident] = dict(state.incidents)
        self.closed: list[str] = list(state.closed)
        self.policy = policy
        self.now = now
        self.commands: list[Command] = []
        self.told: list[Told] = []
        self.lines: list[str] = []
        self.wakes: dict[str, float] = {}
        self._places: dict[str, dict[str, int]] = {}  # by incident: where each of its servers is

    # --- reading ---

    @property
    def state(self) -> State:
        """The state as it is now, in the middle of the turn."""
        return State(fleet=self.fleet, hosts=self.hosts, incidents=self.incidents, closed=tuple(self.closed))

    def host_policy(self, host: str) -> HostPolicy:
        """The host's policy; a host that left the inventory gets the defaults (and nothing destructive: guards.may_act)."""
        return self.policy.hosts.get(host) or HostPolicy(name=host)

    def open_for(self, host: str) -> Incident | None:
        """The open incident of a host."""
        return next(
            (i for i in self.incidents.values() if i.host == host and i.kind is Kind.HOST and i.phase is Phase.OPEN),
            None,
        )

    def record(self, host: str) -> HostRecord:
        """What is kept of the host."""
        return self.hosts.get(host) or HostRecord(host=host)

    # --- changing ---

    def put(self, incident: Incident, line: str = "", actor: str = "", **changes: Any) -> Incident:
        """The one setter. `line`: the reason, for the log and the incident's history."""
        if changes or line:
            self.changed.add(incident.id)
        if changes:
            incident = msgspec.structs.replace(incident, **changes)
        if line:
            entry = Entry(at=self.now.at, wall=self.now.wall, text=line, step=incident.step, actor=actor)
            history = (*incident.history, entry)
            surplus = max(0, len(history) - self.policy.history_max)
            incident = msgspec.structs.replace(
                incident, history=history[surplus:], dropped_history=incident.dropped_history + surplus
            )
            self.lines.append(f"{incident.subject} [{incident.step}] {line}")
        self.incidents[incident.id] = incident
        return incident

    def put_host(self, host: str, **changes: Any) -> None:
        """Change what is kept of a host."""
        if self.hosts is self._before:
            self.hosts = dict(self.hosts)
        self._changed_hosts.add(host)
        self.hosts[host] = msgspec.structs.replace(self.record(host), **changes)

    def found(self, host: str, place: str, **changes: Any) -> None:
        """It was heard or reached at that place: who reached it at another one may not speak of it any more (S5)."""
        if self.record(host).place != place:
            changes = {"witnesses": (), "witnesses_over": {}, **changes}
        self.put_host(host, place=place, **changes)

    def put_fleet(self, **changes: Any) -> None:
        """Change what holds for all hosts."""
        self.fleet = msgspec.structs.replace(self.fleet, **changes)

    def put_server(self, incident: Incident, server: ServerProgress, line: str = "", **changes: Any) -> Incident:
        """Change one server of an incident."""
        servers, at = incident.servers, self._place(incident, server.id)
        if at is not None:
            servers = (*servers[:at], msgspec.structs.replace(server, **changes), *servers[at + 1 :])
        return self.put(incident, line, servers=servers)

    def server(self, incident: Incident, server: str) -> ServerProgress:
        """One server of an incident, as it is now. Raises KeyError."""
        at = self._place(incident, server)
        if at is None:
            raise KeyError(server)
        return incident.servers[at]

    def _place(self, incident: Incident, server: str) -> int | None:
        """Which of its servers that is. A list of it is made once in a turn: an answer may be about each of thousands."""
        servers, places = incident.servers, self._places.get(incident.id, {})
        at = places.get(server)
        if at is None or at >= len(servers) or servers[at].id != server:
            places = self._places[incident.id] = {s.id: n for n, s in enumerate(servers)}
            at = places.get(server)
        return at

    def log(self, line: str) -> None:
        """A line that belongs to no incident."""
        self.lines.append(line)

    def tell(self, event_type: str, incident: Incident | None = None, **data: Any) -> None:
        """A notification, in the same transaction as the change that it reports."""
        if incident is not None:
            if incident.plan == GATE:
                return
            data = {
                "incident": incident.id,
                "host": incident.host,
                "mode": str(incident.mode),
                "verdict": str(incident.verdict),
                "reason": incident.reason,
                **data,
            }
        self.told.append(Told(event_type=event_type, data=data))

    def tell_host(self, event_type: str, host: str, verdict: Verdict, reason: str, **data: Any) -> None:
        """A notification on a host that has no incident."""
        mode = str(self.host_policy(host).recovery.mode)
        self.tell(event_type, host=host, mode=mode, verdict=str(verdict), reason=reason, **data)

    def tell_controller(self, event_type: str, actor: str = "", reason: str = "") -> None:
        """A notification on this controller."""
        self.tell(
            event_type,
            controller=self.policy.controller,
            epoch=self.fleet.epoch,
            armed=self.fleet.armed,
            actor=actor,
            reason=reason,
        )

    def mark(self, incident: Incident, stage: str) -> Incident:
        """Note when a stage was first reached."""
        if stage in incident.stage_at:
            return incident
        return self.put(incident, stage_at={**incident.stage_at, stage: self.now.at})

    def wake(self, incident: Incident, at: float) -> None:
        """Look at the incident again at this time, or earlier."""
        self.wakes[incident.id] = min(at, self.wakes.get(incident.id, FAR))

    def send(self, incident: Incident, kind: CommandKind, subject: str = "", **fields: Any) -> tuple[Incident, Command]:
        """Journal an intent. The command goes out after the journal is written."""
        attempt = incident.attempt + 1
        subject = subject or incident.host
        seed = f"{incident.id}|{incident.step}|{kind}|{subject}|{attempt}"
        fields.setdefault("host", incident.host)
        command = Command(
            id=hashlib.sha256(seed.encode()).hexdigest()[:32],
            incident=incident.id,
            step=incident.step,
            kind=kind,
            subject=subject,
            epoch=self.fleet.epoch,
            attempt=attempt,
            **fields,
        )
        self.commands.append(command)
        return self.put(incident, attempt=attempt, pending=(*incident.pending, command)), command

    def pending(self, incident: Incident, *kinds: CommandKind) -> tuple[Command, ...]:
        """The incident's commands of these kinds that have not ended."""
        return tuple(c for c in incident.pending if c.kind in kinds)

    # --- moving along ---

    def next_step(self, incident: Incident, line: str) -> Incident:
        """The step is done. Past the last one the incident is closed."""
        if incident.position + 1 >= len(incident.plan):
            return self.close(incident, line)
        incident = self.unblock(incident)
        return self.put(incident, line, position=incident.position + 1, next_at=0.0, poll_at=0.0, waiting="", level=0)

    def go_to(self, incident: Incident, step: Step, line: str) -> Incident:
        """Back to a step of the plan."""
        incident = self.unblock(incident)
        return self.put(incident, line, position=incident.plan.index(step), next_at=0.0, waiting="", level=0)

    def replan(
        self,
        incident: Incident,
        plan: tuple[Step, ...],
        verdict: Verdict,
        reason: str,
        boot_id: str = "",
        *,
        same_life: bool = False,
    ) -> Incident:
        """Another verdict before anything was committed: another plan, and everything starts anew, evidence first of all (S2). Of the
        servers only what they were before is remembered, and in the `same_life` of the host which of them run again. `boot_id`: of the life
        that has ended now, where that is another one."""
        incident = self.unblock(incident)
        return self.put(
            incident,
            f"now {verdict}: {reason}",
            plan=plan,
            restarting=incident.restarting or Step.RESTART in plan,
            position=0,
            verdict=verdict,
            reason=reason,
            next_at=0.0,
            level=0,
            waiting="",
            evidence=None,
            evidence_since=self.now.at,
            crosschecked=(),
            announced=False,
            surveyed=False,
            settle_by=None,
            poll_at=0.0,
            window=0.0,
            rounds=0,
            gate_ok=False,
            clean=False,
            ordered_by=incident.ordered_by if Step.FENCE in plan else "",
            withdrawn="",
            cleared_boot_id="",
            boot_id=boot_id or incident.boot_id,
            new_boot_id="" if boot_id else incident.new_boot_id,
            beat_at=None if boot_id else incident.beat_at,
            servers=tuple(
                s
                if same_life and s.stage is ServerStage.VERIFIED
                else ServerProgress(id=s.id, name=s.name, project_id=s.project_id, tags=s.tags, prior=s.prior)
                for s in incident.servers
            ),
        )

    def wait(self, incident: Incident, waiting: str) -> Incident:
        """Say what the incident waits for; a line is logged when that changes."""
        if incident.waiting == waiting:
            return incident
        return self.put(incident, f"waits: {waiting}" if waiting else "", waiting=waiting)

    def block(self, incident: Incident, refusal: guards.Refusal) -> Incident:
        """Blocked, never failed: named, told once, tried again."""
        if incident.blocked == refusal.reason and incident.release == refusal.release:
            return incident
        told_before = bool(incident.blocked) and incident.release == refusal.release
        incident = self.put(
            incident,
            f"blocked: {refusal.reason}" + (f" (release: {refusal.release})" if refusal.release else ""),
            blocked=refusal.reason,
            release=refusal.release,
        )
        if refusal.release and not told_before:
            self.tell(
                "incident.blocked", incident, step=str(incident.step), blocked=refusal.reason, release=refusal.release
            )
        return incident

    def unblock(self, incident: Incident) -> Incident:
        """The block is gone."""
        if not incident.blocked:
            return incident
        return self.put(incident, "no longer blocked", blocked="", release="")

    def close(self, incident: Incident, line: str) -> Incident:
        """The end. Answers to commands that are still under way are dropped from here on."""
        incident = self.put(
            incident,
            f"closed: {line}",
            phase=Phase.CLOSED,
            closed_wall=self.now.wall,
            pending=(),
            blocked="",
            release="",
            waiting="",
        )
        self.closed.append(incident.id)
        self.tell("incident.closed", incident, outcome=line, servers=summary(incident))
        return incident

    def open(self, *, new_id: str, event: Event, host: str, plan: tuple[Step, ...], **fields: Any) -> Incident:
        """A new incident."""
        if not new_id:
            raise ValueError(f"{type(event).__name__} opened an incident but carries no id")
        fields.setdefault("kind", Kind.HOST)
        fields.setdefault("subject", host)
        fields.setdefault("mode", Mode.AUTO)
        incident = Incident(
            id=new_id,
            host=host,
            plan=plan,
            restarting=Step.RESTART in plan,
            opened_at=self.now.at,
            opened_wall=self.now.wall,
            verdict_at=self.now.at,
            evidence_since=self.now.at,
            **fields,
        )
        guest = incident.kind is Kind.GUEST
        what = f"guest of {host}: {incident.reason}" if guest else f"{incident.verdict}: {incident.reason}"
        incident = self.put(incident, f"opened: {what}")
        self.tell("incident.opened", incident, plan=[str(s) for s in plan], last_seen_s=_ago(self.now, incident))
        return incident

    def decision(self) -> Decision:
        """The end of the turn."""
        for key, at in self.wakes.items():
            incident = self.incidents[key]
            when = None if at >= FAR else at
            if incident.wake_at != when:
                self.incidents[key] = msgspec.structs.replace(incident, wake_at=when)
                self.changed.add(key)
        return Decision(
            state=self.state,
            changed=Changed(hosts=frozenset(self._changed_hosts), incidents=frozenset(self.changed)),
            commands=tuple(self.commands),
            told=tuple(self.told),
            lines=tuple(self.lines),
        )


def _ago(now: Now, incident: Incident) -> float | None:
    return None if incident.last_seen_at is None else round(now.at - incident.last_seen_at, 3)


def summary(incident: Incident) -> list[dict[str, Any]]:
    """The servers of an incident, for a payload."""
    return [
        {
            "id": s.id,
            "name": s.name,
            "project_id": s.project_id,
            "tags": list(s.tags),
            "prior": s.prior,
            "stage": str(s.stage),
            "reason": s.reason,
            "dest": s.dest,
        }
        for s in incident.servers
    ]


def evidence_data(evidence: Evidence | None) -> dict[str, Any] | None:
    """Evidence, for a payload."""
    if evidence is None:
        return None
    return {
        "kind": str(evidence.kind),
        "level": evidence.level,
        "by": evidence.by,
        "wall": evidence.wall,
        "readings": [
            {"device": r.device, "power": str(r.power), "wall": r.wall, "machine": r.machine, "error": r.error}
            for r in evidence.readings
        ],
    }
