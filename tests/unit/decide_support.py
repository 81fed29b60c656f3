"""Incidents in the middle of their plans, and what one event does to them."""

from __future__ import annotations

import msgspec

from ha_agent.decide import Decision, decide
from ha_agent.model import (
    AnyEvent,
    Command,
    CommandKind,
    Evidence,
    EvidenceKind,
    Finished,
    Fleet,
    HostRecord,
    Incident,
    Kind,
    Migration,
    Mode,
    Now,
    Outcome,
    Power,
    Reading,
    ServerProgress,
    ServerStage,
    State,
    Status,
    Step,
    Verdict,
)
from ha_agent.plans import RECOVER
from ha_agent.policy import Fencing, HostPolicy, Policy, Recovery, Select

NOW = 10_000.0
API_S = 60.0
POLICY = Policy(
    hosts={
        h: HostPolicy(
            name=h,
            fencing=Fencing(levels=(("bmc",), ("pdu",)), evidence_max_age_s=30.0),
            recovery=Recovery(api_max_s=API_S, shared_storage=True, select=Select(all=True)),
        )
        for h in ("h1", "h2", "h3")
    }
)


def off(at: float, device: str = "bmc") -> Reading:
    return Reading(device=device, power=Power.OFF, at=at)


def proof(at: float = NOW - 1, level: int = 0, device: str = "bmc") -> Evidence:
    return Evidence(
        kind=EvidenceKind.DEVICES, at=at, level=level, readings=(off(at - 1, device), off(at, device)), by="devices"
    )


def incident(step: Step, plan: tuple[Step, ...] = RECOVER, **changes: object) -> Incident:
    base = Incident(
        id="i1",
        kind=Kind.HOST,
        host="h1",
        subject="h1",
        mode=Mode.AUTO,
        plan=plan,
        position=plan.index(step),
        opened_at=NOW - 100,
        opened_wall=0.0,
        verdict=Verdict.DOWN,
        verdict_at=NOW,
        reason="silent",
        boot_id="old",
        evidence_since=NOW - 100,
        read_at=NOW,
    )
    return msgspec.structs.replace(base, **changes)


def evacuating(*servers: ServerProgress, **changes: object) -> Incident:
    """Servers move, with fresh evidence."""
    fields: dict[str, object] = {
        "evidence": proof(),
        "committed_at": NOW - 50,
        "forced": True,
        "announced": True,
        "surveyed": True,
        "settle_by": NOW + 1000,
        "window": 2.0,
        "servers": servers,
        "poll_at": NOW + 2,
    }
    return incident(Step.EVACUATE, RECOVER, **{**fields, **changes})


def asked(incident: Incident, kind: CommandKind, **fields: object) -> Incident:
    """With a command that waits for its answer, of the id `asked`."""
    command = msgspec.structs.replace(
        Command(id="asked", incident="i1", step=incident.step, kind=kind, subject="h1", host="h1", epoch=1, attempt=1),
        **fields,
    )
    return msgspec.structs.replace(incident, pending=(command,))


def server(stage: ServerStage, name: str = "s1", **fields: object) -> ServerProgress:
    """Its newest reboot was looked up: there was none."""
    return ServerProgress(id=name, name=name, prior="ACTIVE", stage=stage, last_reboot="").with_(**fields)


def turn(
    incident: Incident,
    event: AnyEvent,
    at: float = NOW,
    others: tuple[Incident, ...] = (),
    rules: Policy = POLICY,
) -> Decision:
    state = State(
        fleet=Fleet(armed=True, epoch=1),
        hosts={h: HostRecord(host=h, first_seen_wall=1.0, boot_id="old") for h in POLICY.hosts},
        incidents={i.id: i for i in (incident, *others)},
    )
    return decide(state, event, rules, Now(at=at))


def answer(incident: Incident, at: float = NOW, others: tuple[Incident, ...] = (), **fields: object) -> Decision:
    """The command `asked` ends."""
    outcome = msgspec.structs.replace(Outcome(command="asked", status=Status.OK), **fields)
    return turn(incident, Finished(outcome=outcome), at, others)


def after(decision: Decision) -> Incident:
    return decision.state.incidents["i1"]


def sent(decision: Decision) -> list[CommandKind]:
    return [c.kind for c in decision.commands]


def evacuation(status: str, number: int = 7, dest: str = "h2") -> Migration:
    return Migration(id=number, server="s1", kind="evacuation", status=status, source="h1", dest=dest)


def on(event: AnyEvent, *incidents: Incident, at: float = NOW, rules: Policy = POLICY, **record: object) -> Decision:
    """What an event does where these incidents exist, or none. `record`: what is kept of h1, beside its being seen with boot `old`."""
    h1 = msgspec.structs.replace(HostRecord(host="h1", first_seen_wall=1.0, boot_id="old"), **record)
    others = {h: HostRecord(host=h, first_seen_wall=1.0, boot_id="old") for h in POLICY.hosts}
    state = State(
        fleet=Fleet(armed=True, epoch=1),
        hosts={**others, "h1": h1},
        incidents={i.id: i for i in incidents},
    )
    return decide(state, event, rules, Now(at=at, wall=at))


def with_recovery(**changes: object) -> Policy:
    """The policy with another recovery of every host."""
    hosts = {
        name: msgspec.structs.replace(h, recovery=msgspec.structs.replace(h.recovery, **changes))
        for name, h in POLICY.hosts.items()
    }
    return msgspec.structs.replace(POLICY, hosts=hosts)


def told(decision: Decision, event_type: str) -> list[dict[str, object]]:
    """The notifications of a type."""
    return [t.data for t in decision.told if t.event_type == event_type]


def lines(decision: Decision) -> str:
    return "\n".join(decision.lines)
