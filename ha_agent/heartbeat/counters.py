"""What the heartbeat counts for the metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """Plain integers that only grow. Changed on the event loop only."""

    connections: int = 0  # sessions that got as far as an agreed version
    handshake_failures: int = 0  # TLS did not come about, or no Hello came in time; of these:
    handshakes_expired: int = 0  # … the certificate was not valid at this time
    handshakes_untrusted: int = 0  # … no certificate, one of a foreign authority, or the peer distrusts ours
    handshakes_garbage: int = 0  # … it was no TLS
    handshakes_slow: int = 0  # … the deadline passed
    handshakes_cut: int = 0  # … the connection ended
    handshakes_evicted: int = 0  # … it was the oldest when too many were unfinished
    malformed_frames: int = 0  # anything that broke the wire protocol; its connection was closed
    oversized_frames: int = 0  # of these: a frame announced as longer than allowed
    refused_identities: int = 0  # a valid certificate of the wrong name or role
    refused_revoked: int = 0  # a certificate that was revoked
    refused_rate: int = 0  # turned away before TLS: too many came in a short time
    refused_address: int = 0  # turned away before TLS: too many stand from that address
    refused_full: int = 0  # turned away before TLS: too many stand
    refused_peers: int = 0  # turned away after TLS: too many of one identity stand
    refused_requests: int = 0  # requests of a session that had too many under way
    closed_revoked: int = 0  # connections that stood when their certificate was revoked, or its authority distrusted
    idle_closed: int = 0  # connections closed because nothing came for too long
    forged_probes: int = 0  # a witness relayed a "signed" answer that does not verify
    probes: int = 0  # probes carried out for somebody
    refused_beats: int = 0  # more of them than a remote of ours sends
    refused_claims: int = 0  # told of more other claimants of our hosts than there can be
    guest_events: int = 0  # events of guests that remotes told of, repetitions included
    refused_guest_events: int = 0  # … that came too fast; their remote tells of them again

    def failed_handshake(self, why: str) -> None:
        """`why`: as channel.why_tls, or "evicted"."""
        self.handshake_failures += 1
        name = f"handshakes_{why}"
        setattr(self, name, getattr(self, name) + 1)
