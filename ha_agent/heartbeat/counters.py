"""What the heartbeat counts for the metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """Plain integers that only grow. Changed on the event loop only."""

    connections: int = 0  # sessions that got as far as an agreed version
    handshake_failures: int = 0  # TLS did not come about, or no Hello came in time
    malformed_frames: int = 0  # anything that broke the wire protocol; its connection was closed
    refused_identities: int = 0  # a valid certificate of the wrong name or role
    caps_hit: int = 0  # connections or requests turned away because there were too many
    idle_closed: int = 0  # connections closed because nothing came for too long
    forged_probes: int = 0  # a witness relayed a "signed" answer that does not verify
    probes: int = 0  # probes carried out for somebody
