"""Metrics for Prometheus. Labels are known hosts, devices and the words of the model only, so that their number is bounded.

A scrape takes a snapshot on the event loop (cheap: values are frozen) and renders it in a thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from ha_agent import __version__
from ha_agent.api.facade import DeviceHealth, Facade, HostViewSummary, LeaderInfo
from ha_agent.model import Phase, State, Step, Value, Verdict
from ha_agent.ports import Delivery

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
BUCKETS = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
STAGES_MAX = 20  # stages are words of the core; more than this would be a bug, not a label

# A number of the facade with a metric of its own: name -> (kind, metric, help).
KNOWN: Mapping[str, tuple[str, str, str]] = {
    "loop_lag_s": ("gauge", "loop_lag_seconds", "How late the loop woke up last"),
    "sickness": (
        "gauge",
        "self_doubt",
        "0: the controller is well; 8: it trusts nothing that it sees, and waits twice as long",
    ),
    "loop_turns": ("counter", "loop_turns", "Turns of the loop"),
    "store_write_s": ("gauge", "store_write_seconds", "How long the last journal write took"),
    "heartbeats": ("counter", "heartbeats", "Heartbeats received"),
    "false_suspicions": ("counter", "false_suspicions", "Suspicions that ended by a heartbeat"),
    "probes_answered": ("counter", "probes_answered", "Answers of witnesses"),
    "witness_denials": ("counter", "witness_denials", "Answers of witnesses that could not reach the host"),
    "foreign_claims": ("counter", "foreign_claims", "Reports of another claimant of our hosts"),
    "outcomes": ("counter", "command_outcomes", "Commands that ended"),
    "api_calls": ("counter", "nova_requests", "Requests to Nova"),
    "wire_malformed_frames": ("counter", "malformed_frames", "Connections closed because of a malformed frame"),
    "wire_refused_identities": ("counter", "refused_identities", "Valid certificates of the wrong name or role"),
    "wire_handshake_failures": ("counter", "handshake_failures", "TLS handshakes that did not come about"),
    "wire_refused_revoked": ("counter", "refused_revoked", "Connections refused because of a revoked certificate"),
    "wire_closed_revoked": (
        "counter",
        "closed_revoked",
        "Connections ended because of a revocation or a lost authority",
    ),
    "certificate_days": ("gauge", "certificate_days", "Days until our own certificate ends"),
    "authority_days": ("gauge", "authority_days", "Days until the last authority that we trust ends"),
    "wire_forged_probes": ("counter", "forged_probes", "Signed answers relayed by a witness that do not verify"),
}


class Snapshot(Value, frozen=True, kw_only=True):
    """What a scrape sees."""

    state: State
    views: dict[str, HostViewSummary]
    devices: tuple[DeviceHealth, ...]
    deliveries: tuple[Delivery, ...] = ()
    leader: LeaderInfo
    ready: tuple[str, ...]
    numbers: dict[str, float]

    @staticmethod
    def of(facade: Facade) -> Snapshot:
        """Taken on the event loop."""
        return Snapshot(
            state=facade.state(),
            views=dict(facade.views()),
            devices=tuple(facade.devices()),
            deliveries=tuple(facade.deliveries()),
            leader=facade.leader(),
            ready=tuple(facade.ready()),
            numbers=dict(facade.counters()),
        )


def render(snapshot: Snapshot) -> bytes:
    """The text of a scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot))
    return generate_latest(registry)


class SnapshotCollector(Collector):
    """prometheus_client's view of a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing: names must not be collected at registration."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric family."""
        snapshot = self._snapshot
        yield _one("build_info", "The version that runs", 1, version=__version__)
        yield from _controller(snapshot)
        yield from _hosts(snapshot.views, snapshot.state)
        yield from _incidents(snapshot.state)
        yield from _devices(snapshot.devices)
        yield from _deliveries(snapshot.deliveries)
        yield from _numbers(snapshot.numbers)


def _controller(snapshot: Snapshot) -> Iterator[Metric]:
    fleet, leader = snapshot.state.fleet, snapshot.leader
    yield _one("armed", "Whether an operator allowed destructive commands", fleet.armed)
    yield _one("paused", "Whether an operator paused destructive commands", bool(fleet.paused))
    yield _one("foreign_claimant", "Whether another controller claims our hosts", bool(fleet.foreign))
    yield _one("leader", "Whether this controller leads", leader.leading)
    yield _one("leader_epoch", "The newest election", leader.epoch)
    yield _one("lease_remaining_seconds", "How long our own lease still holds", leader.until_s)
    yield _one("ready", "Whether nothing keeps this controller from acting", not snapshot.ready)
    yield _one("not_ready_reasons", "How many reasons it has not to be ready", len(snapshot.ready))
    yield _one("recent_fences", "Fences that the storm limit counts", len(fleet.fences))


