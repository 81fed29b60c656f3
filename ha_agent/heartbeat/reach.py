"""Reaching a target: dial it, have it sign a nonce, and say what came of it. Used by witnesses and by the controller itself.

A target with several planes is dialled over all of them at once, within the one deadline: which planes are lost is worth knowing, and to
find that out takes no longer than to deny it.
"""

from __future__ import annotations

import asyncio

from ha_agent import planes
from ha_agent.errors import ProtocolError
from ha_agent.heartbeat import wire
from ha_agent.heartbeat.channel import Channel, DialError
from ha_agent.heartbeat.credentials import Credentials
from ha_agent.model import Answer
from ha_agent.planes import MANAGEMENT
from ha_agent.ports import Clock


async def reach(probe: wire.Probe, credentials: Credentials, clock: Clock) -> wire.ProbeResult:
    """What the target answers, within the probe's deadline. SIGNED only with a signature that holds; TCP where its kernel answered
    and no more came; SILENT where nothing did; FAILED where we could not ask. Raises nothing."""
    if not isinstance(probe.planes, dict):
        return await _reach(probe, probe.address, credentials, clock)
    addresses = {MANAGEMENT: probe.address, **probe.planes}
    results = await asyncio.gather(*(_reach(probe, address, credentials, clock) for address in addresses.values()))
    over = {plane: result.answer for plane, result in zip(addresses, results, strict=True)}
    signed = next((result.signed for result in results if result.signed is not None), None)
    errors = "; ".join(f"{p}: {result.error}" for p, result in zip(addresses, results, strict=True) if result.error)
    return wire.ProbeResult(
        nonce=probe.nonce,
        target=probe.target,
        answer=planes.summed(over),
        signed=signed,
        error=errors[:512],
        planes=over,
    )


async def _reach(probe: wire.Probe, address: str, credentials: Credentials, clock: Clock) -> wire.ProbeResult:
    """Over one plane."""
    answered = asked = False
    error = ""
    channel: Channel | None = None
    try:
        async with asyncio.timeout(probe.deadline_s):
            channel = await credentials.dial(address, probe.port, probe.deadline_s * 0.95)
            answered = True
            signed = await _challenge(channel, probe, address, credentials, clock)
            return wire.ProbeResult(nonce=probe.nonce, target=probe.target, answer=Answer.SIGNED, signed=signed)
    except DialError as problem:
        answered, asked, error = problem.answered, problem.asked, str(problem)
    except TimeoutError:
        asked, error = True, f"no answer in {probe.deadline_s:g} s"
    except (ProtocolError, OSError) as problem:
        error = str(problem)
    finally:
        if channel is not None:
            channel.abort()
    answer = Answer.TCP if answered else Answer.SILENT if asked else Answer.FAILED
    return wire.ProbeResult(nonce=probe.nonce, target=probe.target, answer=answer, error=error[:512])


async def _challenge(
    channel: Channel, probe: wire.Probe, address: str, credentials: Credentials, clock: Clock
) -> wire.Signed:
    if (channel.role, channel.name) != ("host", probe.target):
        raise ProtocolError(f"at {address}:{probe.port} answers {channel.role} {channel.name!r}")
    channel.send(wire.Hello(versions=wire.VERSIONS, name=credentials.name))
    welcome = await channel.receive(probe.deadline_s)
    if not isinstance(welcome, wire.Welcome):
        reason = welcome.reason if isinstance(welcome, wire.Refused) else "no Welcome came"
        raise ProtocolError(f"{probe.target} refused: {reason}")
    channel.send(wire.Challenge(nonce=probe.nonce))
    while True:  # a controller that probes may be sent something else first
        frame = await channel.receive(probe.deadline_s)
        if isinstance(frame, wire.Signed):
            credentials.now.verifier.check(frame, probe.nonce, probe.target, clock.wall())
            return frame
