"""A trace: what happens to a small cloud, and to every packet in it, so that several detectors can be asked about the same bad hours.

It knows the truth and nothing of detectors. Whether a packet passes from one node to another at a moment, and how long it takes, follows
from the seed, the two nodes and the moment alone: two detectors that send at the same time meet the same fate.

Nodes are numbers: the detector's machine, Nova's, and the hosts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

CONTROLLER = 0
NOVA = 1
FIRST_HOST = 2
LAN_S = 0.0003  # one way, in a quiet network
NEVER = math.inf
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Spell:
    """What a path is like for a while: the share of packets that it loses, and how much longer the others take; `jitter_s` is the mean of
    an exponential distribution."""

    begins: float
    ends: float
    loss: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0


@dataclass(frozen=True)
class Stall:
    """A machine stands still, or (`agent`) only the process that detectors talk to there. `keeps`: what arrives meanwhile waits in the
    network card; otherwise it is lost."""

    begins: float
    ends: float
    agent: bool = False
    keeps: bool = True


@dataclass
class Trace:
    """See the module. `faults`: how many struck (for a host's own fault, one host each); `deaths`: by host, when it lost power. Spells of
    one path do not overlap; nor do stalls of one node."""

    seed: int
    hosts: int
    ends: float
    faults: int = 0
    deaths: dict[int, float] = field(default_factory=dict)
    _spells: dict[tuple[int, int], list[Spell]] = field(default_factory=dict)
    _begins: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    _stalls: dict[int, list[Stall]] = field(default_factory=dict)

    @property
    def names(self) -> range:
        """The hosts."""
        return range(FIRST_HOST, FIRST_HOST + self.hosts)

    @property
    def nodes(self) -> range:
        """The hosts and what watches them."""
        return range(FIRST_HOST + self.hosts)

    # --- writing it ---

    def spell(self, paths: Iterable[tuple[int, int]], spell: Spell) -> None:
        """Puts a spell on paths, each of them one way."""
        for path in paths:
            rows = self._spells.setdefault(path, [])
            rows.append(spell)
            rows.sort(key=lambda s: s.begins)
            self._begins[path] = [s.begins for s in rows]

    def stall(self, node: int, stall: Stall) -> None:
        """A node stands still for a while."""
        self._stalls.setdefault(node, []).append(stall)

    def everywhere(self) -> list[tuple[int, int]]:
        """All paths."""
        return [(a, b) for a in self.nodes for b in self.nodes if a != b]

    def of(self, node: int) -> list[tuple[int, int]]:
        """All paths of a node, both ways."""
        return [path for path in self.everywhere() if node in path]

    # --- reading it ---

    def stalls(self, node: int) -> list[Stall]:
        """When a node stands still."""
        return self._stalls.get(node, [])

    def alive(self, node: int, at: float) -> bool:
        """Whether it has power."""
        return at < self.deaths.get(node, NEVER)

    def kernel_at(self, node: int, at: float) -> float:
        """The first moment from `at` on in which its kernel works."""
        return self._works_at(node, at, agents=False)

    def agent_at(self, node: int, at: float) -> float:
        """The same of the process that detectors talk to there (on the controller: the detector itself)."""
        return self._works_at(node, at, agents=True)

    def _works_at(self, node: int, at: float, *, agents: bool) -> float:
        for stall in self._stalls.get(node, ()):
            if stall.begins <= at < stall.ends and (agents or not stall.agent):
                at = stall.ends
        return at if self.alive(node, at) else NEVER

    def delay_s(self, a: int, b: int, at: float) -> float:
        """What a packet of this path takes, on average."""
        spell = self._spell(a, b, at)
        return LAN_S if spell is None else LAN_S + spell.delay_s + spell.jitter_s

    def packet(self, a: int, b: int, at: float) -> float | None:
        """When a packet that `a` sends now is in the hands of b's kernel; None: it is lost."""
        arrives = at + LAN_S
        spell = self._spell(a, b, at)
        if spell is not None:
            if spell.loss and self.chance(a, b, at, 1) < spell.loss:
                return None
            arrives += spell.delay_s
            if spell.jitter_s:
                arrives -= spell.jitter_s * math.log(1.0 - self.chance(a, b, at, 2))
        for stall in self._stalls.get(b, ()):
            if stall.begins <= arrives < stall.ends and not stall.agent:
                if not stall.keeps:
                    return None
                arrives = stall.ends
        return arrives if self.alive(b, arrives) else None

    def _spell(self, a: int, b: int, at: float) -> Spell | None:
        begins = self._begins.get((a, b))
        if begins is None:
            return None
        index = bisect_right(begins, at) - 1
        if index < 0:
            return None
        spell = self._spells[a, b][index]
        return spell if at < spell.ends else None

    def chance(self, a: int, b: int, at: float, what: int) -> float:
        """A number in [0, 1) that depends on the seed and the arguments alone (splitmix64)."""
        x = self.seed * 0x9E3779B97F4A7C15 + (a * 64 + b) * 0xD1B54A32D192ED03 + int(at * 1e6) * 0xBF58476D1CE4E5B9
        x = (x + what * 0x94D049BB133111EB) & _WORD
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WORD
        return ((x ^ (x >> 31)) >> 11) / (1 << 53)
