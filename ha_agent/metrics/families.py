"""Every metric family of a controller, from a snapshot of its facade."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from ha_agent import __version__
from ha_agent.api.facade import DeviceHealth, Facade, HostViewSummary, LeaderInfo
from ha_agent.api.measured import Measured
from ha_agent.api.readiness import Readiness
from ha_agent.metrics.names import DAY_S, HISTOGRAMS, NUMBERS, Number
from ha_agent.model import CommandKind, Incident, Kind, Phase, ServerStage, State, Step, Value, Verdict
from ha_agent.ports import Delivery

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
COMMANDS = tuple(kind for kind in CommandKind if kind is not CommandKind.NOTIFY)  # that one is never sent


class Snapshot(Value, frozen=True, kw_only=True):
    """What a scrape sees."""

    state: State
    views: dict[str, HostViewSummary]
    devices: tuple[DeviceHealth, ...]
    deliveries: tuple[Delivery, ...] = ()
    leader: LeaderInfo
    ready: tuple[str, ...]
    numbers: dict[str, float]
    measures: tuple[Measured, ...] = ()
    readiness: Readiness
    now: float = 0.0

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
            measures=tuple(facade.measures()),
            readiness=facade.readiness(),
            now=facade.now(),
        )


def render(snapshot: Snapshot, *, packed: bool = False) -> bytes:
    """The text of a scrape; `packed`: by gzip, which makes it about twenty times shorter. It works for a while: call it in a thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot))
    ProcessCollector(registry=registry)
    text = generate_latest(registry)
    return gzip.compress(text, compresslevel=1) if packed else text


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
        yield from _incidents(snapshot.state, snapshot.now)
        yield from _servers(snapshot.readiness)
        yield from _devices(snapshot.devices)
        yield from _deliveries(snapshot.deliveries)
        yield from _numbers(snapshot.numbers)
        yield from _histograms(snapshot.measures)


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
    failed = _counter(
        "host_dials_failed", "How often the connection to a host ended or could not be made; absent where never", "host"
    )
    doubted = _counter(
        "host_false_suspicions", "Suspicions of a host that ended by a heartbeat; absent where none", "host"
    )
    certificate = _gauge(
        "host_certificate_remaining_seconds", "Until the certificate that a host has shown ends", "host"
    )
    witnesses = _gauge("host_witnesses", "Witnesses that are eligible to speak of a host", "host")
    lost = _gauge(
        "host_planes_lost", "Planes over which no other host reaches this one; absent where there are none", "host"
    )
    nova = _gauge("host_nova_compute_up", "Whether the host's nova-compute runs; absent where unknown", "host")
    maintenance = _gauge("host_maintenance", "1 where a host is in maintenance; absent elsewhere", "host")
    for name, view in views.items():
        believed.add_metric([name, str(view.verdict)], 1)
        connected.add_metric([name], view.connected)
        if view.last_seen_age_s is not None:
            age.add_metric([name], round(view.last_seen_age_s, 2))
            rtt.add_metric([name], round(view.rtt_s, 6))
        if view.dials_failed:
            failed.add_metric([name], view.dials_failed)
        if view.false_suspicions:
            doubted.add_metric([name], view.false_suspicions)
        witnesses.add_metric([name], view.witnesses)
        if view.planes_lost:
            lost.add_metric([name], len(view.planes_lost))
        if view.certificate_days is not None:
            certificate.add_metric([name], round(view.certificate_days * DAY_S))
        if view.nova_compute != "unknown":
            nova.add_metric([name], view.nova_compute == "up")
        record = state.hosts.get(name)
        if record is not None and record.maintenance:
            maintenance.add_metric([name], 1)
    yield from (believed, connected, age, rtt, failed, doubted, certificate, witnesses, lost, nova, maintenance)


def _incidents(state: State, now: float) -> Iterator[Metric]:
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
    yield from _by_host(open_ones, now)
    stages = Counter(server.stage for each in open_ones for server in each.servers)
    servers = _gauge("incident_servers", "Servers of open incidents by stage", "stage")
    for stage in ServerStage:
        servers.add_metric([str(stage)], stages[stage])
    yield servers
    kinds = Counter(command.kind for each in open_ones for command in each.pending)
    pending = _gauge("commands_pending", "Commands that are journalled and have not ended", "kind")
    for kind in COMMANDS:
        pending.add_metric([str(kind)], kinds[kind])
    yield pending


