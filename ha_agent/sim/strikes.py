"""Strikes: one stage is played twice, and every fault strikes into the second play.

The first time nothing is done to it: that is the twin, of which all that reaches the controllers is kept. The second time the play is
stopped at one moment of each step, and for every fault a copy of the whole cloud (see `clone`) goes on from there with that fault. A
strike counts where something that reached a controller differs from the twin. Only what differs is played: the time before is shared, quiet
time is not played at all, and a copy ends where its world has become the twin's again and no controller noticed anything.
"""

from __future__ import annotations

import hashlib
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

import msgspec

from ha_agent.controller.engine import Engine
from ha_agent.errors import UsageError
from ha_agent.sim import impossible
from ha_agent.sim.clone import Clone
from ha_agent.sim.faults import BY_NAME, TABLE, Fault
from ha_agent.sim.loop import MakeEngine
from ha_agent.sim.simulation import Simulation
from ha_agent.sim.stage import Mark, Stage

STEPS = impossible.STEPS
FAULTS = tuple(f for f in TABLE if not f.mixed)
PAIRS = tuple((step, f.name) for step in STEPS for f in FAULTS)

NOTHING = "none"  # the story alone, without a strike: `--strike none/none`

GOES_ON_S = 8.0  # of a twin after its end, so that what strikes late can still be told from it

Seen = tuple[float, str, object]
Plan = Sequence[tuple[Mark, float | None]]


@dataclass(frozen=True)
class Strike:
    """What became of one. `changed`: something that reached a controller differs from the twin. `log_sha256`: of all lines of its log."""

    seed: int
    step: str
    fault: str
    changed: bool
    lines: list[str]
    violations: list[str]
    log_sha256: str = ""

    @property
    def replay(self) -> str:
        """The command that plays it again."""
        return f"ha-agent simulate --first-seed {self.seed} --strike {shlex.quote(f'{self.step}/{self.fault}')}"


class Twin:
    """A stage to which nothing is done. `plan`: one moment of each step that it walked; `seen`: what reached its controllers from then on;
    `end`: its final state."""

    def __init__(self, seed: int, make: MakeEngine = Engine) -> None:
        self.seed = seed
        self.make = make
        self.stage = Stage(seed, make)
        self.seen: list[Seen] = []
        self._pictures: dict[float, tuple[int, str]] = {}
        self.stage.sim.saw = lambda who, what: self.seen.append((self.stage.sim.world.now, who, what))
        self.stage.on_second = self._keep
        self.stage.begin()
        self.stage.finish()
        self.end = self.stage.sim.signature()
        self.stage.go_on(GOES_ON_S)

    def _keep(self) -> bool:
        sim = self.stage.sim
        self._pictures[sim.world.now] = (sim.lasting, picture(sim))
        return False

    def looks_like(self, sim: Simulation) -> bool:
        """Whether the whole world was the same at this moment."""
        kept = self._pictures.get(sim.world.now)
        return kept is not None and kept[0] == sim.lasting and kept[1] == picture(sim)

    def plan(self) -> Plan:
        """The very line of the log that begins a step (None), or some time within it."""
        chance = Stage(self.seed, self.make).chance
        chosen: dict[str, tuple[Mark, float | None]] = {}
        for mark in self.stage.marks:
            within = chance.uniform(mark.at, mark.ends) if mark.ends > mark.at else None
            if mark.step in chosen and chance.random() < 0.5:
                continue
            at_line = mark.during >= 0 and (within is None or chance.random() < 0.5)
            chosen[mark.step] = (mark, None if at_line else mark.at if within is None else within)
        return sorted(
            chosen.values(), key=lambda m: (m[0].at if m[1] is None else m[1], m[0].line if m[1] is None else math.inf)
        )


def picture(sim: Simulation) -> str:
    """All that a simulated world keeps and that may still matter, what is planned in it (by number) included."""
    world, nova = sim.world, sim.world.nova
    network, weather = world.network, world.weather
    links = (
        sorted(map(sorted, network.cuts)),
        sorted(network.one_way),
        sorted((sorted(pair), until) for pair, until in network.stands.items()),
        sorted(network.unacked.items()),
        sorted(network.dark),
        network.loss,
        network.delay,
    )
    api = (
        sorted(weather.shares.items()),
        sorted(weather.rows_unknown),
        sorted(weather.lists_lack),
        weather.tokens_end_at,
        sorted(weather.without_token),
    )
    books = nova.hosts, nova.servers, nova.migrations, [(s, sorted(h)) for s, h in sorted(nova.runs.items())]
    processes = [
        (p.lives, p.paused, p.machines, sorted(p.crash_at), p.stop_before, p.clock.wall_step_s, p.policy is sim.policy)
        for p in sim.processes
    ]
    return repr(
        (
            world.hosts,
            world.attempts,
            world.broker,
            links,
            api,
            books,
            processes,
            sim.store.failing,
            sim.store.held,
            sim.lasting,
            world.planned,
        )
    )


def timeless(what: object) -> object:
    """Without the wall clock's times, which are only shown: they differ wherever somebody has set the clock."""
    return _without_wall(msgspec.to_builtins(what))


def _without_wall(what: object) -> object:
    if isinstance(what, dict):
        return {key: _without_wall(value) for key, value in what.items() if key != "wall"}
    if isinstance(what, list | tuple):
        return [_without_wall(each) for each in what]
    return what


