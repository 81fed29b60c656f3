"""What readiness says: whether a host's servers would live on if it died now, told before it does."""

from __future__ import annotations

from enum import StrEnum

from ha_agent.model import Value


class Check(StrEnum):
    """What was looked at."""

    HEARTBEAT = "heartbeat"
    WITNESSES = "witnesses"
    CERTIFICATE = "certificate"
    FENCING = "fencing"
    NOVA_COMPUTE = "nova_compute"
    GATE = "gate"
    POLICY = "policy"
    SERVERS = "servers"


class Finding(Value, frozen=True, kw_only=True):
    """One sentence, and what to do about it. `stops`: as it is, the recovery of the host would stop there; otherwise somebody should know."""

    check: Check
    text: str
    fix: str = ""
    stops: bool = True


class Protection(Value, frozen=True, kw_only=True):
    """The servers of a host when they were last counted. `protected`: would be moved. `at_risk`: chosen, but their disks would be lost, or Nova would
    not move them as they are; they would stay. `unprotected`: nobody chose them. `age_s`: of the count."""

    protected: int = 0
    at_risk: int = 0
    unprotected: int = 0
    age_s: float = 0.0


class HostReadiness(Value, frozen=True, kw_only=True):
    """One host. `ready`: nothing that was found stops its recovery. `servers`: None where they were not counted yet."""

    host: str
    ready: bool
    findings: tuple[Finding, ...] = ()
    servers: Protection | None = None


class Readiness(Value, frozen=True, kw_only=True):
    """The cloud. `ready`: every host would be recovered. `controller`: why this controller would not act, or not in time, one sentence each; `notes`: what
    somebody should know of it. `standby`: the leader's name where another one
    leads; the hosts are then as this one sees them."""

    ready: bool
    controller: tuple[str, ...] = ()
    standby: str = ""
    notes: tuple[str, ...] = ()
    hosts: tuple[HostReadiness, ...] = ()