def _by_host(open_ones: Iterable[Incident], now: float) -> Iterator[Metric]:
    """Of the oldest where a host has several of one kind at one step."""
    ages: dict[tuple[str, Kind, Step], float] = {}
    blocked: dict[tuple[str, Kind], bool] = {}
    for each in open_ones:
        key = each.host, each.kind, each.step
        ages[key] = max(ages.get(key, 0.0), now - each.opened_at)
        blocked[key[:2]] = blocked.get(key[:2], False) or bool(each.blocked)
    text = "How long an incident of a host is open, by the step it is at; absent where there is none"
    age = _gauge("host_incident_open_seconds", text, "host", "kind", "step")
    for (host, kind, step), seconds in ages.items():
        age.add_metric([host, str(kind), str(step)], seconds)
    yield age
    text = "Whether an open incident of a host waits for a person; absent where there is none"
    waits = _gauge("host_incident_blocked", text, "host", "kind")
    for (host, kind), yes in blocked.items():
        waits.add_metric([host, str(kind)], yes)
    yield waits


def _servers(readiness: Readiness) -> Iterator[Metric]:
    """What would become of them, and which hosts stand in the way. What was not counted yet is in no number but that of its hosts."""
    counted = [each.servers for each in readiness.hosts if each.servers is not None]
    yield _one("servers_protected", "Servers that would be moved if their host died", sum(s.protected for s in counted))
    at_risk = sum(s.at_risk for s in counted)
    yield _one("servers_at_risk", "Servers that somebody chose, and that would stay all the same", at_risk)
    yield _one("servers_unprotected", "Servers that nobody chose", sum(s.unprotected for s in counted))
    yield _one("hosts_uncounted", "Hosts whose servers were not counted yet", len(readiness.hosts) - len(counted))
    text = "1 where a person would be needed if the host died now, by what was looked at; absent elsewhere"
    hosts = _gauge("host_at_risk", text, "host", "check")
    for each in readiness.hosts:
        for check in sorted({finding.check for finding in each.findings if finding.stops}):
            hosts.add_metric([each.host, str(check)], 1)
    yield hosts


def _devices(devices: Sequence[DeviceHealth]) -> Iterator[Metric]:
    healthy = _gauge(
        "fencing_device_ok", "Whether the last look at a fencing device succeeded", "host", "device", "level"
    )
    age = _gauge("fencing_device_checked_age_seconds", "Time since the last look at a fencing device", "host", "device")
    for each in devices:
        if each.checked_age_s is not None:  # before the first look nothing is known, which is not "failed"
            healthy.add_metric([each.host, each.device, str(each.level)], each.ok)
            age.add_metric([each.host, each.device], round(each.checked_age_s))
    yield from (healthy, age)


def _deliveries(deliveries: Sequence[Delivery]) -> Iterator[Metric]:
    backlog = _gauge("outbox_backlog", "Notifications that wait for whom they are for", "to")
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
    yield from (backlog, *counters.values())


def _numbers(numbers: Mapping[str, float]) -> Iterator[Metric]:
    families: dict[str, Metric] = {}
    for name, number in NUMBERS.items():
        if name in numbers:
            family = families.setdefault(number.metric, _family(number))
            family.add_metric([number.of] if number.label else [], numbers[name] * number.times)  # type: ignore[attr-defined]
    yield from families.values()


def _family(number: Number) -> Metric:
    labels = [number.label] if number.label else []
    return (_gauge if number.gauge else _counter)(number.metric, number.help, *labels)


def _histograms(measures: Iterable[Measured]) -> Iterator[Metric]:
    families: dict[str, HistogramMetricFamily] = {}
    for each in measures:
        known = HISTOGRAMS[each.name]
        family = families.setdefault(
            each.name,
            HistogramMetricFamily(f"ha_agent_{known.metric}", known.help, labels=[known.label] if known.label else []),
        )
        bounds = [*(str(bound) for bound in each.bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(each.counts)), strict=True))
        family.add_metric([each.of] if known.label else [], buckets, each.total)
    yield from families.values()


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"ha_agent_{name}", text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"ha_agent_{name}", text, labels=labels)


def _one(name: str, text: str, value: float, **labels: str) -> Metric:
    family = _gauge(name, text, *labels)
    family.add_metric(list(labels.values()), value)
    return family
