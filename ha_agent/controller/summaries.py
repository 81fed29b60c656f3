"""Every host as an operator is shown it, from what the engine knows: the same for a daemon and for a simulated controller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ha_agent.api.facade import DeviceHealth, HostViewSummary
from ha_agent.controller.engine import Engine


def summaries(engine: Engine, certificate_days: Mapping[str, float] | None = None) -> dict[str, HostViewSummary]:
    """By name. `certificate_days`: how long the certificate that a host showed is still good."""
    days = certificate_days or {}
    return {host: summary(engine, host, days.get(host)) for host in engine.views}


def summary(engine: Engine, host: str, certificate_days: float | None = None) -> HostViewSummary:
    """Of one host that is known."""
    view, record = engine.views[host], engine.state.hosts.get(host)
    gate = "waiting" if view.waiting_gate else ""
    if not gate and record is not None and view.boot_id and record.cleared_boot_id == view.boot_id:
        gate = "open"
    return HostViewSummary(
        host=host,
        verdict=view.verdict,
        reason=view.reason,
        last_seen_age_s=None if view.heard_at is None else max(0.0, engine.clock.now() - view.heard_at),
        boot_id=view.boot_id,
        nova_compute=view.nova_compute,
        libvirt=view.libvirt,
        rtt_s=view.rtt_s,
        connected=view.connected,
        witnesses=engine.witnesses(host),
        gate=gate,
        certificate_days=certificate_days,
        planes_lost=engine.lookout.planes_lost(host),
        dials_failed=view.misses,
        false_suspicions=view.false_suspicions,
    )


def numbers(engine: Engine) -> dict[str, float]:
    """What is counted in the engine."""
    return {
        "sickness": float(engine.lookout.sickness),
        "false_suspicions": float(engine.suspicions),
        "guest_events_lost": float(sum(engine.guests_lost.values())),
        "notifications": float(engine.told),
        "store_works": float(not engine.store_error),
    }


def reasons(
    engine: Engine, views: Mapping[str, HostViewSummary], devices: Iterable[DeviceHealth], cloud_error: str = ""
) -> list[str]:
    """Why this controller is not ready to act, one sentence each. `cloud_error`: why Nova could not be read."""
    found = []
    if not engine.leading:
        found.append("this controller does not lead")
    if not engine.state.fleet.armed:
        found.append("the controller is disarmed; release it with: ha-agent arm")
    if engine.state.fleet.paused:
        found.append(f"paused: {engine.state.fleet.paused}")
    if cloud_error:
        found.append(cloud_error)
    if engine.store_error:
        found.append(f"the store failed: {engine.store_error}")
    found += [f"{h.host}: {h.contradiction}" for h in engine.state.hosts.values() if h.contradiction]
    found += [f"{d.host}: {d.device}: {d.error}" for d in devices if not d.ok and d.checked_age_s is not None]
    hosts = engine.policy.hosts
    for host, view in views.items():
        least = hosts[host].detection.witnesses_min if host in hosts else 0
        if view.last_seen_age_s is not None and view.witnesses < least:
            found.append(f"{host} has {view.witnesses} of at least {least} witnesses")
    return found
