"""A real Prometheus scrapes a real controller, by the config of the examples: promtool finds nothing to complain of, every query of the rules and of
the dashboard is answered, and a host that dies is an alert."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.integration import promtool
from tests.integration.debian import need
from tests.integration.rig import HOSTS, Rig
from tests.unit.heartbeat_support import closed_port

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
HOST = HOSTS[0]
DASHBOARD = promtool.EXAMPLES.parent / "grafana" / "ha-agent.json"
GRAFANA = {"$__range": "10m", "$__rate_interval": "30s"}  # what it would fill in
QUIET = (  # they show what is wrong, or under way: nothing, when all is well
    "max by (kind) (ha_agent_commands_pending) > 0",
    'max by (host, verdict) (ha_agent_host_verdict{verdict!="alive"}) == 1',
    "max by (host, check) (ha_agent_host_at_risk) == 1",
    "min by (host, device, level) (ha_agent_fencing_device_ok) == 0",
)

OF_THE_MACHINE = {
    f"HaAgent{each}" for each in ("StoreSlow", "LoopLate", "DoubtsItself", "HeartbeatsMissed", "FalseSuspicions")
}


class Prometheus:
    """One that runs, and knows the rules and the controller."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    async def ask(self, path: str, **params: str) -> Any:
        """Raises AssertionError with what it says where it refuses."""
        async with aiohttp.ClientSession() as session, session.get(f"{self._url}/{path}", params=params) as answer:
            body = await answer.json()
            assert body["status"] == "success", f"{params}: {body}"
            return body["data"]

    async def values(self, query: str) -> list[float]:
        """Of each series; also NaN."""
        return [float(row["value"][1]) for row in (await self.ask("query", query=query))["result"]]

    async def silent(self, rig: Rig) -> None:
        """Waits until no alert has a reason, whether it would wait longer or not; of this machine's own slowness there may be one."""
        found: dict[str, list[float]] = {}

        async def none() -> bool:
            found.clear()
            found.update(
                {
                    rule["alert"]: await self.values(rule["expr"])
                    for rule in promtool.alerts()
                    if rule["alert"] not in OF_THE_MACHINE
                }
            )
            return not any(found.values())

        try:
            await rig.until_true(none, 20, "no alert has a reason")
        except AssertionError:
            pytest.fail(f"these have: { {name: values for name, values in found.items() if values} }")

    async def scrapes(self) -> bool:
        """Whether the controller is up, twice."""
        try:
            return await self.values('count_over_time(up{job="ha-agent"}[1m]) >= 3 and up{job="ha-agent"} == 1') != []
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def running(directory: Path, controller: int) -> AsyncIterator[Prometheus]:
    """The config of the examples, but for the controller's port, and quicker."""
    port = closed_port()
    config = yaml.safe_load((promtool.EXAMPLES / "prometheus.yml").read_text("utf-8"))
    config["global"] = dict.fromkeys(config["global"], "1s")
    config["rule_files"] = [str(promtool.EXAMPLES / each) for each in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{controller}"]
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    options = {"config.file": path, "storage.tsdb.path": directory / "tsdb", "web.listen-address": f"127.0.0.1:{port}"}
    with (directory / "prometheus.log").open("wb") as log:
        words = [f"--{name}={value}" for name, value in options.items()]
        process = await asyncio.create_subprocess_exec("prometheus", *words, stdout=log, stderr=log)
    try:
        yield Prometheus(port)
    finally:
        process.terminate()
        await process.wait()


def queries() -> Iterator[str]:
    """Of the dashboard, as Grafana would send them."""
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            expr = target["expr"]
            for name, value in GRAFANA.items():
                expr = expr.replace(name, value)
            yield expr


def listening(directory: Path) -> int:
    """The controller's config, with a port that is known."""
    port = closed_port()
    path = directory / "controller.yaml"
    config = yaml.safe_load(path.read_text("utf-8"))
    config["http"]["listen"] = f"127.0.0.1:{port}"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return port


def test_promtool_likes_the_examples() -> None:
    need("prometheus")
    promtool.run("check", "config", promtool.EXAMPLES / "prometheus.yml")
    promtool.run("test", "rules", *sorted(promtool.EXAMPLES.glob("*.test.yml")))


async def test_a_real_prometheus_sees_a_host_die(tmp_path: Path) -> None:
    need("openipmi", "prometheus")
    async with Rig(tmp_path / "rig") as rig:
        port = listening(rig.directory)
        await rig.start_controller()
        await rig.ready()
        async with running(tmp_path, port) as prometheus:
            await rig.until_true(prometheus.scrapes, 30, "Prometheus scrapes the controller")
            text = (await rig.ask("GET", "/metrics"))[1]
            assert promtool.run("check", "metrics", stdin=text.encode()) == ""

            async def counted() -> bool:
                return await prometheus.values("ha_agent_servers_protected") == [5.0]

            await rig.until_true(counted, 20, "every host's servers are counted")
            assert await prometheus.values("ha_agent_servers_unprotected") == [1.0]

            await prometheus.silent(rig)
            rig.lose(HOST)

            async def alarmed() -> dict[str, Any] | None:
                alerts = (await prometheus.ask("alerts"))["alerts"]
                found = [each for each in alerts if each["labels"]["alertname"] == "HaAgentHostDown"]
                return found[0] if found and found[0]["state"] == "firing" else None

            await rig.until_true(alarmed, 30, "the alert fires")
            alert = await alarmed()
            assert alert is None or alert["labels"]["host"] == HOST

            async def over() -> bool:
                return await rig.all_alive() and await prometheus.values("max(sum(ha_agent_incidents_open))") == [0.0]

            await rig.until_true(over, 60, "it is recovered, and back")
            await prometheus.silent(rig)
            fired = 'max_over_time(ALERTS{alertname="HaAgentHostDown",alertstate="firing"}[10m])'
            rows = (await prometheus.ask("query", query=fired))["result"]
            assert [row["metric"]["host"] for row in rows] == [HOST]

            empty = {query for query in queries() if not await prometheus.values(query)}
            assert empty == set(QUIET)
            took = 'histogram_quantile(0.9, sum by (le) (increase(ha_agent_incident_stage_seconds_bucket{stage="%s"}[10m])))'
            for stage in ("evidence", "first_evacuate", "settled", "unfenced"):
                assert 0 < (await prometheus.values(took % stage))[0] < 120
            for query in (
                "instance:ha_agent_heartbeat_round_trip_seconds:p99_5m",
                "max(instance:ha_agent_store_seconds:p99_5m)",
            ):
                assert 0 < (await prometheus.values(query))[0] < math.inf
            names = set(await prometheus.ask("label/__name__/values"))
            assert {rule["record"] for rule in promtool.recorded()} <= names
            assert await prometheus.values('up{job="ha-agent"}') == [1.0]
