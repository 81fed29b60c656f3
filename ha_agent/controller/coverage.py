"""Which servers would be recovered if their host died now, which would not, and why. Read in peace, so that nobody learns it in the night.

Nova is asked for the servers of one host after the other, by the leader only and at most once in READ_EVERY_S: of a large cloud a round takes
longer. What is counted is what a recovery would choose, by the same rules.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from ha_agent import guards
from ha_agent.api.facade import Covered, DeviceHealth, HostViewSummary
from ha_agent.controller.engine import Engine
from ha_agent.errors import HaAgentError
from ha_agent.model import Mode, Server, State
from ha_agent.policy import HostPolicy, Policy, Recovery
from ha_agent.ports import Cloud
from ha_agent.recovery import select

READ_EVERY_S = 1.0
ROUND_S = 600.0  # of a small cloud

log = logging.getLogger("ha_agent")

Counts = Mapping[str, int]
"""How many servers, by why they would stay where they are; empty: they would be moved."""
Look = Callable[[Callable[[], Sequence[Server]]], Coroutine[Any, Any, Sequence[Server]]]


class Coverage:
    """See the module. `look`: carries out one blocking look at Nova; raises what the driver raises, and TimeoutError."""

    def __init__(self, engine: Engine, cloud: Cloud, look: Look) -> None:
        self._engine = engine
        self._cloud = cloud
        self._look = look
        self._counts: dict[str, Counts | None] = {}  # by host, the one that was tried longest ago first

    async def run(self) -> None:
        """For ever."""
        while True:
            wait_s = await self.read_next()
            await asyncio.sleep(wait_s)

    async def read_next(self) -> float:
        """The servers of the host that was tried longest ago; what cannot be read stays as it was, or unknown. A host with an open incident is
        left alone, and unknown: its servers are on their way. Returns how long to wait for the next one, seconds."""
        engine = self._engine
        hosts = {host: None for host in engine.policy.hosts if not engine.open_of(host)}
        self._counts = {host: counts for host, counts in self._counts.items() if host in hosts}
        if not engine.leading or not hosts:
            return READ_EVERY_S
        host = next((each for each in hosts if each not in self._counts), None) or next(iter(self._counts))
        counts = self._counts.pop(host, None)
        try:
            servers = await self._look(lambda: self._cloud.servers(host))
            counts = counted(servers, engine.policy.hosts[host].recovery) if host in engine.policy.hosts else None
        except (HaAgentError, TimeoutError):
            pass  # whether Nova can be read at all is told elsewhere
        except Exception:
            log.exception("a driver failed in an unexpected way; the servers of %s were not counted", host)
        self._counts[host] = counts
        return READ_EVERY_S if len(self._counts) < len(hosts) else max(READ_EVERY_S, ROUND_S / len(hosts))

    def figures(self, views: Mapping[str, HostViewSummary], devices: Iterable[DeviceHealth]) -> list[Covered]:
        """Of every host."""
        policy, state = self._engine.policy, self._engine.state
        by_host: dict[str, list[DeviceHealth]] = {}
        for device in devices:
            by_host.setdefault(device.host, []).append(device)
        return [
            covered(policy, state, view, by_host.get(host, ()), self._counts.get(host))
            for host, view in views.items()
            if host in policy.hosts
        ]


def covered(
    policy: Policy,
    state: State,
    view: HostViewSummary,
    devices: Iterable[DeviceHealth],
    counts: Counts | None,
) -> Covered:
    """Of one host. `counts`: of its servers; None: they were not read yet."""
    return Covered(
        host=view.host,
        known=counts is not None,
        protected=(counts or {}).get("", 0),
        unprotected={reason: number for reason, number in (counts or {}).items() if reason},
        risk=at_risk(policy, state, view, policy.hosts[view.host], devices),
    )


def counted(servers: Iterable[Server], recovery: Recovery) -> Counts:
    """The servers of one host."""
    return Counter(left_out(server, recovery) for server in servers)


def left_out(server: Server, recovery: Recovery) -> str:
    """Why a server would stay where it is, in one word; empty: it would be moved."""
    if recovery.mode is not Mode.AUTO:
        return "notify_mode"
    if select.chosen(server, recovery.select):
        return "not_selected"
    if select.disk_lost(server, recovery):
        return "local_disk"
    return "" if server.status in select.MOVABLE else "status"


def at_risk(
    policy: Policy, state: State, view: HostViewSummary, rules: HostPolicy, devices: Iterable[DeviceHealth]
) -> str:
    """Why the host would not be fenced without a person if it died now, in one word; empty: it would be."""
    record = state.hosts.get(view.host)
    if record is not None and record.maintenance:
        return "maintenance"
    if guards.may_act(state, view.host, policy) is not None:
        return "stopped"
    if record is None or not record.first_seen_wall:
        return "never_seen"
    if record.contradiction:
        return "contradiction"
    good = {each.device for each in devices if each.ok}
    if not any(good.issuperset(level) for level in rules.fencing.levels):
        return "fencing"
    return "witnesses" if view.witnesses < rules.detection.witnesses_min else ""