def _hosts(views: Mapping[str, HostViewSummary], state: State) -> Iterator[Metric]:
    yield _one("hosts", "Hosts in the inventory", len(views))
    counts = Counter(view.verdict for view in views.values())
    verdicts = _gauge("hosts_by_verdict", "Hosts by what is believed of them", "verdict")
    for verdict in Verdict:
        verdicts.add_metric([str(verdict)], counts[verdict])
    yield verdicts
    believed = _gauge("host_verdict", "What is believed of a host: 1 at one verdict", "host", "verdict")
    connected = _gauge("host_connected", "Whether the connection to a host's remote stands", "host")
    age = _gauge("heartbeat_age_seconds", "Time since the last heartbeat; absent before the first", "host")
    rtt = _gauge("heartbeat_rtt_seconds", "Round trip of the last heartbeat", "host")
    certificate = _gauge("host_certificate_days", "Days until the certificate that a host has shown ends", "host")
    witnesses = _gauge("host_witnesses", "Witnesses that are eligible to speak of a host", "host")
    lost = _gauge(
        "host_planes_lost", "Planes over which no other host reaches this one; absent where there are none", "host"
    )
    nova = _gauge("host_nova_compute_up", "Whether the host's nova-compute runs; absent where unknown", "host")
    maintenance = _gauge("host_maintenance", "Whether a host is in maintenance", "host")
    for name, view in views.items():
        believed.add_metric([name, str(view.verdict)], 1)
        connected.add_metric([name], view.connected)
        if view.last_seen_age_s is not None:
            age.add_metric([name], view.last_seen_age_s)
            rtt.add_metric([name], view.rtt_s)
        witnesses.add_metric([name], view.witnesses)
        if view.planes_lost:
            lost.add_metric([name], len(view.planes_lost))
        if view.certificate_days is not None:
            certificate.add_metric([name], view.certificate_days)
        if view.nova_compute != "unknown":
            nova.add_metric([name], view.nova_compute == "up")
        record = state.hosts.get(name)
        maintenance.add_metric([name], bool(record and record.maintenance))
    yield from (believed, connected, age, rtt, certificate, witnesses, lost, nova, maintenance)


def _incidents(state: State) -> Iterator[Metric]:
    open_ones = [each for each in state.incidents.values() if each.phase is Phase.OPEN]
    steps = Counter(each.step for each in open_ones)
    by_step = _gauge("incidents_open", "Open incidents by the step they are at", "step")
    for step in Step:
        by_step.add_metric([str(step)], steps[step])
    yield by_step
    yield _one(
        "incidents_blocked", "Open incidents that wait for a person", sum(bool(each.blocked) for each in open_ones)
    )
    yield _one("incidents_kept", "Incidents that are kept, open and closed", len(state.incidents))
    stages = Counter(server.stage for each in open_ones for server in each.servers)
    servers = _gauge("servers", "Servers of open incidents by stage", "stage")
    for stage, count in stages.items():
        servers.add_metric([str(stage)], count)
    yield servers
    yield _durations(state)


def _durations(state: State) -> Metric:
    """From the opening of an incident to each stage, over the closed incidents that are kept: it may shrink when old ones go."""
    seconds: dict[str, list[float]] = {}
    for each in state.incidents.values():
        if each.phase is Phase.CLOSED:
            for stage, at in each.stage_at.items():
                if at >= each.opened_at and (stage in seconds or len(seconds) < STAGES_MAX):
                    seconds.setdefault(stage, []).append(at - each.opened_at)
    family = HistogramMetricFamily(
        "ha_agent_incident_stage_seconds",
        "From an incident's opening to a stage, of kept closed incidents",
        labels=["stage"],
    )
    for stage, values in sorted(seconds.items()):
        buckets = [(str(bound), float(sum(value <= bound for value in values))) for bound in BUCKETS]
        family.add_metric([stage], [*buckets, ("+Inf", float(len(values)))], sum(values))
    return family


def _devices(devices: Sequence[DeviceHealth]) -> Iterator[Metric]:
    healthy = _gauge(
        "fencing_device_ok", "Whether the last look at a fencing device succeeded", "host", "device", "level"
    )
    age = _gauge(
        "fencing_device_checked_age_seconds", "Time since the last look at a fencing device", "host", "device", "level"
    )
    for each in devices:
        labels = [each.host, each.device, str(each.level)]
        if each.checked_age_s is not None:  # before the first look nothing is known, which is not "failed"
            healthy.add_metric(labels, each.ok)
            age.add_metric(labels, each.checked_age_s)
    yield from (healthy, age)


def _deliveries(deliveries: Sequence[Delivery]) -> Iterator[Metric]:
    backlog = _gauge("outbox_backlog", "Notifications that wait for whom they are for", "to")
    yield backlog
    counters = {
        "published": _counter("outbox_published", "Notifications that were taken", "to"),
        "failures": _counter("outbox_failures", "Attempts that failed and are repeated", "to"),
        "rejected": _counter("outbox_rejected", "Notifications that were refused for good", "to"),
        "dropped": _counter("outbox_dropped", "Notifications dropped because too many waited", "to"),
    }
    for each in deliveries:
        backlog.add_metric([each.name], each.backlog)
        for name, counter in counters.items():
            counter.add_metric([each.name], getattr(each, name))
    yield from counters.values()


def _numbers(numbers: Mapping[str, float]) -> Iterator[Metric]:
    others = _gauge("number", "Other numbers of the daemon, by name", "name")
    for name, value in sorted(numbers.items()):
        if name not in KNOWN:
            others.add_metric([name], value)
            continue
        kind, metric, text = KNOWN[name]
        if kind == "counter":
            yield CounterMetricFamily(f"ha_agent_{metric}", text, value=value)
        else:
            yield _one(metric, text, value)
    yield others


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"ha_agent_{name}", text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"ha_agent_{name}", text, labels=labels)


def _one(name: str, text: str, value: float, **labels: str) -> Metric:
    family = _gauge(name, text, *labels)
    family.add_metric(list(labels.values()), value)
    return family
