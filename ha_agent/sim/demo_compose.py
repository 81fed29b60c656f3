"""The controller of the demo: the real one's parts, put together from a configuration file that is loaded as the real one's is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import openstack
import yaml

from ha_agent import config
from ha_agent.controller import compose as real
from ha_agent.controller.daemon import Controller
from ha_agent.controller.engine import SEND_SHARE
from ha_agent.fencing.fencer import WorkerFencer
from ha_agent.heartbeat.link import Endpoint
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.notify.bus import KombuBus
from ha_agent.notify.deliveries import BUS, Deliveries
from ha_agent.notify.outbox import Threaded
from ha_agent.ports import Clock, Observer, Random
from ha_agent.recovery.nova import NovaCloud
from ha_agent.sim.demo_failures import Failure
from ha_agent.sim.demo_world import World
from ha_agent.store.sqlite import SqliteStore
from ha_agent.system import SystemRandom

RACKS = 3


def configuration(world: World, failure: Failure, directory: Path) -> dict[str, Any]:
    """controller.yaml of this world. Defaults everywhere, but for places, and what `failure` shortens."""
    bmc = {
        "driver": "ipmi",
        "address": world.farm.address,
        "username": world.farm.username,
        "password_file": str(world.bmc_password),
    }
    return {
        "version": 1,
        "cloud": "demo",
        "pki": {"directory": str(world.controller_pki)},
        "detection": {
            "hung_patience_s": failure.detection.hung_patience_s,
            "nova_report_interval_s": failure.detection.nova_report_interval_s,
        },
        "fencing": {"attempt_s": failure.fencing.attempt_s, "devices": {"bmc": bmc}, "levels": [["bmc"]]},
        "notifications": {"bus": {"url": "memory://", "exchange": world.topic, "topic": world.topic}},
        "http": {"socket": str(directory / "controller.sock")},
        "store": {"url": f"sqlite:///{directory / 'store.db'}"},
        "hosts": {
            name: {"address": "127.0.0.1", "port": host.management.port, "domain": f"rack-{number % RACKS + 1}"}
            for number, (name, host) in enumerate(world.hosts.items())
        },
        "overrides": [
            {"match": {"hosts": name}, "fencing": {"devices": {"bmc": {**bmc, "port": port}}}}
            for name, port in world.ports.items()
        ],
    }


def load(world: World, failure: Failure, directory: Path) -> config.Loaded:
    """The configuration, written and read. The API takes any free port. Raises ConfigError."""
    path = directory / "controller.yaml"
    path.write_text(yaml.safe_dump(configuration(world, failure, directory), sort_keys=False), encoding="utf-8")
    loaded = config.load(path)
    return msgspec.structs.replace(loaded, http=msgspec.structs.replace(loaded.http, port=0))


def compose(loaded: config.Loaded, world: World, clock: Clock, on_line: Callable[[str], None]) -> Controller:
    """As the real composition does it, with a monitor that knows two cables and the world's own cloud."""
    policy, random = loaded.policy, SystemRandom()
    send_within_s = policy.lease_s * SEND_SHARE
    store = SqliteStore(Path(loaded.store.path))
    bus = KombuBus(
        loaded.bus.url,
        exchange=loaded.bus.exchange,
        topic=loaded.bus.topic,
        publisher_id=f"ha-agent:{policy.controller}",
    )
    connection = openstack.connect(
        load_yaml_config=False, load_envvars=False, app_name="ha-agent-demo", **world.api.cloud()
    )
    near = real.endpoints(loaded)
    far = {name: Endpoint(address="127.0.0.1", port=host.neighbours.port) for name, host in world.hosts.items()}
    return Controller(
        name=policy.controller,
        policy=policy,
        store=store,
        clock=clock,
        random=random,
        cloud=NovaCloud(connection=connection, send_within_s=send_within_s),
        monitor=lambda observe: TwoCables(Path(loaded.pki_directory), near, far, observe, clock, random),
        fencer=lambda expect: WorkerFencer(real.topology(loaded), clock, expect, send_within_s=send_within_s),
        outboxes=Deliveries(store, random, {BUS: Threaded(bus)}),
        drivers=real.drivers(loaded),
        on_line=on_line,
    )


class TwoCables(Monitor):
    """The monitor in a world where the other hosts reach a host by another cable than this controller does, so that one may be cut
    without the other."""

    def __init__(
        self,
        directory: Path,
        near: Mapping[str, Endpoint],
        far: Mapping[str, Endpoint],
        observe: Observer,
        clock: Clock,
        random: Random,
    ) -> None:
        super().__init__(directory, near, observe, clock, random)
        self._far = far

    def probe(self, witness: str, target: str, nonce: str, deadline_s: float) -> None:
        """See ports.Monitor."""
        self._links[witness].probe(target, self._far[target], nonce, deadline_s)
