"""Certificates that end soon: said in time, to whoever looks, and in the log once a day. Pure but for the log.

An expired certificate hurts late: connections that stand go on, and the first that breaks does not come back. So it is said early.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ha_agent.heartbeat.certs import made_by_us
from ha_agent.heartbeat.credentials import Credentials
from ha_agent.heartbeat.peer import Peer
from ha_agent.model import Value

log = logging.getLogger(__name__)

DAY_S = 86_400.0
NAMED = 5
NEVER = float("inf")


class Thresholds(Value, frozen=True, kw_only=True):
    """Days before the end of a certificate: `warn_days` is worth a note, `urgent_days` needs somebody now."""

    warn_days: float = 30.0
    urgent_days: float = 7.0


class Note(Value, frozen=True, kw_only=True):
    """One sentence. `key`: what it is about, whatever the day."""

    key: str
    text: str
    urgent: bool


def days_left(not_after: float, wall: float) -> float:
    """Days until the end, negative after it. `not_after`, `wall`: Unix seconds."""
    return (not_after - wall) / DAY_S


def own_days(credentials: Credentials, wall: float) -> float:
    """Of our own certificate."""
    return days_left(credentials.now.own.not_valid_after_utc.timestamp(), wall)


def authority_days(credentials: Credentials, wall: float) -> float:
    """Of the trusted authority that holds longest: an old one that waits for its end beside its successor is no news."""
    return max(days_left(each.not_valid_after_utc.timestamp(), wall) for each in credentials.now.authorities)


def notes(credentials: Credentials, peers: Iterable[Peer], wall: float, limits: Thresholds) -> list[Note]:
    """What somebody should see to. `peers`: the newest certificate of each that we know."""
    found = []
    own = own_days(credentials, wall)
    if own < limits.warn_days:
        how = f"ha-agent pki renew {credentials.role} {credentials.name}"
        text = f"our own certificate {ends(own)}; renew it where the authority is: {how}"
        found.append(Note(key="own", text=text, urgent=own < limits.urgent_days))
    authority = authority_days(credentials, wall)
    if authority < limits.warn_days:
        text = f"the authority {ends(authority)}; begin another where it is: ha-agent pki rotate start"
        found.append(Note(key="authority", text=text, urgent=authority < limits.urgent_days))
    if credentials.error:
        text = f"new files in {credentials.directory} are not used: {credentials.error}"
        found.append(Note(key="files", text=text, urgent=True))
    known = list(peers)
    return found + _of_peers(known, wall, limits) + _of_another(credentials, known)


def _of_peers(peers: Iterable[Peer], wall: float, limits: Thresholds) -> list[Note]:
    """Many hosts are issued on one day: one sentence for all of them."""
    soon: dict[bool, list[tuple[float, Peer]]] = {True: [], False: []}
    for peer in peers:
        left = days_left(peer.not_after, wall)
        if left < limits.warn_days:
            soon[left < limits.urgent_days].append((left, peer))
    found = []
    for urgent, ending in soon.items():
        if ending:
            ending.sort(key=lambda each: each[0])
            named = ", ".join(f"{peer.role} {peer.name} {ends(left)}" for left, peer in ending[:NAMED])
            more = f" and {len(ending) - NAMED} more" if ending[NAMED:] else ""
            text = f"certificates to be renewed: {named}{more}; where the authority is: ha-agent pki renew host NAME, or --all"
            found.append(Note(key=f"peers urgent={urgent}", text=text, urgent=urgent))
    return found


def stale(credentials: Credentials, peers: Iterable[Peer], wall: float, limits: Thresholds) -> list[Peer]:
    """Whose certificate somebody is told of: worth a look whether it has been renewed."""
    known = list(peers)
    ending = [peer for peer in known if days_left(peer.not_after, wall) < limits.warn_days]
    return list(dict.fromkeys((*ending, *_others(credentials, known))))  # each once, and thousands at little cost


def _others(credentials: Credentials, peers: Iterable[Peer]) -> list[Peer]:
    """While our own little authority is rotated: who shows a certificate of another one than ours is of."""
    authorities, own = credentials.now.authorities, credentials.now.own
    if len(authorities) < 2 or not all(made_by_us(each) for each in authorities):
        return []
    return [peer for peer in peers if peer.issuer != own.issuer.public_bytes()]


def _of_another(credentials: Credentials, peers: Iterable[Peer]) -> list[Note]:
    """Who would be refused if the rotation were finished now."""
    others = sorted(f"{peer.role} {peer.name}" for peer in _others(credentials, peers))
    if not others:
        return []
    named = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if others[NAMED:] else "")
    text = f"two authorities are trusted; our certificate is of one, of the other are those of: {named}"
    return [Note(key="rotation", text=text, urgent=False)]


def ends(days: float) -> str:
    """In words."""
    if days < 0:
        return f"expired {-days:.0f} day{'' if round(-days) == 1 else 's'} ago"
    return f"expires in {days:.0f} days" if days >= 2 else f"expires in {days * 24:.0f} hours"


@dataclass
class Reminder:
    """Logs each note when it is new, more urgent, or a day old."""

    said: dict[str, tuple[float, bool]] = field(default_factory=dict)

    def remind(self, found: Sequence[Note], now: float) -> None:
        """`now`: seconds of any clock that only goes forward."""
        for note in found:
            at, urgent = self.said.get(note.key, (-NEVER, False))
            if now - at >= DAY_S or (note.urgent and not urgent):
                log.warning("%s", note.text)
                self.said[note.key] = (now, note.urgent)
        keys = {note.key for note in found}
        self.said = {key: value for key, value in self.said.items() if key in keys}
