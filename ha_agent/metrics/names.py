"""The numbers and histograms of a facade, and what each is as a metric. Base units: seconds, and counters end in `_total`."""

from __future__ import annotations

from collections.abc import Mapping

from ha_agent.model import Value

DAY_S = 86_400.0


class Number(Value, frozen=True):
    """`metric` without prefix and ending; `label`, `of`: where several numbers are one metric. `times`: from the facade's unit to the metric's."""

    metric: str
    help: str
    gauge: bool = False
    label: str = ""
    of: str = ""
    times: float = 1.0


def _gauge(metric: str, text: str, times: float = 1.0) -> Number:
    return Number(metric=metric, help=text, gauge=True, times=times)


def _counter(metric: str, text: str, label: str = "", of: str = "") -> Number:
    return Number(metric=metric, help=text, label=label, of=of)


def _counters(metric: str, text: str, label: str, names: Mapping[str, str]) -> dict[str, Number]:
    return {name: _counter(metric, text, label, of) for name, of in names.items()}


NUMBERS: Mapping[str, Number] = {
    "sickness": _gauge(
        "self_doubt", "0: the controller is well; 8: it trusts nothing that it sees, and waits twice as long"
    ),
    "pauses": _counter(
        "stood_still", "Pauses of the process, longer than detection.pause_s allows; it looks anew after each"
    ),
    "store_works": _gauge("store_up", "Whether the last write of the journal succeeded"),
    "nova_readable": _gauge("nova_up", "Whether Nova could be read when it was last looked at, and knows every host"),
    "certificate_days": _gauge("certificate_remaining_seconds", "Until our own certificate ends", DAY_S),
    "authority_days": _gauge("authority_remaining_seconds", "Until the last authority that we trust ends", DAY_S),
    "loop_turns": _counter("loop_turns", "Turns of the loop"),
    "bugs": _counter("bugs", "Events that were dropped because of a bug; its traceback is in the log"),
    "heartbeats": _counter("heartbeats", "Heartbeats received"),
    "heartbeats_missed": _counter(
        "heartbeats_missed", "Intervals without a heartbeat between two of one boot of a host"
    ),
    "false_suspicions": _counter("false_suspicions", "Suspicions that ended by a heartbeat of the same boot"),
    "probes_answered": _counter("probes_answered", "Answers of witnesses"),
    "witness_denials": _counter("witness_denials", "Answers of witnesses that could not reach the host"),
    "foreign_claims": _counter("foreign_claims", "Reports of another claimant of our hosts"),
    "outcomes": _counter("command_outcomes", "Commands that ended"),
    "notifications": _counter("notifications", "Notifications that were written to the journal"),
    "api_calls": _counter("nova_requests", "Requests to Nova"),
    "guest_events_lost": _counter("guest_events_lost", "Events of guests that remotes dropped: too many waited"),
    "wire_guest_events": _counter("guest_events", "Events of guests that remotes told of, repetitions included"),
    "wire_connections": _counter("connections", "Sessions with remotes that came about"),
    "wire_idle_closed": _counter("idle_connections_closed", "Connections closed because nothing came for too long"),
    "wire_malformed_frames": _counter("malformed_frames", "Connections closed because of a malformed frame"),
    "wire_oversized_frames": _counter("oversized_frames", "Of the malformed frames: longer than allowed"),
    "wire_forged_probes": _counter("forged_probes", "Signed answers relayed by a witness that do not verify"),
    "wire_closed_revoked": _counter(
        "revoked_connections_closed", "Connections ended because of a revocation or a lost authority"
    ),
    **_counters(
        "handshake_failures",
        "TLS handshakes that did not come about, by why",
        "why",
        {f"wire_handshakes_{why}": why for why in ("expired", "untrusted", "garbage", "slow", "cut", "evicted")},
    ),
    **_counters(
        "connections_refused",
        "Connections that were refused: a wrong name or role (identities), a revoked certificate, or too many",
        "why",
        {f"wire_refused_{why}": why for why in ("identities", "revoked", "rate", "address", "full", "peers")},
    ),
    **_counters(
        "excess_refused",
        "What a session brought more of than is taken",
        "what",
        {f"wire_refused_{what}": what for what in ("requests", "beats", "claims", "guest_events")},
    ),
}
"""By the facade's name."""

UNSEEN = frozenset({"wire_handshake_failures", "wire_probes"})
"""Numbers that are no metric: the sum of others, and what only a remote counts."""


class Histogram(Value, frozen=True):
    """`label`: where several measures are one metric."""

    metric: str
    help: str
    label: str = ""


HISTOGRAMS: Mapping[str, Histogram] = {
    "loop_lag_s": Histogram(metric="loop_lag_seconds", help="How late the loop came to what was due"),
    "round_trip_s": Histogram(metric="heartbeat_round_trip_seconds", help="Round trips of heartbeats, of all hosts"),
    "store_s": Histogram(metric="store_seconds", help="How long calls of the store took", label="call"),
    "silence_s": Histogram(
        metric="detection_seconds", help="From a host's last heartbeat to the opening of its incident"
    ),
    "stage_s": Histogram(metric="incident_stage_seconds", help="From an incident's opening to a stage", label="stage"),
}
"""By the name of the measure."""
