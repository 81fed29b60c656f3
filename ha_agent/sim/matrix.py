"""The matrix: every fault strikes at every step of a plan, many times, and every world is judged to its end.

Each stage is played twice. The first time nothing is done to it: that is the twin, of which all that reaches the controllers is
kept. The second time the play is stopped at one moment of each step, and for every fault a copy of the whole process (fork) goes on
from there with that fault. A strike counts where something that reached a controller differs from the twin. Only what differs is
played: the time before is shared, and quiet time is not played at all.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TextIO

from ha_agent.controller.engine import Engine
from ha_agent.errors import UsageError
from ha_agent.model import Step
from ha_agent.sim.faults import BY_NAME, TABLE, Fault
from ha_agent.sim.impossible import reason
from ha_agent.sim.loop import MakeEngine
from ha_agent.sim.simulation import Simulation
from ha_agent.sim.stage import STORIES, Mark, Stage

STEPS = ("suspect", *(str(s) for s in Step))
FAULTS = tuple(f for f in TABLE if not f.mixed)
PAIRS = tuple((step, f.name) for step in STEPS for f in FAULTS)
STAGES_PER_50 = 6000  # at most so many are looked at for 50 strikes of each pair; those of stories without a pair that is left are not played
LAG = 4  # stages that are under way at a time

Seen = tuple[float, str, object]


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
        return f"ha-agent simulate --first-seed {self.seed} --strike '{self.step}/{self.fault}'"


@dataclass
class Tally:
    """What all strikes came to."""

    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[Strike] = field(default_factory=list)

    def add(self, strike: Strike) -> None:
        """One more."""
        pair = (strike.step, strike.fault)
        self.tried[pair] += 1
        self.counted[pair] += strike.changed
        if strike.violations:
            self.broken.append(strike)

    def wanted(self, each: int) -> dict[str, list[str]]:
        """Faults by step that have not struck often enough."""
        out: dict[str, list[str]] = {}
        for step, fault in PAIRS:
            if self.counted[step, fault] < each and not reason(step, fault):
                out.setdefault(step, []).append(fault)
        return out


# --- one stage ---


def moments(stage: Stage, twin: Stage) -> list[tuple[Mark, float | None]]:
    """One moment of each step that the twin walked: the very line of the log that begins it (None), or some time within it."""
    chosen: dict[str, tuple[Mark, float | None]] = {}
    for mark in twin.marks:
        within = stage.chance.uniform(mark.at, mark.ends) if mark.ends > mark.at else None
        if mark.step not in chosen or stage.chance.random() < 0.5:
            chosen[mark.step] = (mark, within if stage.chance.random() < 0.7 else None)
    return sorted(chosen.values(), key=lambda m: (m[0].at if m[1] is None else m[1], m[0].line))


def watched(stage: Stage) -> list[Seen]:
    """Keeps what reaches its controllers, from now on."""
    seen: list[Seen] = []
    stage.sim.saw = lambda who, what: seen.append((stage.sim.world.now, who, what))
    return seen


class Play:
    """The second time: `meet` is called at each moment, and may fork. In a copy, `meet` returns the fault that strikes there."""

    def __init__(
        self,
        seed: int,
        make: MakeEngine,
        meet: Callable[[Stage, str], Fault | None],
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.stage = Stage(seed, make, self._log)
        self.digest = hashlib.sha256()
        self._tell = log
        self._meet = meet
        self.struck: tuple[str, Fault, list[str]] | None = None
        self._lines: dict[int, str] = {}

    def run(self, plan: Sequence[tuple[Mark, float | None]]) -> None:
        """To the last moment; in a copy, to the end."""
        stage = self.stage
        self._lines = {mark.line: mark.step for mark, at in plan if at is None}
        stage.on_line = self._on_line
        stage.begin()
        for mark, at in plan:
            if self.struck is None:
                stage.play(mark.at + 0.0005 if at is None else at)
            if self.struck is None and at is not None:
                self._at(mark.step)
        if self.struck is not None:
            stage.finish()

    def _log(self, line: str) -> None:
        self.digest.update(f"{line}\n".encode())
        self._tell(line)

    def _on_line(self, number: int) -> None:
        if self.struck is None and number in self._lines:
            self._at(self._lines[number])

    def _at(self, step: str) -> None:
        fault = self._meet(self.stage, step)
        if fault is not None:
            self.struck = (step, fault, [])
            self.struck[2].extend(self.stage.strike(fault))


def strikes(seed: int, wanted: Mapping[str, Sequence[str]], make: MakeEngine = Engine) -> list[Strike]:
    """Every wanted fault at every step of one stage."""
    twin = Stage(seed, make)
    expected = watched(twin)
    twin.begin()
    twin.finish()
    out: list[Strike] = []
    if twin.sim.violations:
        out.append(Strike(seed, "none", "none", False, [], [str(v) for v in twin.sim.violations]))
    end = twin.sim.signature()
    pipes: list[int] = []

    def meet(stage: Stage, step: str) -> Fault | None:
        for name in wanted.get(step, ()):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(read)
                pipes.append(write)
                return BY_NAME[name]
            os.close(write)
            out.append(_received(read, pid))
        return None

    play = Play(seed, make, meet)
    differs = _Difference(play.stage, expected)
    plan = [m for m in moments(Stage(seed, make), twin) if m[0].step in wanted]
    problem = ""
    try:
        play.run(plan)
    except BaseException as error:
        if not pipes:
            raise
        problem = f"ERROR: {type(error).__name__}: {error}"
    if not pipes:
        return out
    # a copy: it tells what became of it, and nothing of its parent's is done again
    try:
        assert play.struck is not None
        step, fault, lines = play.struck
        changed = differs.found or play.stage.sim.signature() != end
        violations = [str(v) for v in play.stage.sim.violations] + [problem] * bool(problem)
        digest = play.digest.hexdigest()
        os.write(pipes[0], json.dumps([seed, step, fault.name, changed, lines, violations, digest]).encode())
    finally:
        os._exit(0)


def _received(read: int, pid: int) -> Strike:
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return Strike(*json.loads(text))


class _Difference:
    """Whether what reaches a stage's controllers is what reached its twin's. It stops looking at the first difference."""

    def __init__(self, stage: Stage, expected: Sequence[Seen]) -> None:
        self.found = False
        self._expected = expected
        self._number = 0
        self._stage = stage
        stage.sim.saw = self._saw

    def _saw(self, who: str, what: object) -> None:
        if self.found:
            return
        at = self._number
        self._number += 1
        # past the twin's end there is nothing to compare with
        self.found = at < len(self._expected) and self._expected[at] != (self._stage.sim.world.now, who, what)


# --- all of them ---


def run(each: int, jobs: int, first_seed: int = 0, out: TextIO | None = None, make: MakeEngine = Engine) -> int:
    """Strike until every possible pair has counted `each` times. Prints the matrix, the pairs that are impossible and why, violations
    with the command that replays each. 0 if every pair is complete and no rule was broken."""
    stdout = out if out is not None else sys.stdout
    tally = Tally()
    reached = {n: _reached(n) for n in range(len(STORIES))}
    going: deque[Future[list[Strike]]] = deque()
    with ProcessPoolExecutor(jobs) as pool:
        for seed in range(first_seed, first_seed + STAGES_PER_50 * max(1, each // 50)):
            # as of LAG stages ago, however many jobs there are: a run depends on nothing but its arguments
            wanted = tally.wanted(each)
            if not wanted:
                break
            if not reached[seed % len(STORIES)] & wanted.keys():
                continue  # its story does not come to any step that is left
            going.append(pool.submit(_frozen, seed, wanted, make))
            if len(going) == LAG:
                _take(going.popleft(), tally, stdout)
            if sys.stderr.isatty():
                left = sum(map(len, wanted.values()))
                print(f"\r{seed - first_seed} stages, {left} pairs left ", end="", file=sys.stderr, flush=True)
        while going:
            _take(going.popleft(), tally, stdout)
    print_matrix(tally, each, stdout)
    return 1 if tally.broken or tally.wanted(each) else 0


def _reached(story: int) -> frozenset[str]:
    """The steps that a story comes to, by the look of a few of its stages."""
    steps: set[str] = set()
    for seed in (story, story + len(STORIES), story + 2 * len(STORIES)):
        twin = Stage(seed)
        twin.begin()
        twin.finish()
        steps.update(mark.step for mark in twin.marks)
    return frozenset(steps)


def _take(done: Future[list[Strike]], tally: Tally, out: TextIO) -> None:
    for strike in done.result():
        tally.add(strike)
        if strike.violations:
            print(_told(strike), file=out, flush=True)


def _frozen(seed: int, wanted: Mapping[str, Sequence[str]], make: MakeEngine) -> list[Strike]:
    """In a worker: what exists already is left alone by the collector, so that copies share its memory."""
    gc.collect()
    gc.freeze()
    gc.disable()
    return strikes(seed, wanted, make)


def _told(strike: Strike) -> str:
    lines = "; ".join(strike.lines)
    return "\n".join(
        [f"{strike.step} / {strike.fault}: {lines}", *(f"  {v}" for v in strike.violations), f"  {strike.replay}"]
    )


def print_matrix(tally: Tally, each: int, out: TextIO) -> None:
    """Faults down, steps across: how often each pair counted. `*`: impossible by itself."""
    width = max(len(f.name) for f in FAULTS)
    print(f"{'':{width}} " + " ".join(f"{s:>9.9}" for s in STEPS), file=out)
    for fault in FAULTS:
        cells = [f"{tally.counted[s, fault.name]}{'*' if reason(s, fault.name) else ' '}" for s in STEPS]
        print(f"{fault.name:{width}} " + " ".join(f"{c:>9}" for c in cells), file=out)
    why: dict[str, list[str]] = {}
    for step, name in PAIRS:
        text = reason(step, name)
        if text:
            why.setdefault(text, []).append(f"{step}/{name}")
    print("\n* impossible by itself:", file=out)
    for text, pairs in why.items():
        print(f"  {text}: {_grouped(pairs)}", file=out)
    possible = [p for p in PAIRS if not reason(*p)]
    short = [p for p in possible if tally.counted[p] < each]
    for step, name in short:
        print(f"short: {step}/{name}: {tally.counted[step, name]} of {tally.tried[step, name]} counted", file=out)
    print(
        f"\n{len(possible)} pairs of {len(PAIRS)} possible, {len(possible) - len(short)} of them at least {each} times; "
        f"{sum(tally.tried.values())} strikes, {sum(tally.counted.values())} counted; {len(tally.broken)} broke a rule",
        file=out,
    )


def _grouped(pairs: Iterable[str]) -> str:
    by_step: dict[str, list[str]] = {}
    for pair in pairs:
        step, name = pair.split("/", 1)
        by_step.setdefault(step, []).append(name)
    return "; ".join(f"{step}: {', '.join(names)}" for step, names in by_step.items())


def replay(
    seed: int,
    step: str,
    fault: str,
    out: TextIO | None = None,
    make: MakeEngine = Engine,
    ended: Callable[[Simulation], None] = lambda sim: None,
) -> int:
    """One strike again, from its beginning, with its log and a digest of it. `ended` is shown the cloud at its end. Raises UsageError where the step or the fault is not known,
    or the seed's story does not come to the step. 0 if no rule was broken."""
    stdout = out if out is not None else sys.stdout
    if step not in STEPS:
        raise UsageError(f"no step is named {step!r}", f"use one of: {', '.join(STEPS)}")
    if fault not in BY_NAME:
        raise UsageError(f"no fault is named {fault!r}", f"use one of: {', '.join(BY_NAME)}")
    twin = Stage(seed, make)
    twin.begin()
    twin.finish()
    plan = moments(Stage(seed, make), twin)
    steps = [m[0].step for m in plan]
    if step not in steps:
        raise UsageError(f"the story of seed {seed} does not come to {step!r}", f"use one of: {', '.join(steps)}")

    def meet(stage: Stage, at: str) -> Fault | None:
        return BY_NAME[fault] if at == step else None

    play = Play(seed, make, meet, lambda line: print(line, file=stdout))
    play.run([m for m in plan if m[0].step == step])
    for v in play.stage.sim.violations:
        print(f"violation: {v}", file=stdout)
    ended(play.stage.sim)
    print(f"log sha256 {play.digest.hexdigest()}", file=stdout)
    return 1 if play.stage.sim.violations else 0
