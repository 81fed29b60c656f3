"""The lab with a controller: real remotes behind cables, real gates, real BMCs; the controller in a process of its own."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ha_agent.heartbeat.pki import Pki
from tests.integration.nova.lab import Lab
from tests.integration.nova.servers import Servers
from tests.integration.nova.settings import AGENT
from tests.integration.rig_cable import PowerWire
from tests.integration.rig_controller import ControllerProcess

T = TypeVar("T")
WATCH_S = 0.05


class Controlled(ControllerProcess):
    """Every host of the lab boots anew, with keys of this controller's authority. `doubles`: servers seen running on two hosts at once."""

    def __init__(self, directory: Path, lab: Lab) -> None:
        super().__init__(directory, list(lab.hosts))
        self.lab = lab
        self.servers_of = Servers(lab)
        self.cables = {name: PowerWire() for name in lab.hosts}
        self.doubles: set[tuple[str, ...]] = set()
        self.switched: dict[str, int] = {}  # host -> how many lines its switch had logged before the story
        self._plugged: dict[str, str] = {}  # host -> the boot whose remote its cable leads to
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Controlled:
        self.directory.mkdir(parents=True)
        pki = Pki(self.directory / "ca")
        pki.init()
        pki.issue("controller", "controller-1", self.directory / "pki")
        for name, host in self.lab.hosts.items():
            host.power(False)
            for old in ("pki", "remote"):
                shutil.rmtree(host.directory / old, ignore_errors=True)
            pki.issue("host", name, host.directory / "pki")
            host.gated(True)
            host.power(True)
        bmcs = {name: host.bmc.port for name, host in self.lab.hosts.items()}
        self.configure(self.lab.settings.cloud(AGENT), bmcs, {name: cable.port for name, cable in self.cables.items()})
        self._watcher = asyncio.create_task(self._watch())
        try:
            await self.until(lambda: set(self._plugged) == set(self.names), 60, "every host boots")
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        self.switched = {name: len(host.bmc.log()) for name, host in self.lab.hosts.items()}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_controller()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        for cable in self.cables.values():
            await cable.close()
        for host in self.lab.hosts.values():
            host.gated(False)

    async def ask_nova(self, question: Callable[[], T]) -> T:
        """Off the loop, which the cables need."""
        return await asyncio.to_thread(question)

    async def _watch(self) -> None:
        """A cable is silent when its host has no power, and leads to the remote of the newest boot when it has."""
        while True:
            runs: dict[str, list[str]] = {}
            for name, host in self.lab.hosts.items():
                boot, port = host.remote()
                if not host.alive():
                    self.cables[name].cut()
                elif boot and boot == host.boot and boot != self._plugged.get(name):
                    await self.cables[name].plug(port)
                    self._plugged[name] = boot
                for server, running in host.guests().items():
                    if running:
                        runs.setdefault(server, []).append(name)
            self.doubles |= {(server, *hosts) for server, hosts in runs.items() if len(hosts) > 1}
            await asyncio.sleep(WATCH_S)
