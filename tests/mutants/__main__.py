"""`make mutants`: every mutant is killed, or equivalent.txt says why not. Exit 1: one survived, or a justification fits nothing, or more than one place."""

from __future__ import annotations

import argparse
import os
import queue
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.generate import Key, Mutant, mutants
from tests.mutants.run import Broken, Fate, Runner, copy_tree, killers

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
RESULT = ROOT / "docs/mutants.txt"
MUTATED = (
    "ha_agent/guards.py",
    "ha_agent/planes.py",
    "ha_agent/plans.py",
    "ha_agent/rhythm.py",
    "ha_agent/selfdoubt.py",
    "ha_agent/recovery/select.py",
    "ha_agent/witness.py",
    "ha_agent/decide/*.py",
    "ha_agent/controller/batch.py",
    "ha_agent/controller/engine.py",
    "ha_agent/controller/fencing_permit.py",
    "ha_agent/controller/lookout.py",
    "ha_agent/controller/overplanes.py",
    "ha_agent/controller/silence.py",
    "ha_agent/controller/executor.py",
    "ha_agent/controller/nova_calls.py",
)
SEPARATOR = " :: "


def generated(root: Path = ROOT) -> list[Mutant]:
    """All of them, in the order of files and lines."""
    files = [f for pattern in MUTATED for f in sorted(root.glob(pattern))]
    return [m for f in files for m in mutants(f.relative_to(root).as_posix(), f.read_text())]


