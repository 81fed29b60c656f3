"""Planes: the networks over which a host can be reached. Pure.

Every host has the management plane, which heartbeats use; it may list addresses on others (storage, tenant …). Whoever is asked to reach it
tries all of them. A host that answers over any plane lives. It is silent only where every plane that counts is silent; a plane counts
where another host reached it over that plane lately: one over which nobody ever got an answer is as silent while the host lives, so its
silence proves nothing, and does not block anything either (a plane that is listed but not connected, witnesses of an older version).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from ha_agent.model import Answer

MANAGEMENT = "management"
MAX_PLANES = 4  # of one host, the management plane included


def summed(over: Mapping[str, Answer]) -> Answer:
    """What comes of a look at a host over several planes, in one word. SILENT only where each could be tried and none answered."""
    words = set(over.values())
    for answer in (Answer.SIGNED, Answer.TCP, Answer.FAILED):
        if answer in words:
            return answer
    return Answer.SILENT if words else Answer.FAILED


def word(over: Mapping[str, Answer], may_deny: Iterable[str]) -> Answer:
    """The same, from a witness that may deny some planes only: its yes counts over any plane, its no where it reached the host before.
    A plane that it did not try (an older version tries the management plane alone) it has not denied."""
    best = summed(over)
    if best in (Answer.SIGNED, Answer.TCP):
        return best
    return summed({plane: over.get(plane, Answer.FAILED) for plane in may_deny})


def chosen(by_plane: Mapping[str, Sequence[str]], probes: int, least: int) -> tuple[str, ...]:
    """Whom to ask, of those who may speak over each plane, best first: by turns, so that each plane has its `least` even where that
    is more than `probes` in all."""
    most = max(probes, least * len(by_plane))
    found: dict[str, None] = {}
    for row in zip_longest(*by_plane.values()):
        found.update(dict.fromkeys(name for name in row if name is not None))
    return tuple(found)[:most]


def lost(by_witness: Mapping[str, Mapping[str, Answer]]) -> tuple[str, ...]:
    """The planes over which somebody tried and nobody got an answer."""
    words: dict[str, set[Answer]] = {}
    for over in by_witness.values():
        for plane, answer in over.items():
            words.setdefault(plane, set()).add(answer)
    return tuple(p for p, a in words.items() if Answer.SILENT in a and not a & {Answer.SIGNED, Answer.TCP})


def answering(by_witness: Mapping[str, Mapping[str, Answer]]) -> tuple[str, ...]:
    """The planes over which somebody got a signed answer."""
    return tuple(
        dict.fromkeys(p for over in by_witness.values() for p, answer in over.items() if answer is Answer.SIGNED)
    )


def listed(planes: Sequence[str]) -> str:
    """`storage and tenant`."""
    return " and ".join([", ".join(planes[:-1]), planes[-1]] if len(planes) > 2 else planes)


def lost_text(planes: Sequence[str]) -> str:
    """`; the management plane is lost`, or nothing."""
    if not planes:
        return ""
    return f"; the {listed(planes)} {'plane is' if len(planes) == 1 else 'planes are'} lost"
