"""What a Prometheus would have scraped of a simulated controller: its metrics as our own code renders them, at points of virtual time, as the
input of `promtool test rules`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from ha_agent.api.facade import LeaderInfo
from ha_agent.controller import readiness
from ha_agent.controller.measures import Measures
from ha_agent.controller.quiet_nova import protection
from ha_agent.controller.summaries import numbers, summaries
from ha_agent.errors import HaAgentError
from ha_agent.heartbeat.expiry import Thresholds
from ha_agent.metrics import Snapshot, render
from ha_agent.model import Server
from ha_agent.notify.writer import KIND as OUTBOX
from ha_agent.policy import Detection, Fencing, HostPolicy, Policy, Recovery, Storm
from ha_agent.ports import Delivery, Heartbeat
from ha_agent.sim.actions import perform
from ha_agent.sim.loop import Process
from ha_agent.sim.requests import SimCloud
from ha_agent.sim.simulation import PROTECTED, Simulation

JOB, INSTANCE = "ha-agent", "controller-1"
WELL = {"certificate_days": 400.0, "authority_days": 3000.0, "bugs": 0.0, "wire_forged_probes": 0.0} | {
    f"wire_refused_{why}": 0.0 for why in ("identities", "revoked")
}
"""Numbers of what is not simulated: PKI and wire."""

Twist = Callable[[Snapshot, float], Snapshot]
"""What happens to a controller that the simulator does not know of. Of a snapshot and the virtual time; returns another snapshot."""


class Scrapes:
    """Texts of one controller, `interval_s` apart; None: it did not answer."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self._seen: dict[str, dict[int, str]] = {}
        self._number = 0

    def take(self, text: bytes | None) -> None:
        """The next one."""
        rows = {} if text is None else dict(_samples(text))
        for series, value in {f'up{{job="{JOB}",instance="{INSTANCE}"}}': "0" if text is None else "1", **rows}.items():
            self._seen.setdefault(series, {})[self._number] = value
        self._number += 1

    def series(self) -> list[dict[str, str]]:
        """As promtool takes them. A series that is gone is stale, as Prometheus notes it."""
        return [{"series": name, "values": self._values(values)} for name, values in sorted(self._seen.items())]

    def _values(self, values: Mapping[int, str]) -> str:
        row = [values.get(n) or ("stale" if n - 1 in values else "_") for n in range(self._number)]
        runs = [(value, len(list(run))) for value, run in groupby(row)]
        return " ".join(_run(value, length) for value, length in runs)


def _run(value: str, length: int) -> str:
    if value == "_":
        return f"_x{length}"
    return value if length == 1 else f"{value}x{length - 1}"


def _samples(text: bytes) -> list[tuple[str, str]]:
    """Series and value of each line that is ours, with the labels that Prometheus adds."""
    found = []
    for line in text.decode().splitlines():
        if line.startswith("ha_agent_"):
            series, _, value = line.rpartition(" ")
            name, _, labels = series.partition("{")
            found.append((f'{name}{{job="{JOB}",instance="{INSTANCE}"{"," + labels if labels else "}"}', value))
    return found


def policy(hosts: int = 4, beat_s: float = 2.5, **more: Any) -> Policy:
    """A small cloud. `beat_s`: between two heartbeats; where they are rare, a day is quickly lived. `more`: of recovery."""
    detection = Detection(
        heartbeat_interval_s=beat_s,
        suspect_after_s=2.4 * beat_s,
        down_after_s=4.8 * beat_s,
        probe_interval_s=0.8 * beat_s,
        verdict_max_age_s=2 * beat_s,
    )
    recovery = Recovery(**{"settle_after_s": 300.0, "api_max_s": 10.0, **more})
    names = [f"h{n}" for n in range(1, hosts + 1)]
    rules = {
        name: HostPolicy(
            name=name,
            domain=f"rack{n % 2}",
            planes=("storage",),
            detection=detection,
            fencing=Fencing(levels=(("bmc",), ("pdu",))),
            recovery=recovery,
        )
        for n, name in enumerate(names)
    }
    return Policy(controller=INSTANCE, hosts=rules, detection=detection, storm=Storm(max_share=0.5))


