"""What fields must be to each other. Each broken rule would make a bound or a safety rule untrue, so it is an error, not advice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ha_agent.config.schema import Detection, Fencing, Recovery
from ha_agent.config.yamlfile import FieldPath


class Broken(NamedTuple):
    """A broken rule. `fields`: all that take part, the one to change first at the front."""

    fields: tuple[FieldPath, ...]
    problem: str
    fix: str


def relations(detection: Detection, fencing: Fencing, recovery: Recovery, lease_s: float) -> Iterator[Broken]:
    """Every broken rule among the times and counts that hold for one host."""
    yield from _detection(detection)
    yield from _rounds(detection, lease_s)
    yield from _fencing(fencing)
    yield from _recovery(recovery)


def _detection(d: Detection) -> Iterator[Broken]:
    if d.suspect_after_s < 2 * d.heartbeat_interval_s:
        yield _broken(
            "detection",
            ("suspect_after_s", "heartbeat_interval_s"),
            f"({d.suspect_after_s:g}) is below two heartbeats of {d.heartbeat_interval_s:g} s: one late frame would make a suspect",
            f"use at least {2 * d.heartbeat_interval_s:g}",
        )
    if d.down_after_s <= d.suspect_after_s:
        yield _broken(
            "detection",
            ("down_after_s", "suspect_after_s"),
            f"({d.down_after_s:g}) is not above suspect_after_s ({d.suspect_after_s:g}): no time is left to ask witnesses",
            f"use more than {d.suspect_after_s + d.probe_timeout_s:g}",
        )
    elif d.suspect_after_s + d.probe_timeout_s > d.down_after_s:
        yield _broken(
            "detection",
            ("probe_timeout_s", "suspect_after_s", "down_after_s"),
            f"({d.probe_timeout_s:g}) does not fit between suspect_after_s ({d.suspect_after_s:g}) and down_after_s "
            f"({d.down_after_s:g}): witnesses could not answer before the verdict",
            f"use at most {d.down_after_s - d.suspect_after_s:g}, or raise down_after_s",
        )
    if d.probe_timeout_s > d.probe_interval_s:
        yield _broken(
            "detection",
            ("probe_timeout_s", "probe_interval_s"),
            f"({d.probe_timeout_s:g}) is above probe_interval_s ({d.probe_interval_s:g}): rounds of probes would overlap",
            f"use at most {d.probe_interval_s:g}",
        )


def _rounds(d: Detection, lease_s: float) -> Iterator[Broken]:
    if d.verdict_max_age_s < d.probe_interval_s + d.probe_timeout_s:
        yield _broken(
            "detection",
            ("verdict_max_age_s", "probe_interval_s", "probe_timeout_s"),
            f"({d.verdict_max_age_s:g}) is shorter than one round of probes ({d.probe_interval_s + d.probe_timeout_s:g} s): "
            "every verdict would be too old to fence on",
            f"use at least {d.probe_interval_s + d.probe_timeout_s:g}",
        )
    if d.witnesses.fresh_s <= d.down_after_s:
        yield Broken(
            (("detection", "witnesses", "fresh_s"), ("detection", "down_after_s")),
            f"({d.witnesses.fresh_s:g}) is not above down_after_s ({d.down_after_s:g}): no witness would be eligible when it is needed",
            f"use more than {d.down_after_s:g}; 300 is usual",
        )
    if d.witnesses.min > d.witnesses.probes:
        yield Broken(
            (("detection", "witnesses", "min"), ("detection", "witnesses", "probes")),
            f"({d.witnesses.min}) is above witnesses.probes ({d.witnesses.probes}): enough witnesses are never asked",
            f"use at most {d.witnesses.probes}",
        )
    if d.hung_patience_s < 2 * d.nova_report_interval_s:
        yield _broken(
            "detection",
            ("hung_patience_s", "nova_report_interval_s"),
            f"({d.hung_patience_s:g}) is below two report intervals of nova-compute ({d.nova_report_interval_s:g} s each): "
            "a healthy host could look frozen",
            f"use at least {2 * d.nova_report_interval_s:g}",
        )
    if lease_s <= 2 * d.pause_s:
        yield Broken(
            (("store", "lease_s"), ("detection", "pause_s")),
            f"({lease_s:g}) is not above two detection.pause_s ({d.pause_s:g} each): a leader would notice its own pause too late",
            f"use more than {2 * d.pause_s:g}",
        )
    if lease_s < 2 * d.heartbeat_interval_s:
        yield Broken(
            (("store", "lease_s"), ("detection", "heartbeat_interval_s")),
            f"({lease_s:g}) is below two heartbeats ({d.heartbeat_interval_s:g} s each)",
            f"use at least {2 * d.heartbeat_interval_s:g}",
        )


def _fencing(f: Fencing) -> Iterator[Broken]:
    if f.evidence_max_age_s < 2 * f.read_s:
        yield _broken(
            "fencing",
            ("evidence_max_age_s", "read_s"),
            f"({f.evidence_max_age_s:g}) is below two looks at a device (read_s, {f.read_s:g} each): evidence would age before it is renewed",
            f"use at least {2 * f.read_s:g}",
        )
    if f.attempt_s < 2 * f.read_s:
        yield _broken(
            "fencing",
            ("attempt_s", "read_s"),
            f"({f.attempt_s:g}) leaves no room to read off twice (read_s, {f.read_s:g} each)",
            f"use at least {2 * f.read_s:g}",
        )
    if f.check_interval_s < f.read_s:
        yield _broken(
            "fencing",
            ("check_interval_s", "read_s"),
            f"({f.check_interval_s:g}) is below read_s ({f.read_s:g}): looks would overlap",
            f"use at least {f.read_s:g}",
        )
    yield from _retry("fencing", f.retry.min_s, f.retry.max_s)


def _recovery(r: Recovery) -> Iterator[Broken]:
    yield from _retry("recovery", r.retry.min_s, r.retry.max_s)
    if r.concurrency.min > r.concurrency.max:
        yield Broken(
            (("recovery", "concurrency", "min"), ("recovery", "concurrency", "max")),
            f"({r.concurrency.min}) is above concurrency.max ({r.concurrency.max})",
            f"use at most {r.concurrency.max}",
        )
    if r.settle_after_s < r.api_max_s + r.retry.max_s:
        yield _broken(
            "recovery",
            ("settle_after_s", "api_max_s"),
            f"({r.settle_after_s:g}) is below one lost request and one retry ({r.api_max_s + r.retry.max_s:g} s): servers would be "
            "given up before they were tried twice",
            f"use at least {r.api_max_s + r.retry.max_s:g}",
        )
    if r.mode == "auto" and not r.fence:
        yield _broken(
            "recovery",
            ("fence", "mode"),
            "is false, but mode auto always fences: no server is moved without evidence",
            "use mode: notify, or remove fence",
        )
    select = r.select
    if r.mode == "auto" and not select.all and select.server_tag is None:
        yield Broken(
            (("recovery", "select", "server_tag"), ("recovery", "mode")),
            "is null and select.all is false: no server would ever be recovered",
            "name a tag, or use all: true",
        )
    for name in ("image_property", "flavor_extra_spec", "aggregate_metadata"):
        if getattr(select, name) is not None:
            yield Broken(
                (("recovery", "select", name),),
                "is not built into this version: servers that rely on it would not be recovered",
                "choose servers by server_tag, or all: true",
            )
    if r.shared_storage.aggregates:
        yield Broken(
            (("recovery", "shared_storage", "aggregates"),),
            "is not built into this version",
            "use shared_storage: {all: true} in an override for those hosts",
        )


def _retry(section: str, low: float, high: float) -> Iterator[Broken]:
    if low > high:
        yield Broken(
            ((section, "retry", "min_s"), (section, "retry", "max_s")),
            f"({low:g}) is above retry.max_s ({high:g})",
            f"use at most {high:g}",
        )


def _broken(section: str, names: tuple[str, ...], problem: str, fix: str) -> Broken:
    return Broken(tuple((section, name) for name in names), problem, fix)
