"""What the controller's answer about a host proves. Pure: one look in, one sentence out."""

from __future__ import annotations

from ha_agent.api.facade import DeviceHealth
from ha_agent.api.views import HostDetail
from ha_agent.decide.fence import describe
from ha_agent.model import Evidence, EvidenceKind, Incident, Kind, Phase, Power, Step, Verdict


def open_incident(detail: HostDetail) -> Incident | None:
    """Of the host itself; those of single guests do not count."""
    return next((i for i in detail.incidents if i.phase is Phase.OPEN and i.kind is Kind.HOST), None)


def coming_back(incident: Incident) -> bool:
    """Whether it was switched on again, or was heard in a new life."""
    return incident.powered_on or bool(incident.new_boot_id)


def not_off(detail: HostDetail, asked_at: float) -> str:
    """Why it is not proven that the host is off, or was since `asked_at` (the controller's time); empty: it is. Needed are evidence in
    an open incident, Nova's forced_down, read back, and a look at the devices since `asked_at` (what does not age holds until the
    host is brought back)."""
    incident = open_incident(detail)
    if detail.now < asked_at:
        return "the controller's machine was restarted meanwhile"
    if incident is None:
        return f"it has no open incident, it is {detail.row.view.verdict}"
    evidence = incident.evidence
    if evidence is None or Step.FORCE_DOWN not in incident.plan:
        return _what_it_waits_for(incident)
    if incident.position <= incident.plan.index(Step.FORCE_DOWN) or not incident.forced:
        return f"off is proven, Nova does not know it yet: {_what_it_waits_for(incident)}"
    if evidence.at >= asked_at:
        return ""
    if coming_back(incident):
        return "it was off before, and is being brought back"
    if evidence.kind is not EvidenceKind.DEVICES:
        return "" if detail.row.view.verdict is not Verdict.ALIVE else "it was confirmed off, but it sends heartbeats"
    if _reads_off(evidence, detail, asked_at):
        return ""
    return f"off was proven {detail.now - evidence.at:.0f} s ago, its devices are to be looked at again"


def describe_off(detail: HostDetail) -> str:
    """The proof, in words."""
    incident = open_incident(detail)
    if incident is None or incident.evidence is None:
        return "not proven"
    return f"{describe(incident.evidence)}; forced_down is set (incident {incident.id})"


def not_clean(detail: HostDetail) -> str:
    """Why the host may not be used again yet; empty: it may."""
    incident, view = open_incident(detail), detail.row.view
    if incident is not None:
        return f"its incident is open: {_what_it_waits_for(incident)}"
    if view.verdict is not Verdict.ALIVE or not view.connected:
        return f"it is {view.verdict}" + (f": {view.reason}" if view.reason else "")
    if view.gate == "waiting":
        return "its nova-compute waits at the gate"
    return ""


def power(detail: HostDetail) -> Power:
    """What is known of its power. A host that is heard is on, whatever its devices say."""
    if detail.row.view.verdict is Verdict.ALIVE:
        return Power.ON
    incident, devices = open_incident(detail), detail.row.devices
    if incident is not None and incident.evidence is not None and not coming_back(incident):
        return Power.OFF
    if any(each.power is Power.ON for each in devices):
        return Power.ON
    return Power.OFF if devices and all(_off(each) for each in devices) else Power.UNKNOWN


def _reads_off(evidence: Evidence, detail: HostDetail, asked_at: float) -> bool:
    """Whether each device of the evidence read off in a periodic look since then, and none of the host's reads on."""
    looks = {
        d.device: d
        for d in detail.row.devices
        if d.checked_age_s is not None and detail.now - d.checked_age_s >= asked_at
    }
    names = {reading.device for reading in evidence.readings}
    says_on = any(each.power is Power.ON for each in detail.row.devices)
    return bool(names) and not says_on and all(name in looks and _off(looks[name]) for name in names)


def _off(device: DeviceHealth) -> bool:
    return device.ok and device.power is Power.OFF


def _what_it_waits_for(incident: Incident) -> str:
    if incident.blocked:
        return f"blocked: {incident.blocked}" + (f"; to release it: {incident.release}" if incident.release else "")
    return incident.waiting or f"it is at {incident.step}"