def justified(text: str) -> dict[Key, str]:
    """Reasons by key. Raises ValueError that names the line."""
    reasons: dict[Key, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [p.strip() for p in line.split(SEPARATOR)]
        if len(parts) != 5 or not all(parts):
            raise ValueError(f"{EQUIVALENT.name}:{number}: want: file :: function :: change :: source line :: reason")
        file, function, change, source, reason = parts
        if (file, function, change, source) in reasons:
            raise ValueError(f"{EQUIVALENT.name}:{number}: said twice")
        reasons[file, function, change, source] = reason
    return reasons


def unfit(reasons: Iterable[Key], every: Iterable[Mutant]) -> list[str]:
    """What is wrong with the justifications: each fits one mutant, so that none excuses another place by its looks."""
    fits = Counter(m.key for m in every)
    return [
        f"{EQUIVALENT.name}: fits {fits[key] or 'no'} mutant{'s' * (fits[key] > 1)}: {SEPARATOR.join(key)}"
        for key in sorted(reasons)
        if fits[key] != 1
    ]


Say = Callable[[str], None]
Fates = dict[str, tuple[Fate, str]]


def run_all(
    chosen: list[Mutant],
    tree: Path,
    *,
    jobs: int = 1,
    reasons: frozenset[Key] = frozenset(),
    stages: tuple[list[str], ...] | None = None,
    only_quick: bool = False,
    say: Say = lambda _: None,
) -> Fates:
    """The fate of each, by id, and the test that killed it. What has a reason to survive is shown to the quick tests only. `stages`: the
    test files, instead of all that are found."""
    texts = {m.file: (tree / m.file).read_text() for m in chosen}
    files = stages or killers(tree, {f for pattern in MUTATED for f in _paths(tree, pattern)})
    runners: queue.SimpleQueue[Runner] = queue.SimpleQueue()

    def one(mutant: Mutant) -> tuple[Fate, str]:
        runner = runners.get()
        began = time.monotonic()
        try:
            fate, by = runner.fate(mutant, 1 if only_quick or mutant.key in reasons else None)
        finally:
            runners.put(runner)
        say(f"{fate:9} {time.monotonic() - began:5.1f} s  {mutant.id}  {mutant.change}  {by}")
        if fate is Fate.SURVIVED:
            say(f"    {mutant.diff(texts[mutant.file])}")
        return fate, by

    with Runner(tree, texts, files) as first, ThreadPoolExecutor(jobs) as pool:
        runners.put(first)
        more = [first.twin() for _ in range(jobs - 1)]
        try:
            for runner in more:
                runners.put(runner)
            return dict(zip([m.id for m in chosen], pool.map(one, chosen), strict=True))
        finally:
            for runner in more:
                runner.stop()


def _paths(tree: Path, pattern: str) -> list[str]:
    return [f.relative_to(tree).as_posix() for f in tree.glob(pattern)]


def table(chosen: list[Mutant], fates: Fates, reasons: frozenset[Key]) -> list[str]:
    """Counts by file, and in all."""
    lines = [f"{'file':34} {'generated':>9} {'killed':>7} {'survived':>8} {'justified':>9}"]
    sums: Counter[str] = Counter()
    for file in dict.fromkeys(m.file for m in chosen):
        of_file = [m for m in chosen if m.file == file]
        survivors = [m for m in of_file if fates[m.id][0] is Fate.SURVIVED]
        row = {
            "generated": len(of_file),
            "killed": len(of_file) - len(survivors),
            "survived": sum(m.key not in reasons for m in survivors),
            "justified": sum(m.key in reasons for m in survivors),
        }
        sums.update(row)
        lines.append(_row(file, row))
    lines.append(_row("all", sums))
    return lines


def _row(name: str, n: Counter[str] | dict[str, int]) -> str:
    return f"{name:34} {n['generated']:9} {n['killed']:7} {n['survived']:8} {n['justified']:9}"


def seed_of_commit() -> int:
    """The same in every run of one commit; 1 where there is no git."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        return int(git.stdout[:7], 16)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=0, help="run that many, chosen by --seed; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="0: derived from the commit")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--only", default="", help="those whose id contains this")
    parser.add_argument("--ids", type=Path, help="those that are named in this file")
    parser.add_argument("--list", action="store_true", help="list them and run none")
    by = parser.add_mutually_exclusive_group()
    by.add_argument(
        "--only-quick", action="store_true", help="by the quick killers only: survivors may be killed by the others"
    )
    by.add_argument(
        "--simulated", action="store_true", help="by scenarios and simulation only: what they notice by themselves"
    )
    parser.add_argument("--quiet", action="store_true", help="say only what survived, and the counts")
    options = parser.parse_args()

    every = generated()
    reasons = frozenset(justified(EQUIVALENT.read_text()))
    stale = unfit(reasons, every)
    for problem in stale:
        print(problem, file=sys.stderr)
    named = set(options.ids.read_text().split()) if options.ids else None
    chosen = [m for m in every if options.only in m.id and (named is None or m.id in named)]
    seed = options.seed or seed_of_commit()
    if options.simulated:
        chosen = [m for m in chosen if m.key not in reasons]
    if options.sample:
        open_ones = [m for m in chosen if m.key not in reasons]
        picked = {m.id for m in random.Random(seed).sample(open_ones, min(options.sample, len(open_ones)))}
        chosen = [m for m in chosen if m.id in picked]
        print(
            f"mutants: a sample of {len(chosen)} of {len(every)}; again: make mutants SAMPLE={options.sample} SEED={seed}"
        )
    if options.list:
        for mutant in chosen:
            print(f"{mutant.id}  {mutant.change}  {mutant.line}")
        return 1 if stale else 0

    began = time.monotonic()

    def say(line: str) -> None:
        if not options.quiet:
            print(line, flush=True)

    try:
        with tempfile.TemporaryDirectory(prefix="mutants-") as place:
            tree = Path(place).resolve() / "tree"
            copy_tree(ROOT, tree)
            stages = (killers(tree, set())[1],) if options.simulated else None
            fates = run_all(
                chosen,
                tree,
                jobs=options.jobs,
                reasons=frozenset() if options.simulated else reasons,
                stages=stages,
                only_quick=options.only_quick,
                say=say,
            )
    except Broken as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    open_ones = [m for m in chosen if fates[m.id][0] is Fate.SURVIVED and m.key not in reasons]
    killed = {m.key for m in chosen if fates[m.id][0] is not Fate.SURVIVED}
    alive = {m.key for m in chosen if fates[m.id][0] is Fate.SURVIVED}
    for key in sorted((killed - alive) & reasons):
        stale.append(f"{EQUIVALENT.name}: is killed, so it needs no reason: {SEPARATOR.join(key)}")
        print(stale[-1])
    if options.simulated:
        stale, open_ones = [], []
    for mutant in open_ones:
        print(f"survived without a reason: {SEPARATOR.join(mutant.key)}  ({mutant.id})")
    lines = table(chosen, fates, reasons)
    slow = sum(f is Fate.TIMED_OUT for f, _ in fates.values())
    lines.append(f"{slow} of the killed ran into a time limit; {time.monotonic() - began:.0f} s in all")
    print("\n".join(lines))
    if len(chosen) == len(every) and not (options.only_quick or options.simulated):
        keep(lines)
    return 1 if open_ones or stale else 0


def keep(lines: list[str]) -> None:
    """The last full result, for the docs."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    cores = os.cpu_count()
    head = f"make mutants, {time.strftime('%F', time.gmtime())}, commit {commit or 'unknown'}, {cores} cores"
    RESULT.write_text("\n".join([head, "", *lines, "", "What is justified, and why: tests/mutants/equivalent.txt", ""]))
    print(f"kept in {RESULT.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
