"""Each driver's devices, good and bad, behind one face."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from ha_agent.fencing.topology import Device
from ha_agent.sim import bmc
from ha_agent.sim.bmc import BmcFarm
from tests.integration import ipmi_sim
from tests.integration.fencing_contract import agent_script, redfish_bmc
from tests.integration.fencing_contract.agent_script import AgentScript
from tests.integration.fencing_contract.bad import SLOW_S, Bad
from tests.integration.fencing_contract.machine import Machine
from tests.integration.fencing_contract.redfish_bmc import RedfishBmc
from tests.integration.fencing_contract.udp_proxy import Loss, UdpProxy
from tests.integration.ipmi_sim import IpmiSim

WRONG = "changed-since"
LOSSES = {
    Bad.HANGS_BEFORE_LOGIN: Loss.ALL,
    Bad.HANGS_AFTER_LOGIN: Loss.AFTER_LOGIN,
    Bad.DROPS_SECOND: Loss.EVERY_SECOND,
}
FARM_FAULTS = {
    Bad.STAYS_ON: bmc.Fault.IGNORE_OFF,
    Bad.FLAPS: bmc.Fault.FLAPS,
    Bad.SLOW: bmc.Fault.SLOW_OFF,
    Bad.DIES_IN_THE_MIDDLE: bmc.Fault.DIES,
    Bad.REPORTS_UNKNOWN: bmc.Fault.UNREADABLE,
    Bad.COMES_BACK: bmc.Fault.COMES_BACK,
}
SIM_FAULTS = {
    Bad.STAYS_ON: "ignore_off",
    Bad.FLAPS: "flaps",
    Bad.SLOW: "slow_off",
    Bad.DIES_IN_THE_MIDDLE: "dies",
    Bad.REPORTS_UNKNOWN: "unreadable",
    Bad.COMES_BACK: "comes_back",
}


class Rig(NamedTuple):
    """One device. `on`: whether its machine really runs. `offs`: how many offs reached the power switch. `secrets`: what must not be
    said. `processes`: every process that the device's own program was (fence agents)."""

    device: Device
    on: Callable[[], bool]
    offs: Callable[[], int]
    secrets: tuple[str, ...]
    processes: Callable[[], list[int]] = list


class Make(Protocol):
    """Starts a device that is bad in this way, for the time of the block."""

    def __call__(self, bad: Bad, directory: Path, farm: BmcFarm) -> AbstractContextManager[Rig]: ...


class Driver(NamedTuple):
    """A driver under the contract. `deadline_s`: of an attempt on its devices; `short_s`: on those that use up any time. `packages`:
    Debian's, that it needs. `skips`: what cannot be wrong with it. `vague`: it does not tell a wrong password from
    other failures."""

    name: str
    make: Make
    deadline_s: float = 5.0
    short_s: float = 3.0
    packages: tuple[str, ...] = ()
    skips: frozenset[Bad] = frozenset({Bad.WRONG_CIPHER})
    vague: bool = False


def password_file(directory: Path, bad: Bad, right: str) -> str:
    path = directory / "password"
    path.write_text(WRONG if bad is Bad.WRONG_PASSWORD else right)
    return str(path)


@contextlib.contextmanager
def ipmi_farm(bad: Bad, directory: Path, farm: BmcFarm) -> Iterator[Rig]:
    """pyghmi's BMC."""
    name = directory.name
    port = farm.add(name, lambda _: None)
    farm.fault(name, FARM_FAULTS.get(bad), delay_s=SLOW_S)
    with UdpProxy(port, LOSSES.get(bad, Loss.NONE)) as proxy:
        device = Device(
            name="bmc",
            address="127.0.0.1",
            port=proxy.port,
            username=bmc.USER,
            password_file=password_file(directory, bad, bmc.PASSWORD),
            options={"cipher": "17"} if bad is Bad.WRONG_CIPHER else {},
        )
        yield Rig(
            device,
            on=lambda: farm.power(name) == "on",
            offs=lambda: farm.commands(name).count("off"),
            secrets=(bmc.PASSWORD, WRONG),
        )


@contextlib.contextmanager
def _sim(bad: Bad, directory: Path) -> Iterator[tuple[IpmiSim, int]]:
    sim = IpmiSim(directory, "host")
    sim.start()
    try:
        if bad in SIM_FAULTS:
            sim.fault(SIM_FAULTS[bad], SLOW_S)
        with UdpProxy(sim.port, LOSSES.get(bad, Loss.NONE)) as proxy:
            yield sim, proxy.port
    finally:
        sim.stop()


