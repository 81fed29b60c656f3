"""The matrix: every fault strikes at every step of a plan, many times, and every world is judged to its end (see `strikes`)."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TextIO

from ha_agent.sim.impossible import reason
from ha_agent.sim.stage import STORIES, TURN, story_of
from ha_agent.sim.strikes import FAULTS, PAIRS, STEPS, Strike, Twin
from ha_agent.sim.workers import Workers

STAGES_PER_50 = (
    6000  # at most so many are looked at for 50 strikes of each pair; those that nothing is wanted of are not played
)
LAG = 4  # stages that are under way at a time
Wanted = dict[str, list[str]]  # faults by step
POOR = 3 / 4  # a pair is left out of a story where it counts so much more rarely than in the best one


@dataclass
class Tally:
    """What all strikes came to. `reaches`: the steps that each story comes to. A pair counts often in one story and never in another (a
    BMC that stays on shows only where the host is on), so it is tried where it counts."""

    each: int
    reaches: Mapping[str, frozenset[str]]
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[Strike] = field(default_factory=list)
    _under_way: Counter[tuple[str, str]] = field(default_factory=Counter)
    _in_story: Counter[tuple[str, str, str, bool]] = field(default_factory=Counter)
    _short: list[tuple[str, str]] = field(default_factory=lambda: [p for p in PAIRS if not reason(*p)])

    def add(self, strike: Strike) -> None:
        """One more."""
        pair = (strike.step, strike.fault)
        self.tried[pair] += 1
        self.counted[pair] += strike.changed
        self._in_story[story_of(strike.seed).name, *pair, strike.changed] += 1
        if strike.violations:
            self.broken.append(strike)

    def short(self) -> list[tuple[str, str]]:
        """Pairs that have not counted often enough."""
        self._short = [p for p in self._short if self.counted[p] < self.each]
        return self._short

    def wanted(self, story: str) -> Wanted:
        """Faults by step to strike with in the next stage of a story: where they are short even if all that is under way counts."""
        out: Wanted = {}
        for step, fault in self.short():
            if step in self.reaches[story] and self.counted[step, fault] + self._under_way[step, fault] < self.each:
                best = max(self._rate(name, step, fault) for name, steps in self.reaches.items() if step in steps)
                if self._rate(story, step, fault) >= POOR * best:
                    out.setdefault(step, []).append(fault)
        return out

    def begins(self, wanted: Wanted) -> None:
        """A stage is played with these."""
        self._under_way.update((step, fault) for step, faults in wanted.items() for fault in faults)

    def ends(self, wanted: Wanted, strikes: Iterable[Strike]) -> None:
        """What came of it. Not every stage comes to every step of its story."""
        self._under_way.subtract((step, fault) for step, faults in wanted.items() for fault in faults)
        for strike in strikes:
            self.add(strike)

    def _rate(self, story: str, step: str, fault: str) -> float:
        counted = self._in_story[story, step, fault, True]
        return (counted + 1) / (counted + self._in_story[story, step, fault, False] + 1)


def run(each: int, jobs: int, first_seed: int = 0, out: TextIO | None = None) -> int:
    """Strike until every possible pair has counted `each` times. Prints the matrix, the pairs that are impossible and why, violations
    with the command that replays each. 0 if every pair is complete and no rule was broken."""
    stdout = out if out is not None else sys.stdout
    tally = Tally(each, {story.name: _reached(n) for n, story in enumerate(STORIES)})
    going: deque[tuple[Future[list[Strike]], Wanted]] = deque()
    with Workers(jobs) as workers:
        for seed in range(first_seed, first_seed + STAGES_PER_50 * max(1, each // 50)):
            # as of LAG stages ago, however many jobs there are: a run depends on nothing but its arguments
            if not tally.short():
                break
            wanted = tally.wanted(story_of(seed).name)
            if not wanted:
                if going and not any(map(tally.wanted, tally.reaches)):
                    _take(*going.popleft(), tally, stdout)
                continue
            tally.begins(wanted)
            going.append((workers.play(seed, wanted), wanted))
            if len(going) == LAG:
                _take(*going.popleft(), tally, stdout)
            if sys.stderr.isatty():
                left = f"\r{seed - first_seed} stages, {len(tally.short())} pairs left "
                print(left, end="", file=sys.stderr, flush=True)
        while going:
            _take(*going.popleft(), tally, stdout)
    print_matrix(tally, stdout)
    return 1 if tally.broken or tally.short() else 0


def _reached(story: int) -> frozenset[str]:
    """The steps that a story comes to, by the look of a few of its stages."""
    seeds = (story, story + len(TURN), story + 2 * len(TURN))
    return frozenset(mark.step for seed in seeds for mark in Twin(seed).stage.marks)


def _take(done: Future[list[Strike]], wanted: Wanted, tally: Tally, out: TextIO) -> None:
    strikes = done.result()
    tally.ends(wanted, strikes)
    for strike in strikes:
        if strike.violations:
            print(_told(strike), file=out, flush=True)


def _told(strike: Strike) -> str:
    lines = "; ".join(strike.lines)
    return "\n".join(
        [f"{strike.step} / {strike.fault}: {lines}", *(f"  {v}" for v in strike.violations), f"  {strike.replay}"]
    )


def print_matrix(tally: Tally, out: TextIO) -> None:
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
    possible, short = [p for p in PAIRS if not reason(*p)], tally.short()
    for step, name in short:
        print(f"short: {step}/{name}: {tally.counted[step, name]} of {tally.tried[step, name]} counted", file=out)
    print(
        f"\n{len(possible)} pairs of {len(PAIRS)} possible, {len(possible) - len(short)} of them at least {tally.each} "
        f"times; {sum(tally.tried.values())} strikes, {sum(tally.counted.values())} counted; {len(tally.broken)} broke a rule",
        file=out,
    )


def _grouped(pairs: Iterable[str]) -> str:
    by_step: dict[str, list[str]] = {}
    for pair in pairs:
        step, name = pair.split("/", 1)
        by_step.setdefault(step, []).append(name)
    return "; ".join(f"{step}: {', '.join(names)}" for step, names in by_step.items())