class Watched:
    """A simulated cloud whose one controller is scraped every `interval_s`. Two protected servers run on each host, and one that is not."""

    def __init__(self, rules: Policy, interval_s: float = 15.0, twist: Twist = lambda snapshot, at: snapshot) -> None:
        self.scrapes = Scrapes(interval_s)
        self.sim = Simulation("scrapes", rules)
        self._twist = twist
        self._measures = Measures()
        self._life = 0
        self.sim.world.controller_planes = ("storage",)
        self.sim.saw = self._saw
        for n, host in enumerate(host for host in rules.hosts for _ in range(3)):
            self.sim.world.nova.add_server(host, f"vm{n}", tags=(PROTECTED,) if n % 3 else (), volume=True)

    def live(self, script: Mapping[float, str], until: float) -> None:
        """`script`: what happens when, several lines at a moment by ` | `."""
        sim = self.sim
        due = sorted(script.items())
        while due and due[0][0] <= 0:
            self._act(due.pop(0)[1])
        sim.start()
        while sim.world.now < until:
            at = min(self.scrapes.interval_s * (sim.world.now // self.scrapes.interval_s + 1), until)
            if due and due[0][0] <= at:
                sim.run_to(due[0][0])
                self._act(due.pop(0)[1])
                continue
            sim.run_to(at)
            snapshot = self._snapshot(sim.processes[0])
            self.scrapes.take(None if snapshot is None else render(self._twist(snapshot, at)))

    def _act(self, lines: str) -> None:
        for line in lines.split(" | "):
            perform(self.sim, line)

    def _saw(self, who: str, what: object) -> None:
        engine = self.sim.processes[0].engine
        if isinstance(what, Heartbeat) and engine is not None:
            self._measures.beats.take(what, engine.views.get(what.host), engine.policy)

    def _snapshot(self, process: Process) -> Snapshot | None:
        engine, sim = process.engine, self.sim
        if engine is None or process.paused:
            return None
        if process.lives != self._life:
            self._life, self._measures = process.lives, Measures()
        self._measures.stages.follow(engine.state)
        views, devices = summaries(engine), process.devices.all()
        try:
            readable = bool(SimCloud(sim.world).services())
        except HaAgentError:
            readable = False
        waiting = len(sim.store.list(OUTBOX))
        until_s = max(0.0, engine.lease_until - process.now())
        return Snapshot(
            state=engine.state,
            views=views,
            devices=tuple(devices),
            deliveries=(
                Delivery(
                    name="bus",
                    backlog=waiting,
                    published=engine.told - waiting,
                    failures=0,
                    rejected=0,
                    dropped=0,
                    last_error="",
                ),
            ),
            leader=LeaderInfo(name=engine.name, epoch=engine.epoch, leading=engine.leading, until_s=until_s),
            ready=(),
            numbers={**WELL, **numbers(engine), **self._measures.beats.numbers(), "nova_readable": float(readable)},
            measures=self._measures.all(),
            readiness=readiness.whole(
                (),
                "",
                [
                    readiness.judge(
                        engine.policy.hosts[host],
                        view,
                        engine.state.hosts.get(host),
                        devices=[device for device in devices if device.host == host],
                        services={host: SimCloud(sim.world).service(host)},
                        servers=protection(self._servers(host), engine.policy.hosts[host].recovery),
                        limits=Thresholds(),
                    )
                    for host, view in views.items()
                    if host in engine.policy.hosts
                ],
            ),
            now=process.now(),
        )

    def _servers(self, host: str) -> list[Server]:
        rows = self.sim.world.nova.servers.values()
        return [
            Server(id=row.id, host=host, status=row.status, tags=row.tags, local_disk=not row.volume)
            for row in rows
            if row.host == host
        ]