def _offs(sim: IpmiSim) -> int:
    return sum(line in ("off", "ignored", "died") for line in sim.log())


@contextlib.contextmanager
def ipmi_openipmi(bad: Bad, directory: Path, farm: BmcFarm) -> Iterator[Rig]:
    """OpenIPMI's ipmi_sim, and a host that really dies."""
    with _sim(bad, directory) as (sim, port):
        device = Device(
            name="bmc",
            address="127.0.0.1",
            port=port,
            username=ipmi_sim.USER,
            password_file=password_file(directory, bad, ipmi_sim.PASSWORD),
            options={"cipher": "17"} if bad is Bad.WRONG_CIPHER else {},
        )
        yield Rig(device, on=sim.host_alive, offs=lambda: _offs(sim), secrets=(ipmi_sim.PASSWORD, WRONG))


@contextlib.contextmanager
def redfish(bad: Bad, directory: Path, farm: BmcFarm) -> Iterator[Rig]:
    """Our own BMC over HTTPS."""
    with RedfishBmc(directory, machine := Machine(bad)) as server:
        device = Device(
            name="bmc",
            driver="redfish",
            address="127.0.0.1",
            port=server.port,
            username=redfish_bmc.USER,
            password_file=password_file(directory, bad, redfish_bmc.PASSWORD),
            options={"ca_file": str(server.ca_file)},
        )
        yield Rig(device, on=lambda: machine.on, offs=lambda: machine.offs, secrets=(redfish_bmc.PASSWORD, WRONG))


@contextlib.contextmanager
def scripted_agent(bad: Bad, directory: Path, farm: BmcFarm) -> Iterator[Rig]:
    """A fence agent of ours that misbehaves."""
    script = AgentScript(directory, bad)
    device = Device(
        name="agent",
        driver="fence_agent",
        agent=str(script.path),
        address="192.0.2.1",
        port=0,
        username="admin",
        plug="7",
        password_file=password_file(directory, bad, agent_script.PASSWORD),
        options={"power_timeout": "20"},
    )
    yield Rig(
        device,
        on=lambda: script.on,
        offs=lambda: script.offs,
        secrets=(agent_script.PASSWORD, WRONG),
        processes=lambda: script.pids,
    )


@contextlib.contextmanager
def fence_ipmilan(bad: Bad, directory: Path, farm: BmcFarm) -> Iterator[Rig]:
    """ClusterLabs' agent for IPMI, which runs ipmitool, against ipmi_sim."""
    with _sim(bad, directory) as (sim, port):
        device = Device(
            name="agent",
            driver="fence_agent",
            agent="fence_ipmilan",
            address="127.0.0.1",
            port=port,
            username=ipmi_sim.USER,
            password_file=password_file(directory, bad, ipmi_sim.PASSWORD),
            options={
                "lanplus": "1",
                "cipher": "17" if bad is Bad.WRONG_CIPHER else "3",
                "power_wait": "0",
                "ipmitool_timeout": "1",
            },
        )
        yield Rig(device, on=sim.host_alive, offs=lambda: _offs(sim), secrets=(ipmi_sim.PASSWORD, WRONG))


@contextlib.contextmanager
def fence_redfish(bad: Bad, directory: Path, farm: BmcFarm) -> Iterator[Rig]:
    """ClusterLabs' agent for Redfish, against our BMC."""
    with RedfishBmc(directory, machine := Machine(bad)) as server:
        device = Device(
            name="agent",
            driver="fence_agent",
            agent="fence_redfish",
            address="127.0.0.1",
            port=server.port,
            username=redfish_bmc.USER,
            password_file=password_file(directory, bad, redfish_bmc.PASSWORD),
            options={"ssl_insecure": "true", "systems_uri": redfish_bmc.SERVICE + "/Systems/1", "power_wait": "0"},
        )
        yield Rig(device, on=lambda: machine.on, offs=lambda: machine.offs, secrets=(redfish_bmc.PASSWORD, WRONG))


DRIVERS = (
    Driver("ipmi against pyghmi's BMC", ipmi_farm, 8.0, skips=frozenset()),
    Driver("ipmi against ipmi_sim", ipmi_openipmi, 8.0, 3.0, ("openipmi",), skips=frozenset()),
    Driver("redfish", redfish),
    Driver("fence_agent, scripted", scripted_agent),
    Driver(
        "fence_ipmilan",
        fence_ipmilan,
        12.0,
        6.0,
        ("openipmi", "ipmitool", "fence-agents"),
        skips=frozenset(),
        vague=True,
    ),
    Driver("fence_redfish", fence_redfish, 12.0, 6.0, ("fence-agents",), vague=True),
)
