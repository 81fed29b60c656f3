"""The bad hours: for each kind of fault, traces of a small cloud that meets it again and again. One fault at a time, each host at most once.

Nova, its database and its broker run on another machine than the detector, with a network of its own to each host.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ha_agent.sim.timeline import stream
from tests.benchmarks.detection_trace import CONTROLLER, NEVER, NOVA, Spell, Stall, Trace

HOSTS = 8
PER_TRACE = 6  # hosts that meet a fault of their own
BEGINS_S = 25.0  # by then every detector knows every host
SETTLES_S = (20.0, 40.0)  # after a fault
WATCHED_S = 90.0  # after the last one: the poller needs up to 75 s
SPELL_S = 600.0  # of a trace whose fault never ends


@dataclass(frozen=True)
class Kind:
    """A kind of fault. `make`: writes it into a new trace. `lasting`: it never ends, and exposure is counted in host-hours, not in faults.
    `freeze_s`: how long a machine stands still, 0 where none does. `goal`: presets that must fence nobody; `traces`: how many are played."""

    name: str
    make: Callable[[int], Trace]
    traces: int
    lasting: bool = False
    goal: tuple[str, ...] = ("lan", "wan", "aggressive")


def _chance(trace: Trace) -> random.Random:
    return stream(trace.seed, "faults")


def _in_turn(trace: Trace, chance: random.Random, lasts_s: Callable[[], float]) -> Iterator[tuple[int, float, float]]:
    """One host after the other: host, begin, end."""
    at = BEGINS_S
    for host in chance.sample(trace.names, min(PER_TRACE, trace.hosts)):
        begins = at + chance.uniform(*SETTLES_S)
        at = begins + lasts_s()
        trace.faults += 1
        yield host, begins, at
    trace.ends = at + WATCHED_S


def _always(write: Callable[[Trace, random.Random], None]) -> Callable[[int], Trace]:
    def make(seed: int) -> Trace:
        trace = Trace(seed, HOSTS, SPELL_S)
        write(trace, _chance(trace))
        return trace

    return make


def _loss(share: float) -> Callable[[int], Trace]:
    return _always(lambda t, c: t.spell(t.everywhere(), Spell(BEGINS_S, SPELL_S, loss=share)))


def _bursts(trace: Trace, chance: random.Random) -> None:
    """Now and then a host loses most of what it sends and is sent, for up to three seconds."""
    busy: list[tuple[float, float]] = []
    at = BEGINS_S
    while at < SPELL_S:
        at += chance.expovariate(1 / 5.0)
        ends = at + chance.uniform(0.3, 3.0)
        host = chance.choice(trace.names)
        trace.spell(trace.of(host), Spell(at, ends, loss=0.8))
        busy.append((at, ends))
        at = ends  # one host at a time: spells of a path must not overlap


def _congested(trace: Trace, chance: random.Random) -> None:
    """A management network that is never quick, and at times hardly works: everything is late, and some of it is lost."""
    at = BEGINS_S
    while at < SPELL_S:
        ends = at + chance.expovariate(1 / 15.0)
        trace.spell(trace.everywhere(), Spell(at, ends, loss=0.005, delay_s=0.03, jitter_s=0.05))
        at, jam_s = ends, chance.uniform(1.0, 6.0)
        jam = Spell(at, at + jam_s, loss=0.1, delay_s=chance.uniform(0.1, 0.6), jitter_s=chance.uniform(0.1, 0.4))
        trace.spell(trace.everywhere(), jam)
        at += jam_s


Paths = Callable[[Trace, int], list[tuple[int, int]]]


def _cut(paths: Paths, low_s: float, high_s: float) -> Callable[[int], Trace]:
    def make(seed: int) -> Trace:
        trace = Trace(seed, HOSTS, 0.0)
        chance = _chance(trace)
        for host, begins, ends in _in_turn(trace, chance, lambda: chance.uniform(low_s, high_s)):
            trace.spell(paths(trace, host), Spell(begins, ends, loss=1.0))
        return trace

    return make


def _stall(lasts_s: float, *, controller: bool = False, agent: bool = False) -> Callable[[int], Trace]:
    def make(seed: int) -> Trace:
        trace = Trace(seed, HOSTS, 0.0)
        chance = _chance(trace)
        for host, begins, ends in _in_turn(trace, chance, lambda: lasts_s):
            node = CONTROLLER if controller else host
            # a detector that is stopped is stopped alone as often as with its whole machine
            alone = agent or (controller and chance.random() < 0.5)
            trace.stall(node, Stall(begins, ends, agent=alone, keeps=chance.random() < 0.5))
        return trace

    return make


def _deaths(weather: Callable[[Trace], None] = lambda t: None) -> Callable[[int], Trace]:
    """Hosts lose power one after the other; the last ones live to be witnesses."""

    def make(seed: int) -> Trace:
        trace = Trace(seed, HOSTS, 0.0)
        chance = _chance(trace)
        for host, begins, _ in [*_in_turn(trace, chance, lambda: 20.0)][: PER_TRACE // 2]:
            trace.deaths[host] = begins
        trace.faults = len(trace.deaths)
        trace.ends = max(trace.deaths.values()) + WATCHED_S
        weather(trace)
        return trace

    return make


def _poor(share: float) -> Callable[[Trace], None]:
    return lambda t: t.spell(t.everywhere(), Spell(BEGINS_S, NEVER, loss=share))


def _all_hosts(trace: Trace, _: int) -> list[tuple[int, int]]:
    return [path for host in trace.names for path in ((CONTROLLER, host), (host, CONTROLLER))]


HARMS = (
    Kind("nothing", _always(lambda t, c: None), 20, lasting=True),
    Kind("1 % of all packets lost", _loss(0.01), 20, lasting=True),
    Kind("5 % of all packets lost", _loss(0.05), 20, lasting=True),
    Kind("20 % of all packets lost", _loss(0.2), 20, lasting=True),
    Kind("bursts of loss at one host", _always(_bursts), 20, lasting=True),
    Kind("congested network", _always(_congested), 20, lasting=True),
    Kind("path detector - host cut", _cut(lambda t, h: [(CONTROLLER, h), (h, CONTROLLER)], 10, 60), 50),
    Kind("path detector > host cut", _cut(lambda t, h: [(CONTROLLER, h)], 10, 60), 50),
    Kind("path host > detector cut", _cut(lambda t, h: [(h, CONTROLLER)], 10, 60), 50),
    Kind("detector cut off from all hosts", _cut(_all_hosts, 10, 60), 50),
    Kind("path host - Nova cut", _cut(lambda t, h: [(NOVA, h), (h, NOVA)], 30, 90), 50),
    Kind("host freezes for 2 s", _stall(2.0), 50),
    Kind("host freezes for 4 s", _stall(4.0), 50, goal=("lan", "wan")),
    Kind("host freezes for 9 s", _stall(9.0), 50, goal=("lan", "wan")),
    Kind("host freezes for 40 s", _stall(40.0), 30, goal=()),
    Kind("agent of a host freezes for 60 s", _stall(60.0, agent=True), 30),
    Kind("detector freezes for 2 s", _stall(2.0, controller=True), 50),
    Kind("detector freezes for 4 s", _stall(4.0, controller=True), 50),
    Kind("detector freezes for 9 s", _stall(9.0, controller=True), 50),
    Kind("detector freezes for 40 s", _stall(40.0, controller=True), 30),
    Kind("host cut off from all for 2 s", _cut(lambda t, h: t.of(h), 2, 2), 50),
    Kind("host cut off from all for 4 s", _cut(lambda t, h: t.of(h), 4, 4), 50, goal=("lan", "wan")),
    Kind("host cut off from all for 9 s", _cut(lambda t, h: t.of(h), 9, 9), 50, goal=()),
)
"""What hurts no host for good: whoever is fenced is fenced in vain."""

DEATHS = (
    Kind("death, quiet network", _deaths(), 100),
    Kind("death, 5 % of all packets lost", _deaths(_poor(0.05)), 34),
    Kind("death, 20 % of all packets lost", _deaths(_poor(0.2)), 34),
    Kind("death, congested network", _deaths(lambda t: _congested(t, stream(t.seed, "congestion"))), 34),
)
"""Hosts that lose power: who finds them, and when."""
