"""Two clouds behind one face: a real Nova, and the simulated one. A case that plays in both must see the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from openstack.connection import Connection

from ha_agent.recovery.nova import NovaCloud
from ha_agent.sim.nova_api import NovaApi
from ha_agent.sim.nova_state import NovaState
from tests.integration.nova.api import Api
from tests.integration.nova.configuration import PAGE
from tests.integration.nova.servers import Servers
from tests.integration.nova.settings import AGENT

T = TypeVar("T")
HOSTS = ("compute-1", "compute-2", "compute-3", "compute-4")


class World(Protocol):
    """A cloud of HOSTS with one hand on its power switches. May be used by several threads."""

    name: str
    api: Api
    driver: NovaCloud

    def boot(self, host: str, name: str, tags: Sequence[str] = (), image: bool = False) -> str:
        """An ACTIVE server."""

    def power(self, host: str, on: bool) -> None:
        """Its nova-compute starts with it."""

    def freeze(self, host: str) -> None:
        """Its nova-compute hangs, its guests run on."""

    def thaw(self, host: str) -> None: ...

    def spawns(self, host: str, *, seconds: float = 0.0, error: str = "") -> None:
        """How spawns on it go from now on."""

    def guests(self, host: str) -> dict[str, bool]:
        """The guests that are defined on it, and whether they run: the truth."""


class Real:
    """The lab."""

    name = "Nova"

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._hosts = servers.lab.hosts
        self.api = servers.api
        self.driver = _driver(servers.lab.settings.cloud(AGENT))
        assert tuple(self._hosts)[: len(HOSTS)] == HOSTS

    def boot(self, host: str, name: str, tags: Sequence[str] = (), image: bool = False) -> str:
        server = self._servers.boot(host, name, tags=tags, image=image)
        self._servers.settled([server])
        return server

    def power(self, host: str, on: bool) -> None:
        self._hosts[host].power(on)

    def freeze(self, host: str) -> None:
        self._hosts[host].freeze()

    def thaw(self, host: str) -> None:
        self._hosts[host].thaw()

    def spawns(self, host: str, *, seconds: float = 0.0, error: str = "") -> None:
        self._hosts[host].faults(spawn_s=seconds, spawn_error=error)

    def guests(self, host: str) -> dict[str, bool]:
        return self._hosts[host].guests()


class Simulated:
    """ha_agent.sim's Nova over HTTP, in real time."""

    name = "simulator"

    def __init__(self) -> None:
        self._state = NovaState(time.monotonic, random.Random(1), evacuation_s=(1.0, 1.5), sync_s=1.0)
        self._http = NovaApi(self._state, page=PAGE)
        for host in HOSTS:
            self._state.add_host(host)
        self._http.start_thread()
        self.api = Api(self._http.cloud())
        self.driver = _driver(self._http.cloud())

    def close(self) -> None:
        """It serves no more."""
        self._http.stop_thread()

    def boot(self, host: str, name: str, tags: Sequence[str] = (), image: bool = False) -> str:
        return self._do(lambda: self._state.add_server(host, name, tags=tags, volume=not image).id)

    def power(self, host: str, on: bool) -> None:
        if on:
            self._do(lambda: self._state.power_on(host))
            self._do(lambda: self._state.compute_start(host))
        else:
            self._do(lambda: self._state.power_cut(host))

    def freeze(self, host: str) -> None:
        self._do(lambda: self._state.freeze(host))

    def thaw(self, host: str) -> None:
        self._do(lambda: self._state.thaw(host))

    def spawns(self, host: str, *, seconds: float = 0.0, error: str = "") -> None:
        def order() -> None:
            self._state.hosts[host].spawn_fails = error
            self._state._evacuation_s = (seconds * 2, seconds * 2) if seconds else (1.0, 1.5)

        self._do(order)

    def guests(self, host: str) -> dict[str, bool]:
        def look() -> dict[str, bool]:
            self._state.tick()
            return {server: server in self._state.guests[host] for server in self._state.domains[host]}

        return self._do(look)

    def _do(self, action: Callable[[], T]) -> T:
        return self._http.call(action)


def _driver(cloud: dict[str, Any]) -> NovaCloud:
    # patient, for all cases ask at once
    return NovaCloud(connection=Connection(**cloud, app_name="test"), send_within_s=60, timeout_s=60)
