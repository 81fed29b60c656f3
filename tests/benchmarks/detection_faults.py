"""The bad hours: for each kind of fault, traces of a small cloud that meets it again and again. One fault at a time, each host at most once.

Nova, its database and its broker run on another machine than the detector, with a network of its own to each host.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ha_agent.sim.timeline import stream
from tests.benchmarks.detection_trace import CONTROLLER, NOVA, Spell, Stall, Trace

HOSTS = 8
PER_TRACE = 6  # hosts that meet a fault of their own
DEATHS_PER_TRACE = 3
BEGINS_S = 25.0  # by then every detector knows every host
SETTLES_S = (20.0, 40.0)  # after a fault
WATCHED_S = 50.0  # after the last one
FOUND_S = 90.0  # after the last death: the poller needs up to 75 s
SPELL_S = 600.0  # of a trace whose fault never ends


@dataclass(frozen=True)
class Kind:
    """A kind of trace. `make`: writes one from a seed. `traces`: how many are played. `lasting`: its fault never ends, and exposure is counted
    in host-hours, not in faults; `for_all`: each fault concerns every host. `goal`: presets that promise to fence nobody."""

    name: str
    make: Callable[[int], Trace]
    traces: int = 25
    lasting: bool = False
    for_all: bool = False
    goal: tuple[str, ...] = ("lan", "wan", "aggressive")

    def exposure(self, trace: Trace) -> float:
        """Host-hours, or faults times the hosts that each concerns."""
        if self.lasting:
            return trace.hosts * trace.ends / 3600
        return trace.faults * (trace.hosts if self.for_all else 1)


def _chance(trace: Trace) -> random.Random:
    return stream(trace.seed, "faults")


def _in_turn(
    trace: Trace, chance: random.Random, lasts_s: Callable[[], float], count: int = PER_TRACE
) -> Iterator[tuple[int, float, float]]:
    """One host after the other: host, begin, end."""
    at = BEGINS_S
    for host in chance.sample(trace.names, count):
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


def _bursts(trace: Trace, chance: random.Random) -> None:
    """Now and then a host loses most of what it sends and is sent, for up to three seconds; then it is left in peace for a while."""
    at, lately = BEGINS_S, deque[int](maxlen=trace.hosts // 2)
    while at < SPELL_S:
        at += chance.expovariate(1 / 5.0)
        ends = at + chance.uniform(0.3, 3.0)
        host = chance.choice([h for h in trace.names if h not in lately])
        trace.spell(trace.of(host), Spell(at, ends, loss=0.8))
        lately.append(host)
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


def _cut(paths: Paths, low_s: float, high_s: float, count: int = PER_TRACE) -> Callable[[int], Trace]:
    def make(seed: int) -> Trace:
        trace = Trace(seed, HOSTS, 0.0)
        chance = _chance(trace)
        for host, begins, ends in _in_turn(trace, chance, lambda: chance.uniform(low_s, high_s), count):
            trace.spell(paths(trace, host), Spell(begins, ends, loss=1.0))
        return trace

    return make


def _stall(lasts_s: float, *, detector: bool = False, agent: bool = False) -> Callable[[int], Trace]:
    """A detector that stands still does so alone as often as with its whole machine."""

    def make(seed: int) -> Trace:
        trace = Trace(seed, HOSTS, 0.0)
        chance = _chance(trace)
        for host, begins, ends in _in_turn(trace, chance, lambda: lasts_s):
            alone, keeps = agent or (detector and chance.random() < 0.5), chance.random() < 0.5
            trace.stall(CONTROLLER if detector else host, Stall(begins, ends, agent=alone, keeps=keeps))
        return trace

    return make


def _deaths(weather: Callable[[Trace, random.Random], None] = lambda t, c: None) -> Callable[[int], Trace]:
    """Hosts lose power one after the other; most live to be witnesses."""

    def make(seed: int) -> Trace:
        trace = Trace(seed, HOSTS, 0.0)
        chance = _chance(trace)
        for host, begins, _ in _in_turn(trace, chance, lambda: 20.0, DEATHS_PER_TRACE):
            trace.deaths[host] = begins
        trace.ends = max(trace.deaths.values()) + FOUND_S
        weather(trace, chance)
        return trace

    return make


def _loss_all_the_time(share: float) -> Callable[[Trace, random.Random], None]:
    return lambda t, c: t.spell(t.everywhere(), Spell(BEGINS_S, SPELL_S, loss=share))


def _both(a: int, b: int) -> list[tuple[int, int]]:
    return [(a, b), (b, a)]


def _to_all(trace: Trace, _: int) -> list[tuple[int, int]]:
    return [path for host in trace.names for path in _both(CONTROLLER, host)]


def _lasting(name: str, write: Callable[[Trace, random.Random], None], traces: int = 25) -> Kind:
    return Kind(name, _always(write), traces, lasting=True)


PATIENT = ("lan", "wan")

HARMS = (
    _lasting("nothing", lambda t, c: None, 15),
    _lasting("1 % of packets lost", _loss_all_the_time(0.01)),
    _lasting("5 % of packets lost", _loss_all_the_time(0.05)),
    _lasting("20 % of packets lost", _loss_all_the_time(0.2)),
    _lasting("bursts of loss at single hosts", _bursts),
    _lasting("congested network", _congested),
    Kind("detector - host cut 10-60 s", _cut(lambda t, h: _both(CONTROLLER, h), 10, 60)),
    Kind("detector > host cut 10-60 s", _cut(lambda t, h: [(CONTROLLER, h)], 10, 60)),
    Kind("host > detector cut 10-60 s", _cut(lambda t, h: [(h, CONTROLLER)], 10, 60)),
    Kind("host - Nova cut 30-90 s", _cut(lambda t, h: _both(NOVA, h), 30, 90)),
    Kind("detector - all hosts cut 10-60 s", _cut(_to_all, 10, 60, 1), for_all=True),
    Kind("host freezes 2 s", _stall(2.0)),
    Kind("host freezes 4 s", _stall(4.0), goal=PATIENT),
    Kind("host freezes 9 s", _stall(9.0), goal=PATIENT),
    Kind("host freezes 40 s", _stall(40.0), goal=()),
    Kind("host's agent freezes 60 s", _stall(60.0, agent=True)),
    Kind("host cut off from all 2 s", _cut(lambda t, h: t.of(h), 2, 2)),
    Kind("host cut off from all 4 s", _cut(lambda t, h: t.of(h), 4, 4), goal=PATIENT),
    Kind("host cut off from all 9 s", _cut(lambda t, h: t.of(h), 9, 9), goal=PATIENT),
    Kind("detector freezes 2 s", _stall(2.0, detector=True), for_all=True),
    Kind("detector freezes 4 s", _stall(4.0, detector=True), for_all=True),
    Kind("detector freezes 9 s", _stall(9.0, detector=True), for_all=True),
    Kind("detector freezes 40 s", _stall(40.0, detector=True), for_all=True),
)
"""What hurts no host for good: whoever is fenced is fenced in vain."""

DEATHS = (
    Kind("death", _deaths(), 60),
    Kind("death, 5 % of packets lost", _deaths(_loss_all_the_time(0.05)), 20),
    Kind("death, 20 % of packets lost", _deaths(_loss_all_the_time(0.2)), 20),
    Kind("death, congested network", _deaths(_congested), 20),
)
"""Hosts that lose power: who finds them, and when. In the first one everybody else is well."""