class Play:
    """The second time: it goes to a moment, and from there either on to the next one, or is struck."""

    def __init__(self, twin: Twin, log: Callable[[str], None] = lambda line: None) -> None:
        self.stage = Stage(twin.seed, twin.make, self._log)
        self.digest = hashlib.sha256()
        self.differs = False
        self.lines: list[str] = []
        self.twin = twin
        self._tell = log
        self._number = 0
        self._line = 0
        self._fault: Fault | None = None
        self.stage.sim.saw = self._saw
        self.stage.begin()

    def go_to(self, mark: Mark, at: float | None) -> None:
        """A moment: `at`, or the line of the mark, which the next thing that happens will bring."""
        self._line = 0
        if at is not None:
            self.stage.play(at)
            return
        self._line = mark.line
        self.stage.sim.halt_at = mark.during
        self.stage.play()
        self.stage.sim.halt_at = -1

    def struck_by(self, fault: Fault) -> None:
        """To the end, or until it is the twin's world again."""
        self._fault = fault
        self.stage.on_line = self._on_line
        if not self._line:
            self._hit(fault)
        self.stage.finish()

    @property
    def changed(self) -> bool:
        """Whether the fault changed what a controller saw, or what came of it all."""
        return self.differs or (not self.stage.cut_short and self.stage.sim.signature() != self.twin.end)

    def copy(self) -> tuple[Play, Clone]:
        """Another one that has come as far."""
        clone = Clone(keep=(self.twin,))
        return clone.of(self), clone

    def _log(self, line: str) -> None:
        self.digest.update(f"{line}\n".encode())
        self._tell(line)

    def _on_line(self, number: int) -> None:
        if number == self._line:
            assert self._fault is not None
            self._hit(self._fault)

    def _hit(self, fault: Fault) -> None:
        self.lines = self.stage.strike(fault)
        self.stage.on_second = lambda: not self.differs and self.twin.looks_like(self.stage.sim)

    def _saw(self, who: str, what: object) -> None:
        """It stops looking at the first difference; past the twin's end there is nothing to compare with."""
        if self.differs:
            return
        at, seen = self._number, self.twin.seen
        self._number += 1
        if at < len(seen) and seen[at] != (self.stage.sim.world.now, who, what):
            when, whom, was = seen[at]
            self.differs = (when, whom) != (self.stage.sim.world.now, who) or timeless(was) != timeless(what)


def strikes(seed: int, wanted: Mapping[str, Sequence[str]], make: MakeEngine = Engine) -> list[Strike]:
    """Every wanted fault at every step of one stage."""
    twin = Twin(seed, make)
    out: list[Strike] = []
    if twin.stage.sim.violations:
        out.append(Strike(seed, NOTHING, NOTHING, False, [], [str(v) for v in twin.stage.sim.violations]))
    play = Play(twin)
    for mark, at in twin.plan():
        faults = wanted.get(mark.step, ())
        if faults:
            play.go_to(mark, at)
        for name in faults:
            copy, clone = play.copy()
            out.append(_strike(copy, mark.step, name))
            clone.forget()
    return out


def _strike(play: Play, step: str, fault: str) -> Strike:
    """A bug that shows as an exception is a violation too."""
    problem = []
    try:
        play.struck_by(BY_NAME[fault])
    except Exception as error:
        problem = [f"ERROR: {type(error).__name__}: {error}"]
    violations = [str(v) for v in play.stage.sim.violations] + problem
    return Strike(play.twin.seed, step, fault, play.changed, play.lines, violations, play.digest.hexdigest())


def replay(
    seed: int,
    step: str,
    fault: str,
    out: TextIO | None = None,
    make: MakeEngine = Engine,
    ended: Callable[[Simulation], None] = lambda sim: None,
) -> int:
    """One strike again, from its beginning, with its log and a digest of it. `ended` is shown the cloud at its end. Raises UsageError where
    the step or the fault is not known, or the seed's story does not come to the step. 0 if no rule was broken."""
    stdout = out if out is not None else sys.stdout
    if step == fault == NOTHING:
        return _alone(seed, stdout, make, ended)
    if step not in STEPS:
        raise UsageError(f"no step is named {step!r}", f"use one of: {', '.join(STEPS)}")
    if fault not in BY_NAME:
        raise UsageError(f"no fault is named {fault!r}", f"use one of: {', '.join(BY_NAME)}")
    twin = Twin(seed, make)
    plan = twin.plan()
    steps = [m[0].step for m in plan]
    if step not in steps:
        raise UsageError(f"the story of seed {seed} does not come to {step!r}", f"use one of: {', '.join(steps)}")

    play = Play(twin, lambda line: print(line, file=stdout))
    play.go_to(*plan[steps.index(step)])
    play.struck_by(BY_NAME[fault])
    if play.stage.cut_short:
        print("no controller noticed anything, and all is as it would have been: the rest is not played", file=stdout)
    return _end(play.stage.sim, play.digest.hexdigest(), stdout, ended)


def _alone(seed: int, out: TextIO, make: MakeEngine, ended: Callable[[Simulation], None]) -> int:
    """The story to which nothing is done."""
    digest = hashlib.sha256()

    def log(line: str) -> None:
        digest.update(f"{line}\n".encode())
        print(line, file=out)

    stage = Stage(seed, make, log)
    stage.begin()
    stage.finish()
    return _end(stage.sim, digest.hexdigest(), out, ended)


def _end(sim: Simulation, sha256: str, out: TextIO, ended: Callable[[Simulation], None]) -> int:
    for v in sim.violations:
        print(f"violation: {v}", file=out)
    ended(sim)
    print(f"log sha256 {sha256}", file=out)
    return 1 if sim.violations else 0
