"""`make mutants`: every mutant is killed, or equivalent.txt says why not. Exit 1: one survived, or a justification fits nothing."""

from __future__ import annotations

import argparse
import queue
import random
import resource
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.generate import Mutant, mutants
from tests.mutants.run import Broken, Fate, baseline, copy_tree, fate

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
MUTATED = (
    "ha_agent/guards.py",
    "ha_agent/witness.py",
    "ha_agent/decide/*.py",
    "ha_agent/controller/engine.py",
    "ha_agent/controller/lookout.py",
    "ha_agent/controller/executor.py",
)
SEPARATOR = " :: "
MEMORY_BYTES = 3 * 2**30  # a mutant that never ends must not take the machine with it


def generated(root: Path = ROOT) -> list[Mutant]:
    """All of them, in the order of files and lines."""
    files = [f for pattern in MUTATED for f in sorted(root.glob(pattern))]
    return [m for f in files for m in mutants(f.relative_to(root).as_posix(), f.read_text())]


def justified(text: str) -> dict[tuple[str, str, str], str]:
    """Reasons by key. Raises ValueError that names the line."""
    reasons = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [p.strip() for p in line.split(SEPARATOR)]
        if len(parts) != 4 or not all(parts):
            raise ValueError(f"{EQUIVALENT.name}:{number}: want: file :: change :: source line :: reason")
        reasons[parts[0], parts[1], parts[2]] = parts[3]
    return reasons


def run_all(chosen: list[Mutant], jobs: int) -> dict[str, Fate]:
    """The fate of each, by id; survivors are told as they appear."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        first = Path(place) / "tree-0"
        copy_tree(ROOT, first)
        sources = {m.file: (first / m.file).read_text() for m in chosen}
        limits = baseline(first)
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        trees.put(first)
        for n in range(1, jobs):
            trees.put(Path(shutil.copytree(first, Path(place) / f"tree-{n}")))

        def one(mutant: Mutant) -> Fate:
            tree = trees.get()
            began = time.monotonic()
            try:
                result = fate(tree, mutant, limits)
            finally:
                trees.put(tree)
            print(f"{result:9} {time.monotonic() - began:5.1f} s  {mutant.id}  {mutant.change}", flush=True)
            if result is Fate.SURVIVED:
                print(f"    {mutant.diff(sources[mutant.file])}", flush=True)
            return result

        with ThreadPoolExecutor(jobs) as pool:
            return dict(zip([m.id for m in chosen], pool.map(one, chosen), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=0, help="run that many, chosen by --seed; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--only", default="", help="those whose id contains this")
    parser.add_argument("--list", action="store_true", help="list them and run none")
    options = parser.parse_args()

    every = generated()
    reasons = justified(EQUIVALENT.read_text())
    stale = sorted(reasons.keys() - {m.key for m in every})
    for key in stale:
        print(f"{EQUIVALENT.name}: fits no mutant: {SEPARATOR.join(key)}", file=sys.stderr)
    chosen = [m for m in every if options.only in m.id]
    if options.sample and options.sample < len(chosen):
        picked = set(random.Random(options.seed).sample(range(len(chosen)), options.sample))
        chosen = [m for i, m in enumerate(chosen) if i in picked]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.id}  {mutant.change}  {mutant.line}")
        return 1 if stale else 0

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        fates = run_all(chosen, options.jobs)
    except Broken as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    survivors = [m for m in chosen if fates[m.id] is Fate.SURVIVED]
    open_ones = [m for m in survivors if m.key not in reasons]
    for mutant in chosen:
        if mutant.key in reasons and mutant not in survivors:
            print(f"{EQUIVALENT.name}: is killed, so it needs no reason: {SEPARATOR.join(mutant.key)}")
    for mutant in open_ones:
        print(f"survived without a reason: {SEPARATOR.join(mutant.key)}")
    of = f" of {len(every)}" if len(chosen) < len(every) else ""
    print(
        f"mutants: {len(chosen)}{of} generated, {len(chosen) - len(survivors)} killed, {len(survivors)} survived "
        f"({len(survivors) - len(open_ones)} justified)"
    )
    return 1 if open_ones or stale else 0


if __name__ == "__main__":
    sys.exit(main())
