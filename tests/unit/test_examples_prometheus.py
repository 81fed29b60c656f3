"""The examples for Prometheus and Grafana use metrics and labels that a controller has, and every alert has its place in the docs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ha_agent import metrics
from ha_agent.api.facade import HostViewSummary
from ha_agent.controller.measures import Measures
from ha_agent.metrics.names import NUMBERS
from ha_agent.model import Verdict
from ha_agent.ports import Delivery
from tests.unit.api_support import FakeFacade

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "examples" / "prometheus"
DASHBOARD = ROOT / "examples" / "grafana" / "ha-agent.json"
SELECTOR = re.compile(r"(?<![\w:])((?:ha_agent|process)_\w+|\w+:ha_agent_\w+:\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r'(\w+) ?(?:=~|!~|!=|=)"')
GROUPED = re.compile(r"\b(?:by|on) \(([^)]*)\)")
GIVEN = {"job", "instance"}  # by Prometheus

Series = dict[str, set[str]]


def exposed() -> Series:
    """Names and labels of every series that a controller can have."""
    facade = FakeFacade()
    facade.numbers = dict.fromkeys(NUMBERS, 1.0)
    facade.measured = list(Measures().all())
    facade.told = [Delivery(name="bus", backlog=0, published=0, failures=0, rejected=0, dropped=0, last_error="")]
    facade.hosts["h4"] = HostViewSummary(
        host="h4",
        verdict=Verdict.ALIVE,
        planes_lost=("storage",),
        certificate_days=9.0,
        false_suspicions=1,
        dials_failed=1,
    )
    found: Series = {}
    for family in text_string_to_metric_families(metrics.render(metrics.Snapshot.of(facade)).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels, GIVEN)
    return found


def rules() -> list[dict[str, Any]]:
    """Recording rules, then alerts."""
    found = []
    for name in ("ha-agent.rules.yml", "ha-agent.alerts.yml"):
        whole = yaml.safe_load((PROMETHEUS / name).read_text("utf-8"))
        found += [rule for group in whole["groups"] for rule in group["rules"]]
    return found


def recorded() -> Series:
    """What the rules add: all labels that their expressions name."""
    return {
        rule["record"]: {label for group in GROUPED.findall(rule["expr"]) for label in group.split(", ")} | {"of"}
        for rule in rules()
        if "record" in rule
    }


def queries() -> Iterator[str]:
    """Every expression of the examples."""
    for rule in rules():
        yield rule["expr"]
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def problems(query: str, known: Series) -> list[str]:
    """What no controller has."""
    used = SELECTOR.findall(query)
    wrong = [name for name, _ in used if name not in known]
    wrong += [
        f"{name}: {label}"
        for name, inside in used
        for label in LABEL.findall(inside)
        if label not in known.get(name, ())
    ]
    of_all = {label for name, _ in used for label in known.get(name, ())}
    grouped = {label for group in GROUPED.findall(query) for label in group.split(", ")}
    return wrong + [f"by {label}" for label in sorted(grouped - of_all)]


def test_only_metrics_and_labels_that_exist_are_used() -> None:
    known = {**exposed(), **recorded()}
    assert len(list(queries())) > 60
    assert {query: found for query in queries() if (found := problems(query, known))} == {}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("ha_agent_armd == 0", ["ha_agent_armd"]),
        ('ha_agent_host_verdict{verdikt="down"}', ["ha_agent_host_verdict: verdikt"]),
        ("max by (hots) (ha_agent_host_planes_lost)", ["by hots"]),
        ("instance:ha_agent_loop_lag_seconds:p99_1m > 1", ["instance:ha_agent_loop_lag_seconds:p99_1m"]),
        ('rate(ha_agent_store_seconds_bucket{call="read",le="0.5"}[5m])', []),
    ],
)
def test_a_wrong_name_would_be_seen(query: str, found: list[str]) -> None:
    assert problems(query, {**exposed(), **recorded()}) == found


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def test_each_alert_has_a_section_of_its_own_that_an_operator_finds() -> None:
    sections = re.findall(r"^## (HaAgent\w+)$", (ROOT / "docs" / "alerts.md").read_text("utf-8"), re.MULTILINE)
    assert sections == [rule["alert"] for rule in alerts()], "in the same order"
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_each_section_says_what_it_means_what_is_done_what_to_check_and_what_to_type() -> None:
    text = (ROOT / "docs" / "alerts.md").read_text("utf-8")
    for section in re.split(r"^## (?=HaAgent)", text, flags=re.MULTILINE)[1:]:
        name, _, body = section.partition("\n")
        marks = re.findall(r"^\*\*(.+?)\*\*", body, re.MULTILINE)
        assert marks == ["It means:", "We do:", "Check:", "Type:"], name


def test_the_docs_name_every_metric_and_no_other() -> None:
    table = (ROOT / "docs" / "prometheus.md").read_text("utf-8").split("## Metrics")[1].split("###")[0]
    named = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| [^|]+\| (.+) \|$", table, re.MULTILINE))))
    labels = set(re.findall(r"by `(\w+)`", table))
    families = {re.sub(r"_(bucket|count|sum)$", "", name.removeprefix("ha_agent_")) for name in exposed()}
    assert named - labels == {name for name in families if not name.startswith("process_")}


def test_each_alert_is_tried_by_promtool() -> None:
    tried = {
        each["name"]
        for name in ("ha-agent.test.yml", "ha-agent-day.test.yml")
        for each in yaml.safe_load((PROMETHEUS / name).read_text("utf-8"))["tests"]
    }
    assert {rule["alert"] for rule in alerts()} <= tried
