"""Metrics: what a scrape shows of a facade, parsed back by the library that Prometheus users have."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from ha_agent import metrics
from ha_agent.api.facade import HostViewSummary
from ha_agent.model import Verdict
from tests.unit.api_support import FakeFacade


def scraped(facade: FakeFacade) -> dict[str, list[tuple[dict[str, str], float]]]:
    text = metrics.render(metrics.Snapshot.of(facade)).decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("ha_agent_")
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
    assert found["servers"].count(({"stage": "held"}, 1)) == 1


def test_a_device_that_was_not_looked_at_is_absent_not_failed() -> None:
    found = scraped(FakeFacade())["fencing_device_ok"]
    assert [(labels["host"], value) for labels, value in found] == [("h1", 1), ("h2", 0)]


def test_unknown_health_is_absent() -> None:
    assert scraped(FakeFacade())["host_nova_compute_up"] == [({"host": "h1"}, 1)]


def test_planes_that_are_lost() -> None:
    facade = FakeFacade()
    assert "host_planes_lost" not in scraped(facade)
    facade.hosts = {"n": HostViewSummary(host="n", verdict=Verdict.ALIVE, planes_lost=("storage", "tenant"))}
    assert scraped(facade)["host_planes_lost"] == [({"host": "n"}, 2)]


def test_stages_of_closed_incidents() -> None:
    found = scraped(FakeFacade())
    assert ({"stage": "evidence"}, 4.0) in found["incident_stage_seconds_sum"]
    assert ({"stage": "first_evacuate"}, 1) in found["incident_stage_seconds_count"]
    buckets = {
        labels["le"]: value for labels, value in found["incident_stage_seconds_bucket"] if labels["stage"] == "evidence"
    }
    assert (buckets["2.0"], buckets["5.0"], buckets["+Inf"]) == (0, 1, 1)


def test_numbers_with_and_without_a_metric_of_their_own() -> None:
    found = scraped(FakeFacade())
    assert found["loop_lag_seconds"] == [({}, 0.25)]
    assert found["heartbeats_total"] == [({}, 7)]
    assert found["malformed_frames_total"] == [({}, 3)]
    assert found["number"] == [({"name": "something_new"}, 5)]


def test_series_grow_with_hosts_only() -> None:
    def count(hosts: int) -> int:
        facade = FakeFacade()
        facade.hosts = {
            f"n{i}": HostViewSummary(host=f"n{i}", verdict=Verdict.ALIVE, last_seen_age_s=1.0) for i in range(hosts)
        }
        return sum(map(len, scraped(facade).values()))

    assert count(200) - count(100) == 6 * 100


def test_names_are_escaped() -> None:
    facade = FakeFacade()
    facade.hosts = {'a"b\\c': HostViewSummary(host='a"b\\c', verdict=Verdict.ALIVE)}
    assert ({"host": 'a"b\\c', "verdict": "alive"}, 1) in scraped(facade)["host_verdict"]
