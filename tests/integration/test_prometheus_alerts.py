"""Each alert fires in an incident, and all are silent in a healthy day: incidents are simulated in virtual time, the metrics are rendered by our
own code, the rules are judged by Debian's promtool. What the simulator does not know of (a slow disk, a certificate that ends) is put into
the snapshot that is rendered, so that names and labels are the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ha_agent.controller.measures import Measures
from ha_agent.metrics import Snapshot
from ha_agent.model import Health, Mode
from ha_agent.policy import Policy
from tests.integration import promtool
from tests.integration.debian import need
from tests.integration.sim_scrapes import Twist, Watched, policy

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

DAY_S = 86_400.0


@dataclass(frozen=True)
class Story:
    """`script`: seconds -> what happens. `alerts`: those that fire in it, and no others."""

    alerts: frozenset[str]
    script: Mapping[float, str] = field(default_factory=dict)
    until: float = 1800.0
    interval_s: float = 15.0
    rules: Policy = field(default_factory=policy)
    twist: Twist = lambda snapshot, at: snapshot


def numbers(**changes: float) -> Twist:
    """From 300 s on these numbers are others."""

    def twist(snapshot: Snapshot, at: float) -> Snapshot:
        if at < 300.0:
            return snapshot
        return msgspec.structs.replace(snapshot, numbers={**snapshot.numbers, **changes})

    return twist


def slow(measure: str, seconds: float) -> Twist:
    """Everything of this measure takes so long from 300 s on."""

    def twist(snapshot: Snapshot, at: float) -> Snapshot:
        made = Measures()
        gauges = {"loop": made.loop_lag, "store": made.store_write}
        for _ in range(int(at)):
            gauges["loop"].add(0.002)
            gauges["store"].add(0.004)
        for _ in range(int(max(0.0, at - 300.0))):
            gauges[measure].add(seconds)
        return msgspec.structs.replace(snapshot, measures=made.all())

    return twist


def unchecked(snapshot: Snapshot, at: float) -> Snapshot:
    """Nobody looks at fencing devices any more."""
    devices = tuple(msgspec.structs.replace(each, checked_age_s=at) for each in snapshot.devices)
    return msgspec.structs.replace(snapshot, devices=devices)


def host_certificate(snapshot: Snapshot, at: float) -> Snapshot:
    """Of one host, twenty days."""
    view = msgspec.structs.replace(snapshot.views["h3"], certificate_days=20.0)
    return msgspec.structs.replace(snapshot, views={**snapshot.views, "h3": view})


def rejected(snapshot: Snapshot, at: float) -> Snapshot:
    """A receiver refuses what it is sent."""
    told = tuple(msgspec.structs.replace(each, rejected=int(at > 300.0)) for each in snapshot.deliveries)
    return msgspec.structs.replace(snapshot, deliveries=told)


def no_compute(snapshot: Snapshot, at: float) -> Snapshot:
    """nova-compute ends on one host, which lives on."""
    view = msgspec.structs.replace(snapshot.views["h3"], nova_compute=Health.DOWN)
    return msgspec.structs.replace(snapshot, views={**snapshot.views, "h3": view})


def story(*alerts: str, at_300: str = "", before: Mapping[float, str] | None = None, **more: Any) -> Story:
    script = {**(before or {}), **({300.0: at_300} if at_300 else {})}
    return Story(frozenset(f"HaAgent{each}" for each in alerts), script, **more)


DEAD = "device h2 dead bmc | device h2 dead pdu"
SLOWLY: dict[str, Any] = {"interval_s": 120.0, "rules": policy(3, beat_s=10.0)}
STORIES: Mapping[str, Story] = {
    "a healthy day": story(until=DAY_S, **SLOWLY),
    # what happens to hosts
    "a host dies and comes back": story("HostDown", at_300="kill h2"),
    "no device can prove it": story(
        "HostDown", "FencingDeviceFailed", "IncidentBlocked", "RecoverySlow", at_300=f"{DEAD} | freeze h2", until=2400.0
    ),
    "no room for its servers": story("HostDown", "ServersGivenUp", before={290: "disable h1 h3 h4"}, at_300="kill h2"),
    "only our path to it is cut": story("HostUnclear", at_300="cut controller-1 h2"),
    "three of four fall silent": story(
        "HostUnclear", "IncidentBlocked", "HostAtRisk", "PlaneLost", at_300="kill h1 | kill h2 | kill h3"
    ),
    "a host stays off, another is in maintenance": story(
        "HostDown", "IncidentBlocked", "HostNotBack", "MaintenanceForgotten",
        before={200: "order maintenance_on h4 new disks"}, at_300="kill h2",
        until=1.1 * DAY_S, interval_s=120.0, rules=policy(4, beat_s=10.0, mode=Mode.NOTIFY, poll_s=60.0),
    ),
    "a host was never seen": story("HostNeverSeen", before={0: "kill h2"}),
    "nova-compute ends": story("NovaComputeDown", twist=no_compute),
    "a poor network": story("FalseSuspicions", "HeartbeatsMissed", at_300="loss 0.25", until=7200.0),
    "a plane is lost": story("PlaneLost", at_300="lose_plane h2 storage"),
    # its fencing devices
    "a device refuses its password": story("FencingDeviceFailed", at_300="device h2 refuse bmc"),
    "all devices of a host fail": story("FencingDeviceFailed", "HostAtRisk", at_300=DEAD),
    "devices are not looked at": story("FencingDeviceUnchecked", twist=unchecked, until=6000.0, **SLOWLY),
    # what happens to the controller
    "another controller is met": story("AnotherClaimant", "Disarmed", at_300="foreign_claim h3"),
    "it is disarmed": story("Disarmed", at_300="order disarm"),
    "it is paused": story("Paused", at_300="order pause", until=7200.0, **SLOWLY),
    "it dies": story("Down", at_300="crash 600"),
    "its store is full": story("StoreFailed", "NoLeader", at_300="store_full 2000"),
    "its disk is slow": story("StoreSlow", twist=slow("store", 0.4)),
    "its loop is late": story("LoopLate", twist=slow("loop", 1.5)),
    "it stands still again and again": story("StandsStill", before={300 + 60 * n: "pause for 5" for n in range(5)}),
    "it doubts itself": story("DoubtsItself", twist=numbers(sickness=3.0)),
    "it has a bug": story("Bug", twist=numbers(bugs=1.0)),
    # what is around it
    "Nova is away": story("NovaUnreadable", at_300="nova down for 900"),
    "the broker is away, and a host dies": story(
        "HostDown", "ServersGivenUp", "NotificationsWait", at_300="broker down for 900 | kill h2"
    ),
    "a receiver refuses": story("NotificationsLost", twist=rejected),
    "somebody has a certificate of another name": story("Impostor", twist=numbers(wire_refused_identities=4.0)),
    "a witness forges an answer": story("Impostor", twist=numbers(wire_forged_probes=1.0)),
    "our certificate ends": story(
        "CertificateEnds", "CertificateEndsNow", twist=numbers(certificate_days=5.0), until=6000.0, **SLOWLY
    ),
    "the authority ends": story("CertificateEnds", twist=numbers(authority_days=25.0), until=6000.0, **SLOWLY),
    "a host's certificate ends": story("CertificateEnds", twist=host_certificate, until=6000.0, **SLOWLY),
}  # fmt: skip


def lived(name: str, told: Story) -> Any:
    watched = Watched(told.rules, told.interval_s, told.twist)
    watched.live(told.script, told.until)
    return promtool.fired(name, told.interval_s, watched.scrapes.series(), told.until, told.alerts)


@pytest.mark.parametrize("name", STORIES)
def test_what_fires(name: str, tmp_path: Path) -> None:
    need("prometheus")
    promtool.judge(tmp_path, [lived(name, STORIES[name])], STORIES[name].interval_s)


def test_each_alert_has_its_story() -> None:
    named = set().union(*(each.alerts for each in STORIES.values()))
    assert named == {rule["alert"] for rule in promtool.alerts()}
