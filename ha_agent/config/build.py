"""From the shape of the file to the values of the policy."""

from __future__ import annotations

from ha_agent import policy as p
from ha_agent.config import schema
from ha_agent.config.values import HostPlace
from ha_agent.model import Mode


def place(name: str, host: schema.Host) -> HostPlace:
    """Where a host is."""
    return HostPlace(
        name=name,
        address=host.address,
        port=host.port,
        planes=dict(host.planes),
        domain=host.domain,
        vars=dict(host.vars),
        aliases=tuple(host.aliases),
    )


def place_text(host: HostPlace) -> str:
    """All its addresses and its port, as one text that differs wherever one of them does."""
    planes = [f"{plane} {address}" for plane, address in sorted(host.planes.items())]
    return ", ".join((f"{host.address} port {host.port}", *planes))


def detection(d: schema.Detection) -> p.Detection:
    """Times of detection."""
    return p.Detection(
        heartbeat_interval_s=d.heartbeat_interval_s,
        suspect_after_s=d.suspect_after_s,
        down_after_s=d.down_after_s,
        hung_patience_s=d.hung_patience_s,
        nova_report_interval_s=d.nova_report_interval_s,
        witnesses_min=d.witnesses.min,
        probes=d.witnesses.probes,
        witness_fresh_s=d.witnesses.fresh_s,
        probe_interval_s=d.probe_interval_s,
        probe_timeout_s=d.probe_timeout_s,
        doubt_share=d.doubt.share,
        doubt_min=d.doubt.min,
        pause_s=d.pause_s,
        verdict_max_age_s=d.verdict_max_age_s,
    )


def storm(s: schema.Storm) -> p.Storm:
    """The storm limit."""
    return p.Storm(
        max_hosts=s.max_hosts, max_share=s.max_share, window_s=s.window_s, domain_max_hosts=s.per_domain.max_hosts
    )


def fencing(f: schema.Fencing, limit: p.Storm) -> p.Fencing:
    """Levels count from 0 in the policy, from 1 in the file; hand levels are left out: a confirmation is always possible."""
    kept = [
        number
        for number, level in enumerate(f.levels)
        if not any(name in f.devices and f.devices[name].driver == "manual" for name in level)
    ]
    return p.Fencing(
        levels=tuple(tuple(f.levels[number]) for number in kept),
        trusted_levels=tuple(index for index, number in enumerate(kept) if number + 1 in f.trusted_levels),
        evidence_max_age_s=f.evidence_max_age_s,
        attempt_s=f.attempt_s,
        read_s=f.read_s,
        check_interval_s=f.check_interval_s,
        retry_min_s=f.retry.min_s,
        retry_max_s=f.retry.max_s,
        host_interval_s=f.host_interval_s,
        storm=limit,
        power_on_after=f.after_recovery == "power_on",
    )


def recovery(r: schema.Recovery) -> p.Recovery:
    """How servers are recovered."""
    s = r.select
    return p.Recovery(
        mode=Mode(r.mode),
        fence=r.fence,
        select=p.Select(
            server_tag=s.server_tag or "",
            opt_out_tag=s.opt_out_tag or "",
            priority_tag=s.priority_tag or "",
            image_property=s.image_property or "",
            flavor_extra_spec=s.flavor_extra_spec or "",
            aggregate_metadata=s.aggregate_metadata or "",
            all=s.all,
        ),
        image_backed_rebuild=r.image_backed == "rebuild",
        shared_storage=r.shared_storage.all,
        settle_after_s=r.settle_after_s,
        window_min=r.concurrency.min,
        window_max=r.concurrency.max,
        poll_s=r.poll_s,
        retry_min_s=r.retry.min_s,
        retry_max_s=r.retry.max_s,
        api_max_s=r.api_max_s,
    )


def policy(model: schema.Controller, hosts: dict[str, p.HostPolicy]) -> p.Policy:
    """Everything together."""
    return p.Policy(
        controller=model.name,
        lease_s=model.store.lease_s,
        hosts=hosts,
        detection=detection(model.detection),
        storm=storm(model.fencing.storm),
        guest_mode=model.guests.watchdog,
        guest_max_age_s=model.guests.max_event_age_s,
        history_max=model.store.history_max,
    )
