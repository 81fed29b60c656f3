"""Whether a host's servers would live on if it died now. Pure; what is not known is no yes (S9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ha_agent.api.facade import DeviceHealth, HostViewSummary
from ha_agent.api.readiness import Check, Finding, HostReadiness, Protection, Readiness
from ha_agent.heartbeat.expiry import Thresholds, ends
from ha_agent.model import ComputeService, HostRecord, Mode, Verdict
from ha_agent.policy import HostPolicy

MANUAL = "manual"


def judge(
    rules: HostPolicy,
    view: HostViewSummary,
    record: HostRecord | None,
    *,
    devices: Sequence[DeviceHealth],
    services: Mapping[str, ComputeService] | None,
    servers: Protection | None,
    limits: Thresholds,
) -> HostReadiness:
    """One host. `services`: None where Nova was not read yet; `servers`: None where they were not counted yet."""
    findings = [
        *_heard(rules, view),
        *_certificate(view, limits),
        *(_fencing(rules, record, devices) if rules.recovery.fence else ()),
        *_nova(view.host, services),
        *_policy(rules, record),
    ]
    if view.gate == "waiting":
        text = "its nova-compute waits at the gate until the host is known to be clean"
        findings.append(Finding(check=Check.GATE, text=text, fix=f"ha-agent explain {view.host}"))
    if servers is not None and servers.at_risk:
        text = f"{_some(servers.at_risk)} chosen and would stay: their disks would be lost, or Nova does not move them as they are"
        fix = f"which, and why: ha-agent evacuate {view.host} --dry-run"
        findings.append(Finding(check=Check.SERVERS, text=text, fix=fix, stops=False))
    ready = not any(each.stops for each in findings)
    return HostReadiness(host=view.host, ready=ready, findings=tuple(findings), servers=servers)


def whole(own: Sequence[str], standby: str, hosts: Iterable[HostReadiness], notes: Sequence[str] = ()) -> Readiness:
    """The cloud. `own`: why this controller would not act, or not in time; `notes`: what somebody should know of it."""
    every = tuple(hosts)
    ready = not own and all(each.ready for each in every)
    return Readiness(ready=ready, controller=tuple(own), standby=standby, hosts=every, notes=tuple(notes))


def _heard(rules: HostPolicy, view: HostViewSummary) -> Iterable[Finding]:
    if view.last_seen_age_s is None:
        text = "no heartbeat of it was ever heard by this controller"
        yield Finding(check=Check.HEARTBEAT, text=text, fix=f"on {view.host}: ha-agent remote status")
    elif view.verdict is not Verdict.ALIVE:
        text = f"it is {view.verdict}: {view.reason}"
        yield Finding(check=Check.HEARTBEAT, text=text, fix=f"ha-agent explain {view.host}")
    least = rules.detection.witnesses_min
    if view.witnesses < least:
        text = f"{view.witnesses} of at least {least} witnesses could speak of it: its death would be no more than an alarm"
        fix = "other hosts must reach its remote's port; with few hosts see detection.witnesses.min"
        yield Finding(check=Check.WITNESSES, text=text, fix=fix)


def _certificate(view: HostViewSummary, limits: Thresholds) -> Iterable[Finding]:
    days = view.certificate_days
    if days is not None and days < limits.warn_days:
        fix = f"where the authority is: ha-agent pki renew host {view.host}"
        urgent = days < limits.urgent_days
        yield Finding(check=Check.CERTIFICATE, text=f"its certificate {ends(days)}", fix=fix, stops=urgent)


def _fencing(rules: HostPolicy, record: HostRecord | None, devices: Sequence[DeviceHealth]) -> Iterable[Finding]:
    """It can be fenced where one level works whole; a broken one beside it should be known."""
    host, levels = rules.name, rules.fencing.levels
    if record is not None and record.contradiction:
        fix = f"mend its devices, then: ha-agent fencing check {host}"
        yield Finding(check=Check.FENCING, text=record.contradiction, fix=fix)
    if not levels:
        fix = f"add one to fencing.levels, or be ready to type: ha-agent confirm-fenced {host}"
        yield Finding(check=Check.FENCING, text="no fencing device", fix=fix)
        return
    by_name = {each.device: each for each in devices}
    broken = [[found for name in names if (found := _broken(name, by_name.get(name)))] for names in levels]
    whole = any(
        not bad and not all(_manual(by_name.get(name)) for name in names)
        for bad, names in zip(broken, levels, strict=True)
    )
    for text in (text for level in broken for text in level):
        yield Finding(check=Check.FENCING, text=text, fix=f"ha-agent fencing check {host}", stops=not whole)
    if not whole and not any(broken):
        text = "only a person can switch it off"
        yield Finding(check=Check.FENCING, text=text, fix=f"be ready to type: ha-agent confirm-fenced {host}")


def _broken(name: str, device: DeviceHealth | None) -> str:
    if device is None or (device.checked_age_s is None and not _manual(device)):
        return f"{name} was not looked at yet"
    return "" if device.ok else f"{name}: {device.error or 'it failed'}"


def _manual(device: DeviceHealth | None) -> bool:
    return device is not None and device.driver == MANUAL


def _nova(host: str, services: Mapping[str, ComputeService] | None) -> Iterable[Finding]:
    row = (services or {}).get(host)
    if services is None:
        yield Finding(check=Check.NOVA_COMPUTE, text="Nova was not read yet", fix="ha-agent status")
    elif row is None:
        text = "Nova has no nova-compute service of this name"
        fix = "hosts are named by the `host` of their service, byte for byte: openstack compute service list"
        yield Finding(check=Check.NOVA_COMPUTE, text=text, fix=fix)
    elif row.forced_down:
        text = "Nova holds it for forced down"
        yield Finding(check=Check.NOVA_COMPUTE, text=text, fix=f"ha-agent explain {host}", stops=False)
    elif row.state != "up":
        text = f"its nova-compute is {row.state or 'of unknown state'}"
        yield Finding(check=Check.NOVA_COMPUTE, text=text, fix=f"on {host}: systemctl status nova-compute", stops=False)


def _policy(rules: HostPolicy, record: HostRecord | None) -> Iterable[Finding]:
    """What somebody decided: told, and no alarm."""
    if record is not None and record.maintenance:
        text = f"in maintenance ({record.maintenance}): nothing would be done about it"
        yield Finding(check=Check.POLICY, text=text, fix=f"ha-agent maintenance off {rules.name}", stops=False)
    if rules.recovery.mode is not Mode.AUTO:
        text = f"recovery.mode is {rules.recovery.mode}: somebody else moves its servers"
        yield Finding(check=Check.POLICY, text=text, stops=False)


def _some(count: int) -> str:
    return "1 server is" if count == 1 else f"{count} servers are"
