"""Who reached a host over its further planes, and when. Nothing is held of hosts that have the management plane alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ha_agent.model import Answer
from ha_agent.planes import MANAGEMENT


class OverPlanes:
    """By host, plane and witness: boottime seconds of the last signed answer."""

    def __init__(self) -> None:
        self._at: dict[str, dict[str, dict[str, float]]] = {}

    def note(self, host: str, who: str, over: Mapping[str, Answer], at: float) -> None:
        """What a witness found."""
        for plane, answer in over.items():
            if answer is Answer.SIGNED and plane != MANAGEMENT:
                self._at.setdefault(host, {}).setdefault(plane, {})[who] = at

    def remember(self, host: str, by_plane: Mapping[str, Iterable[str]], at: float) -> None:
        """What was noted before a restart, where nothing is known by now."""
        for plane, names in by_plane.items():
            self._at.setdefault(host, {}).setdefault(plane, dict.fromkeys(names, at))

    def over(self, host: str, plane: str) -> Mapping[str, float]:
        """Who reached the host over this plane, and when."""
        return self._at.get(host, {}).get(plane, {})

    def since(self, host: str, planes: Iterable[str], since: float) -> dict[str, tuple[str, ...]]:
        """Who did since then, by plane, of these planes; those over which nobody did are left out."""
        found = {p: tuple(sorted(w for w, at in self.over(host, p).items() if at >= since)) for p in planes}
        return {plane: names for plane, names in found.items() if names}

    def forget(self, host: str) -> None:
        """It left the inventory."""
        self._at.pop(host, None)
