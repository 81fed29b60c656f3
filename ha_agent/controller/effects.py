"""What the engine asks of the world. The daemon and the simulator carry effects out and feed back observations and outcomes."""

from __future__ import annotations

from ha_agent.model import Command, Value


class Effect(Value, frozen=True, kw_only=True, tag=True):
    """Something to be done outside."""


class Do(Effect, frozen=True, kw_only=True):
    """Carry out a journalled command. Immediately before the sending `Engine.permit(command)` must say yes. A `Finished` event
    must follow, whatever happens."""

    command: Command


class AskWitness(Effect, frozen=True, kw_only=True):
    """Ask `witness` to reach `target`; a `ProbeAnswered` with this nonce must follow."""

    witness: str
    target: str
    nonce: str
    deadline_s: float


class ReadBmc(Effect, frozen=True, kw_only=True):
    """Read the host's first fencing level, without changing anything; a `PowerSeen` must follow."""

    host: str


class ReadNova(Effect, frozen=True, kw_only=True):
    """Read Nova's row of the host; a `NovaSeen` must follow (service None when it cannot be read)."""

    host: str


class AckGuest(Effect, frozen=True, kw_only=True):
    """The guest event is journalled: tell the host's remote. Nothing follows; where it is lost, the event comes again."""

    host: str
    report: str


AnyEffect = Do | AskWitness | ReadBmc | ReadNova | AckGuest
