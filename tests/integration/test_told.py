"""Hooks that fail, hang, fork and print megabytes, webhooks that are slow, down or answer 500: everybody else is told all the same, in
time, and recovery does not notice.

A real controller, twice: once with nobody to tell, once with all of these. How long recovery took is compared within the run.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web

from ha_agent.model import Incident, Phase
from tests.integration.debian import need
from tests.integration.rig import HOSTS, TAG, Rig
from tests.unit.heartbeat_support import closed_port
from tests.unit.notify_support import serving

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]
HOST = HOSTS[0]
NOISE_S = 5.0  # two recoveries differ by so much by themselves, on a machine that does other things as well
LAST = "ha_agent.incident.closed"
ORDER = ("ha_agent.host.forced_down", "ha_agent.host.down", LAST)
HOOKS = {
    "fails": "exit 3",
    "forks": "setsid sh -c 'while :; do echo y; sleep 0.01; done' & exit 0",
    "good": "cat >> {out}; echo >> {out}",
    "hangs": "exec sleep 600",
    "prints": "head -c 5000000 /dev/zero | tr '\\0' x",
}


class Receivers:
    """Three webhooks on one port: `/good` keeps what it gets, `/slow` never answers, `/bad` answers 500."""

    def __init__(self) -> None:
        self.got: list[dict[str, object]] = []
        self.tried: list[str] = []
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.tried.append(request.path)
        if request.path == "/slow":
            await asyncio.sleep(600)
        if request.path == "/bad":
            return web.Response(status=500, text="not today")
        self.got.append(json.loads(await request.read()))
        return web.Response(status=204)


def recovered(rig: Rig) -> bool:
    servers = [s for s in rig.nova.servers.values() if TAG in s.tags]
    return all(s.host != HOST and (s.vm_state != "active" or rig.nova.runs.get(s.id) == {s.host}) for s in servers)


async def recover(rig: Rig) -> Incident:
    """A host is lost, and comes back. The incident at its end."""
    await rig.start_controller()
    await rig.ready()
    rig.lose(HOST)
    await rig.until(lambda: recovered(rig), 60, "its servers run elsewhere")
    await rig.until(lambda: {i.phase for i in rig.incidents()} == {Phase.CLOSED}, 90, "the host is back")
    (incident,) = rig.incidents()
    return incident


def heard(out: Path) -> list[dict[str, object]]:
    """What the good hook was told."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def types(events: list[dict[str, object]]) -> list[object]:
    return [event["type"] for event in events]


def until_last(events: list[dict[str, object]]) -> list[dict[str, object]]:
    """What follows it may not have come to everybody yet."""
    return events[: types(events).index(LAST) + 1]


def stages(incident: Incident) -> dict[str, float]:
    """Seconds from the opening to each stage."""
    return {stage: at - incident.opened_at for stage, at in incident.stage_at.items()}


async def test_who_is_told_never_delays_recovery(tmp_path: Path) -> None:
    need("openipmi")
    async with Rig(tmp_path / "alone") as rig:
        alone = stages(await recover(rig))
    hooks, out = tmp_path / "hooks.d", tmp_path / "out"
    hooks.mkdir()
    for name, text in HOOKS.items():
        (hooks / name).write_text(f"#!/bin/sh\n{text.replace('{out}', str(out))}\n")
        (hooks / name).chmod(0o755)
    there = Receivers()
    async with serving(there.handle) as there.port:
        urls = {name: f"http://127.0.0.1:{there.port}/{name}" for name in ("good", "slow", "bad")}
        urls["down"] = f"http://127.0.0.1:{closed_port()}/T0K3N"
        notifications = {
            "hooks": {"directory": str(hooks), "timeout_s": 2},
            "webhooks": [{"name": name, "url": url, "timeout_s": 1} for name, url in urls.items()],
        }
        async with Rig(tmp_path / "told", notifications=notifications) as rig:
            told = stages(await recover(rig))
            await rig.until(lambda: LAST in types(there.got), 20, "the good webhook is told of the end")
            await rig.until(lambda: LAST in types(heard(out)), 60, "the good hook is told of the end")
            figures = (await rig.ask("GET", "/metrics"))[1]
            log = rig.log()

    told_both = [[e["id"] for e in until_last(events)] for events in (heard(out), there.got)]
    assert told_both[0] == told_both[1], "everybody is told the same, in the same order"
    order = [t for t in types(there.got) if t in ORDER]
    assert order == list(ORDER)
    assert {"/slow", "/bad", "/good"} <= set(there.tried)
    assert "T0K3N" not in log
    for stage, after_s in alone.items():
        assert told[stage] < after_s + NOISE_S, f"{stage}: {told[stage]:.1f} s, alone {after_s:.1f} s"
    assert 'ha_agent_outbox_rejected_total{to="hook fails"}' in figures
