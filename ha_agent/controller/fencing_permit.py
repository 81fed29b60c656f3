"""What stands between a fencing test and each of its sendings: the lease, the operator's orders, and incidents of the host."""

from __future__ import annotations

import msgspec

from ha_agent import guards
from ha_agent.controller.engine import Engine
from ha_agent.guards import Refusal
from ha_agent.model import Kind, Phase, Step


class Permit:
    """For one host and the epoch in which its test began: what another leader did meanwhile, nobody here knows."""

    def __init__(self, engine: Engine, host: str) -> None:
        self._engine = engine
        self._host = host
        self._epoch = engine.epoch

    def test(self) -> Refusal | None:
        """The test may go on: the host is in maintenance, and nothing but that keeps us from acting."""
        engine, host = self._engine, self._host
        if not engine.leading or engine.epoch != self._epoch:
            return Refusal(reason="this controller no longer leads", release="see: ha-agent status")
        record = engine.state.hosts.get(host)
        if host in engine.policy.hosts and (record is None or not record.maintenance):
            return Refusal(reason=f"{host} is not in maintenance", release=f"ha-agent maintenance on {host}")
        hosts = dict(engine.state.hosts)
        if record is not None:
            hosts[host] = msgspec.structs.replace(record, maintenance="")
        return guards.may_act(msgspec.structs.replace(engine.state, hosts=hosts), host, engine.policy)

    def off(self) -> Refusal | None:
        """An off may be sent now."""
        self._engine.flush()
        refusal = self.test()
        if refusal is not None:
            return refusal
        incident = self._engine.open_of(self._host)
        if incident:
            release = f"see: ha-agent explain {self._host}"
            return Refusal(reason=f"{self._host} has an open incident ({incident})", release=release)
        not_ours = self._engine.store_error or self._engine.may_send_in(self._epoch)
        return Refusal(reason=not_ours) if not_ours else None

    def on(self) -> Refusal | None:
        """An on may be sent now. Whoever ends the maintenance, disarms or pauses does not want a host left off; only where an incident fences
        the host is it that incident's to switch on."""
        self._engine.flush()
        # safety: its servers may be moving (S1); a fence that begins later waits until our attempt is dead
        for incident in self._engine.state.incidents.values():
            fences = incident.kind is Kind.HOST and Step.FENCE in incident.plan
            if incident.host == self._host and incident.phase is Phase.OPEN and fences:
                release = f"see: ha-agent explain {self._host}"
                return Refusal(reason=f"incident {incident.id} fences {self._host}", release=release)
        if self._engine.state.fleet.foreign:
            return Refusal(reason=f"another controller claims these hosts: {self._engine.state.fleet.foreign}")
        not_ours = self._engine.may_send_in(self._epoch)
        return Refusal(reason=not_ours) if not_ours else None
