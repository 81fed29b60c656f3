"""A small cloud on a network of namespaces: one controller, four hypervisors, and a switch between them.

Real: kernels' TCP, the controller, every `ha-agent remote`, a BMC for each host (OpenIPMI's ipmi_sim, whose off kills all that runs on the
host), certificates made by the CLI. Simulated: Nova, over HTTP. Nova and the BMCs are in the controller's namespace, on its loopback: it
can read and fence everything even when it is cut off from every host, so that only its own judgement keeps it from that. The hypervisors are on a
second network, which the controller is not on; of one of them the controller is told that it can be reached there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from typer.testing import CliRunner

from ha_agent.cli.app import app
from ha_agent.heartbeat import gate
from ha_agent.model import Health
from ha_agent.sim.nova_api import NovaApi
from ha_agent.sim.nova_state import NovaState
from tests.integration.controller_process import launch
from tests.integration.ipmi_sim import PASSWORD, USER, IpmiSim
from tests.integration.netns import STORAGE, Network
from tests.integration.netns_host import Host

CONTROLLER = "controller-1"
HOSTS = ("compute-1", "compute-2", "compute-3", "compute-4")
TWO_PLANES = HOSTS[2]
TAG = "automatic-recovery"
HEARTBEAT_S = 0.5
SUSPECT_AFTER_S = 2.5
HUNG_PATIENCE_S = 7.0
READY_S = 40.0
LOOK_S = 0.1


class Rig:
    """See the module. One event loop runs all of it; tests leave it as they found it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nova = NovaState(time.monotonic, random.Random(7), report_s=1.0, evacuation_s=(0.8, 1.0), sync_s=0.5)
        self.api = NovaApi(self.nova)
        self.network = Network((CONTROLLER, *HOSTS), storage=HOSTS)
        self.hosts: dict[str, Host] = {}
        self._lost: set[str] = set()
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._controller: subprocess.Popen[bytes] | None = None

    # --- coming and going ---

    async def __aenter__(self) -> Rig:
        async with self._stack:
            self._stack.enter_context(self.network)
            self._pki()
            with self.network.inside(CONTROLLER):
                await self.api.start()
            self._stack.push_async_callback(self.api.stop)
            for name in HOSTS:
                self.nova.add_host(name)
                self.nova.add_server(name, f"on-{name}", tags=(TAG,))
                self.hosts[name] = Host(self.directory / name, self.network, CONTROLLER)
                self._stack.callback(self.hosts[name].bmc.stop)
            self._stack.push_async_callback(self._end_tasks)
            self._tasks = [asyncio.create_task(self._power(name)) for name in HOSTS]
            self._configure()
            self._start_controller()
            self._stack.callback(self._kill_controller)
            await self.until(self._leads, READY_S, "the controller leads")
            await self._order("arm")
            await self.all_well()
            self._stack = self._stack.pop_all()  # from here on, it is `__aexit__` that ends everything
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _pki(self) -> None:
        def pki(*words: str) -> None:
            done = CliRunner().invoke(app, ["pki", *words, "-d", str(self.directory / "ca")])
            assert done.exit_code == 0, done.output

        pki("init")
        pki("issue", "controller", CONTROLLER, "-o", str(self.directory / "pki"))
        for name in HOSTS:
            (self.directory / name).mkdir()
            pki("issue", "host", name, "-o", str(self.directory / name / "pki"))

    def _configure(self) -> None:
        """Short times, so that a story takes seconds; long enough for two busy cores."""
        (self.directory / "clouds.yaml").write_text(yaml.safe_dump({"clouds": {"rig": self.api.cloud()}}))
        secret = self.directory / "bmc-password"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        device: dict[str, Any] = {
            "driver": "ipmi",
            "address": IpmiSim.address,
            "username": USER,
            "password_file": str(secret),
            "options": {"privilege": "administrator"},
        }
        ports = {name: {"bmc": {**device, "port": host.bmc.port}} for name, host in self.hosts.items()}
        config = {
            "version": 1,
            "cloud": "rig",
            "name": CONTROLLER,
            "pki": {"directory": "pki"},
            "detection": {
                "heartbeat_interval_s": HEARTBEAT_S,
                "suspect_after_s": SUSPECT_AFTER_S,
                "down_after_s": 4,
                "hung_patience_s": HUNG_PATIENCE_S,
                "nova_report_interval_s": 1,
                "probe_interval_s": 1,
                "probe_timeout_s": 1,
                "verdict_max_age_s": 4,
            },
            "fencing": {
                "evidence_max_age_s": 10,
                "attempt_s": 8,
                "read_s": 3,
                "check_interval_s": 3,
                "retry": {"min_s": 0.5, "max_s": 2},
                "devices": ports[HOSTS[0]],
                "levels": [["bmc"]],
                "storm": {"max_hosts": 10, "max_share": 1.0, "per_domain": {"max_hosts": 10}},
            },
            "recovery": {
                "poll_s": 0.5,
                "retry": {"min_s": 0.5, "max_s": 2},
                "api_max_s": 4,
                "settle_after_s": 60,
            },
            "http": {"listen": "127.0.0.1:0", "socket": "controller.sock"},
            "store": {"url": "sqlite:///store.db", "lease_s": 6},
            "hosts": {name: {"address": self.network.address(name), **self._planes(name)} for name in HOSTS},
            "overrides": [{"match": {"hosts": name}, "fencing": {"devices": ports[name]}} for name in HOSTS[1:]],
        }
        (self.directory / "controller.yaml").write_text(yaml.safe_dump(config))

    def _planes(self, name: str) -> dict[str, Any]:
        return {"planes": {STORAGE: self.network.address(name, STORAGE)}} if name == TWO_PLANES else {}

    def _start_controller(self) -> None:
        within = ["ip", "netns", "exec", self.network.namespace(CONTROLLER)]
        self._controller = launch(self.directory, within=within)

    def freeze_controller(self) -> None:
        """It stands still, as a virtual machine does that is moved."""
        assert self._controller is not None
        os.killpg(self._controller.pid, signal.SIGSTOP)

    def thaw_controller(self) -> None:
        """It goes on."""
        assert self._controller is not None
        os.killpg(self._controller.pid, signal.SIGCONT)

    def _kill_controller(self) -> None:
        assert self._controller is not None
        self._controller.kill()
        self._controller.wait()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- the hosts' lives ---

    async def _power(self, name: str) -> None:
        """What follows from a host's power: its cable, its guests, its nova-compute. The first boot is long ago."""
        host, on, boot_id = self.hosts[name], True, ""
        while True:
            await asyncio.sleep(LOOK_S / 2)
            self.nova.tick()
            was, on = on, host.on
            if was and not on:
                self.network.replace(name)
                self.nova.power_cut(name)
            elif on and not was and name not in self._lost:
                self.network.plug(name, *self.network.planes(name))
            now = host.boot_id() if on else ""
            if now and boot_id and now != boot_id:
                self.nova.power_cut(name)  # where it only booted anew, its guests are gone all the same
                self.nova.power_on(name)
                self.nova.join(name)
                host.compute(Health.DOWN)
                await gate.wait(host.socket, lambda _: None, LOOK_S)
                self.nova.compute_start(name)
                host.compute(Health.UP)
            boot_id = now or boot_id

    def lose(self, name: str, *planes: str) -> None:
        """Every path of the host is cut, or those of some planes. It runs on, and so do its guests."""
        self._lost.add(name)
        self.network.pull(name, *(planes or self.network.planes(name)))
        self.nova.isolate(name)

    def freeze(self, name: str) -> None:
        """All of the host stops but its kernel."""
        self.hosts[name].freeze()
        self.nova.freeze(name)

    async def heal(self) -> None:
        """Undoes all that was done to cables and processes, and returns when all is well."""
        self._lost.clear()
        self.network.mend()
        self.network.plug(CONTROLLER)
        for name, host in self.hosts.items():
            if host.on:  # a host that is off is plugged in when it boots
                self.network.plug(name, *self.network.planes(name))
                self.nova.join(name)
                self.nova.thaw(name)
            host.heal()
        await self.all_well()

    # --- the controller, as a person sees it ---

    async def verdict(self, name: str) -> str:
        """On one host."""
        return str((await self._get(f"/v1/hosts/{name}"))["row"]["view"]["verdict"])

    async def incidents(self) -> list[dict[str, Any]]:
        """The open ones: what a person is alarmed by."""
        found = await self._get("/v1/incidents?phase=open")
        assert isinstance(found, list)
        return found

    async def all_well(self) -> None:
        """Returns when every host is heard and has all the others as witnesses, every device works and nothing is open."""
        await self.until(self._is_well, READY_S, "all is well")

    async def until(self, condition: Callable[[], Awaitable[bool]], timeout_s: float, what: str) -> None:
        """Raises AssertionError with the controller's log."""
        end = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(aiohttp.ClientError):  # while it starts
                if await condition():
                    return
            assert self._controller is not None
            assert self._controller.poll() is None, f"the controller ended\n{self.log()}"
            assert time.monotonic() < end, f"in vain: {what}\n{self.log()[-12000:]}"
            await asyncio.sleep(LOOK_S)

    async def until_verdict(self, name: str, verdict: str, timeout_s: float = 25.0) -> None:
        """Of one host, with an open incident."""

        async def given() -> bool:
            told = {(each["host"], each["verdict"]) for each in await self.incidents()}
            return await self.verdict(name) == verdict and (name, verdict) in told

        await self.until(given, timeout_s, f"{name} is {verdict}")

    def log(self) -> str:
        """What the controller said."""
        return (self.directory / "controller.log").read_text(errors="replace")

    async def _leads(self) -> bool:
        return bool((await self._get("/v1/status"))["controller"]["leading"])

    async def _is_well(self) -> bool:
        status, hosts = await self._get("/v1/status"), await self._get("/v1/hosts")
        return (
            not status["ready"]
            and not status["open_incidents"]
            and [each["view"]["verdict"] for each in hosts] == ["alive"] * len(HOSTS)
            and all(each["view"]["witnesses"] == len(HOSTS) - 1 for each in hosts)
            and not any(each["view"]["planes_lost"] for each in hosts)
            and all(self.nova.hosts[name].works and not self.nova.hosts[name].forced_down for name in HOSTS)
        )

    async def _order(self, order: str) -> None:
        async with self._session() as session:
            body = {"order": order, "reason": "rig"}
            async with session.post("http://localhost/v1/orders", json=body) as answer:
                assert answer.status == 200, await answer.text()

    async def _get(self, path: str) -> Any:
        async with self._session() as session, session.get(f"http://localhost{path}") as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(str(self.directory / "controller.sock"))
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(5))
