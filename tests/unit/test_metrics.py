"""Metrics: what a scrape shows of a facade, parsed back by the library that Prometheus users have."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ha_agent import metrics
from ha_agent.api.facade import DeviceHealth, HostViewSummary
from ha_agent.controller.measures import Measures
from ha_agent.controller.ownhost import OwnNetwork
from ha_agent.heartbeat.counters import Counters
from ha_agent.metrics.names import HISTOGRAMS, NUMBERS, UNSEEN
from ha_agent.model import Health, Power, Verdict
from ha_agent.ports import Delivery
from tests.unit.api_support import FakeFacade
from tests.unit.test_daemon_feels import Deaf, Time, controller

Scrape = dict[str, list[tuple[dict[str, str], float]]]


def scraped(facade: FakeFacade) -> Scrape:
    text = metrics.render(metrics.Snapshot.of(facade)).decode()
    found: Scrape = {}
    for family in text_string_to_metric_families(text):
        assert family.name.startswith(("ha_agent_", "process_"))
        assert family.documentation
        for sample in family.samples:
            found.setdefault(sample.name.removeprefix("ha_agent_"), []).append((sample.labels, sample.value))
    return found


def test_what_an_alert_needs() -> None:
    found = scraped(FakeFacade())
    assert found["armed"] == [({}, 1)]
    assert found["leader"] == [({}, 1)]
    assert found["leader_epoch"] == [({}, 3)]
    assert found["ready"] == [({}, 1)]
    assert found["incidents_blocked"] == [({}, 1)]
    assert ({"step": "evacuate"}, 1) in found["incidents_open"]
    assert ({"step": "fence"}, 1) in found["incidents_open"]
    assert ({"step": "unfence"}, 0) in found["incidents_open"]
    assert ({"host": "h2", "verdict": "down"}, 1) in found["host_verdict"]
    assert ({"verdict": "suspect"}, 0) in found["hosts_by_verdict"]
    assert ({"host": "h2"}, 60) in found["heartbeat_age_seconds"]
    assert ({"host": "h1"}, 1) in found["host_maintenance"]
    assert found["incident_servers"].count(({"stage": "held"}, 1)) == 1
    assert ({"host": "h3", "kind": "host", "step": "fence"}, 10.0) in found["host_incident_open_seconds"]
    assert ({"host": "h3", "kind": "host"}, 1) in found["host_incident_blocked"]
    assert ({"host": "h2", "kind": "host"}, 0) in found["host_incident_blocked"]
    assert "h1" not in str(found["host_incident_open_seconds"])


def test_a_device_that_was_not_looked_at_is_absent_not_failed() -> None:
    found = scraped(FakeFacade())["fencing_device_ok"]
    assert [(labels["host"], value) for labels, value in found] == [("h1", 1), ("h2", 0)]


def test_unknown_health_is_absent() -> None:
    assert scraped(FakeFacade())["host_nova_compute_up"] == [({"host": "h1"}, 1)]


def test_what_waits_for_whom() -> None:
    facade = FakeFacade()
    facade.told = [
        Delivery(name="bus", backlog=7, published=5, failures=4, rejected=3, dropped=2, last_error="no route")
    ]
    found = scraped(facade)
    figures = ("backlog", "published_total", "failures_total", "rejected_total", "dropped_total")
    assert [found[f"outbox_{name}"] for name in figures] == [[({"to": "bus"}, value)] for value in (7, 5, 4, 3, 2)]


def test_planes_that_are_lost() -> None:
    facade = FakeFacade()
    assert "host_planes_lost" not in scraped(facade)
    facade.hosts = {"n": HostViewSummary(host="n", verdict=Verdict.ALIVE, planes_lost=("storage", "tenant"))}
    assert scraped(facade)["host_planes_lost"] == [({"host": "n"}, 2)]


def test_histograms() -> None:
    facade = FakeFacade()
    measures = Measures()
    for seconds in (0.002, 0.3, 99.0):
        measures.store_write.add(seconds)
    facade.measured = list(measures.all())
    found = scraped(facade)
    assert ({"call": "write"}, 3.0) in found["store_seconds_count"]
    assert ({"call": "write"}, 99.302) in found["store_seconds_sum"]
    assert ({"call": "read"}, 0.0) in found["store_seconds_count"]
    assert found["loop_lag_seconds_count"] == [({}, 0.0)]
    buckets = {each["le"]: value for each, value in found["store_seconds_bucket"] if each["call"] == "write"}
    assert (buckets["0.001"], buckets["0.0025"], buckets["0.25"], buckets["0.5"]) == (0, 1, 1, 2)
    assert (buckets["10.0"], buckets["+Inf"]) == (2, 3)


def test_numbers() -> None:
    facade = FakeFacade()
    found = scraped(facade)
    assert found["heartbeats_total"] == [({}, 7)]
    assert found["connections_refused_total"] == [({"why": "rate"}, 3)]
    assert found["certificate_remaining_seconds"] == [({}, 172_800.0)]
    assert "something_new" not in str(found)


def test_every_number_and_measure_of_a_controller_is_a_metric(tmp_path: Path) -> None:
    """A counter that is added must be given a name, or be left out on purpose."""
    made = controller(Time(), OwnNetwork(tmp_path))
    made.monitor = Wired()  # type: ignore[assignment]
    assert set(made.counters()) == {*NUMBERS, *UNSEEN}
    assert {each.name for each in Measures().all()} == set(HISTOGRAMS)


class Wired(Deaf):
    """A monitor that has counters and certificates."""

    counters = Counters()

    def pki_days(self) -> dict[str, float]:
        return {"certificate_days": 30.0, "authority_days": 900.0}


def test_servers_by_what_would_become_of_them_and_hosts_that_stand_in_the_way() -> None:
    found = scraped(FakeFacade())  # see SaysOfReadiness: the servers of two hosts are counted, the third is not ready
    figures = ("servers_protected", "servers_at_risk", "servers_unprotected", "hosts_uncounted")
    assert [found[name] for name in figures] == [[({}, value)] for value in (14, 2, 4, 1)]
    assert found["host_at_risk"] == [({"host": "h3", "check": "fencing"}, 1)], "a note stops nothing"


def test_series_grow_with_hosts_only() -> None:
    def count(hosts: int) -> int:
        facade = FakeFacade()
        facade.hosts = {
            f"n{i}": HostViewSummary(host=f"n{i}", verdict=Verdict.ALIVE, last_seen_age_s=1.0) for i in range(hosts)
        }
        return sum(map(len, scraped(facade).values()))

    assert count(200) - count(100) == 5 * 100


def test_names_are_escaped() -> None:
    facade = FakeFacade()
    facade.hosts = {'a"b\\c': HostViewSummary(host='a"b\\c', verdict=Verdict.ALIVE)}
    assert ({"host": 'a"b\\c', "verdict": "alive"}, 1) in scraped(facade)["host_verdict"]


class Large(FakeFacade):
    """A cloud of so many hosts, with all that is known of a host where nothing is wrong but the network was bad once."""

    def __init__(self, hosts: int) -> None:
        super().__init__()
        names = [f"compute-{number:04}.example.org" for number in range(hosts)]
        self.hosts = {
            name: HostViewSummary(
                host=name,
                verdict=Verdict.ALIVE,
                last_seen_age_s=1.234567,
                rtt_s=0.00123456,
                nova_compute=Health.UP,
                connected=True,
                witnesses=5,
                certificate_days=123.456789,
                dials_failed=3,
            )
            for name in names
        }
        self.looked_at = [
            DeviceHealth(
                host=name, device=device, level=level, driver="ipmi", ok=True, power=Power.ON, checked_age_s=99.9
            )
            for name in names
            for level, device in ((1, "bmc"), (2, "pdu"))
        ]

    def devices(self) -> list[DeviceHealth]:
        return self.looked_at


def test_a_scrape_of_5000_hosts_is_below_5_mb() -> None:
    facade = Large(5000)
    began = time.process_time()
    body = metrics.render(metrics.Snapshot.of(facade))
    took_s = time.process_time() - began
    packed = metrics.render(metrics.Snapshot.of(facade), packed=True)
    print(f"5,000 hosts: {len(body) / 1e6:.1f} MB, {took_s:.2f} s of CPU; packed {len(packed) / 1e6:.1f} MB")
    assert body.count(b"\n") > 5000 * 12
    assert gzip.decompress(packed).count(b"\n") == body.count(b"\n")
    assert len(body) < 5_000_000
