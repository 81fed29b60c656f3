"""Nova in quiet times: whether it can be read, who runs nova-compute, and which servers would live on. Never in the way of a recovery."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from ha_agent.api.readiness import Protection
from ha_agent.errors import HaAgentError
from ha_agent.model import ComputeService, Server
from ha_agent.policy import Policy, Recovery
from ha_agent.recovery import select

LEAST_PACE_S = 1.0  # between the servers of two hosts
AFTER_ERROR_S = 30.0  # a Nova that is ill is left in peace

T = TypeVar("T")

log = logging.getLogger("ha_agent")


class Look(Protocol):
    """Carries out one blocking call. Raises what the driver raises, and TimeoutError."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]: ...


class QuietNova:
    """`services`, `servers`: of ports.Cloud. `leads`: only the leader counts servers. `now`: boottime seconds."""

    def __init__(
        self,
        *,
        services: Callable[[], Sequence[ComputeService]],
        servers: Callable[[str], Sequence[Server]],
        look: Look,
        policy: Callable[[], Policy],
        leads: Callable[[], bool],
        now: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self._services = services
        self._servers = servers
        self._look = look
        self._policy = policy
        self._leads = leads
        self._now = now
        self._say = say
        self._counted: dict[str, tuple[float, Protection]] = {}
        self.error = ""
        """Why Nova could not be read when it was last looked at."""
        self.services: Mapping[str, ComputeService] | None = None
        """The rows of nova-compute by host, as they were last read; None: they never were."""

    def protection(self, host: str) -> Protection | None:
        """The servers of the host; None: they were not counted yet."""
        found = self._counted.get(host)
        return found and msgspec.structs.replace(found[1], age_s=self._now() - found[0])

    async def check_services(self, interval_s: float) -> None:
        """Nobody should learn in the night it is needed that Nova cannot be reached. For ever."""
        while True:
            error = await self._read_services()
            if error != self.error:
                self._say(error or "Nova can be read again")
            self.error = error
            await asyncio.sleep(interval_s)

    async def _read_services(self) -> str:
        rows, error = await _tried(self._look(self._services))
        if rows is None:
            return f"Nova cannot be read: {error}"
        self.services = {row.host: row for row in rows}
        missing = sorted(set(self._policy().hosts) - self.services.keys())
        if not missing:
            return ""
        return f"Nova has no nova-compute service of {', '.join(missing[:5])}" + (" …" if missing[5:] else "")

    async def count_servers(self, interval_s: float) -> None:
        """Each host's servers about once in `interval_s`, one host after the other. For ever."""
        while True:
            hosts = sorted(self._policy().hosts)
            for gone in self._counted.keys() - set(hosts):
                del self._counted[gone]
            pace_s = max(LEAST_PACE_S, interval_s / max(1, len(hosts)))
            for host in hosts:
                known = self._counted.get(host)
                # at first nobody knows anything: that is mended sooner
                await asyncio.sleep(await self.count(host) or (pace_s if known else LEAST_PACE_S))
            if not hosts:
                await asyncio.sleep(interval_s)

    async def count(self, host: str) -> float:
        """Once. Returns how long Nova is to be left in peace, in seconds; 0: it answered, or was not asked."""
        rules = self._policy().hosts.get(host)
        if rules is None or not self._leads():
            return 0.0
        at = self._now()
        rows, _ = await _tried(self._look(lambda: self._servers(host)))
        if rows is None:
            return AFTER_ERROR_S
        self._counted[host] = at, protection(rows, rules.recovery)
        return 0.0


async def _tried(call: Awaitable[T]) -> tuple[T | None, str]:
    """What came of it, or why nothing did."""
    try:
        return await call, ""
    except HaAgentError as failure:
        return None, str(failure)
    except TimeoutError:
        return None, "no answer in time"
    except Exception as failure:
        log.exception("a driver failed in an unexpected way")
        return None, type(failure).__name__


def protection(servers: Sequence[Server], recovery: Recovery) -> Protection:
    """What would become of them if their host died now."""
    chosen = [s for s in servers if not select.chosen(s, recovery.select)]
    stay = sum(bool(select.disk_lost(s, recovery)) or s.status not in select.MOVABLE for s in chosen)
    return Protection(protected=len(chosen) - stay, at_risk=stay, unprotected=len(servers) - len(chosen))
