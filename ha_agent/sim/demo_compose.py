"""The controller of the demo, put together from the same parts as the real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openstack

from ha_agent.controller.daemon import Controller
from ha_agent.fencing.fencer import WorkerFencer
from ha_agent.fencing.topology import Device, Topology
from ha_agent.heartbeat.link import Endpoint
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.notify.bus import KombuBus
from ha_agent.notify.outbox import Outbox
from ha_agent.policy import HostPolicy, Policy
from ha_agent.ports import Clock, Observer, Random
from ha_agent.recovery.nova import NovaCloud
from ha_agent.sim.demo_failures import Failure
from ha_agent.sim.demo_world import World
from ha_agent.store.sqlite import SqliteStore
from ha_agent.system import SystemRandom

BMC = "bmc"  # as the default policy calls the device of level 1
RACKS = 3


def compose(
    world: World, failure: Failure, directory: Path, clock: Clock, on_line: Callable[[str], None]
) -> Controller:
    """Defaults everywhere, but for what `failure` shortens. Its store is in `directory`."""
    hosts = {
        name: HostPolicy(
            name=name, domain=f"rack-{number % RACKS + 1}", detection=failure.detection, fencing=failure.fencing
        )
        for number, name in enumerate(world.hosts)
    }
    policy = Policy(hosts=hosts, detection=failure.detection)
    random = SystemRandom()
    store = SqliteStore(directory / "store.db")
    bus = KombuBus("memory://", exchange=world.topic, topic=world.topic, publisher_id=f"ha-agent:{policy.controller}")
    connection = openstack.connect(
        load_yaml_config=False, load_envvars=False, app_name="ha-agent-demo", **world.api.cloud()
    )
    near = {name: Endpoint(address="127.0.0.1", port=h.management.port) for name, h in world.hosts.items()}
    far = {name: Endpoint(address="127.0.0.1", port=h.neighbours.port) for name, h in world.hosts.items()}
    return Controller(
        name=policy.controller,
        policy=policy,
        store=store,
        clock=clock,
        random=random,
        cloud=NovaCloud(connection=connection),
        monitor=lambda observe: TwoCables(world.controller_pki, near, far, observe, clock, random),
        fencer=lambda expect: WorkerFencer(_topology(world), clock, expect, send_within_s=policy.lease_s / 3),
        outbox=Outbox(store, bus, random),
        drivers={(name, BMC): "ipmi" for name in hosts},
        on_line=on_line,
    )


def _topology(world: World) -> Topology:
    levels: dict[str, tuple[tuple[Device, ...], ...]] = {}
    for name, port in world.ports.items():
        device = Device(
            name=BMC,
            address=world.farm.address,
            port=port,
            username=world.farm.username,
            password_file=str(world.bmc_password),
        )
        levels[name] = ((device,),)
    return Topology(levels=levels)


class TwoCables(Monitor):
    """The monitor in a world where the other hosts reach a host by another cable than this controller does, so that one may be cut
    without the other."""

    def __init__(
        self,
        directory: Path,
        near: dict[str, Endpoint],
        far: dict[str, Endpoint],
        observe: Observer,
        clock: Clock,
        random: Random,
    ) -> None:
        super().__init__(directory, near, observe, clock, random)
        self._far = far

    def probe(self, witness: str, target: str, nonce: str, deadline_s: float) -> None:
        """See ports.Monitor."""
        self._links[witness].probe(target, self._far[target], nonce, deadline_s)
