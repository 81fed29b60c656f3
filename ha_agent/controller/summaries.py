"""Every host as an operator is shown it, from what the engine knows: the same for a daemon and for a simulated controller."""

from __future__ import annotations

from collections.abc import Mapping

from ha_agent.api.facade import HostViewSummary
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
        "pauses": float(engine.lookout.spells.pauses),
        "false_suspicions": float(engine.suspicions),
        "guest_events_lost": float(sum(engine.guests_lost.values())),
        "notifications": float(engine.told),
        "store_works": float(not engine.store_error),
    }
