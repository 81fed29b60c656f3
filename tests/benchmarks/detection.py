"""Who is fenced in vain, and how soon the dead are found: our detector and others over the same traces, in virtual time.

    python -m tests.benchmarks.detection [--share 1.0] [--first-seed 1] [--jobs N] [--keep FILE]

The same seeds give the same figures on every machine. It fails where a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ha_agent.controller.engine import Engine
from tests.benchmarks.detection_faults import DEATHS, HARMS, Kind
from tests.benchmarks.detection_ours import MakeEngine, Ours
from tests.benchmarks.detection_peers import Poker, Poller
from tests.benchmarks.detection_report import NOTES, Figures, goals, table
from tests.benchmarks.detection_trace import Trace

ROOT = Path(__file__).resolve().parents[2]
KINDS = (*HARMS, *DEATHS)
Detector = Callable[[Trace], dict[int, float]]


def detectors(make: MakeEngine = Engine) -> dict[str, Detector]:
    """By name: what a trace makes each of them fence, and when. `make`: builds our engine."""
    ours: dict[str, Detector] = {p: lambda t, p=p: Ours(p, t, make).run() for p in ("lan", "wan", "aggressive")}  # type: ignore[misc]
    return ours | {
        "30/30": Poker(30.0, 30.0).fences,
        "10/10": Poker(10.0, 10.0).fences,
        "2/3": Poker(2.0, 3.0).fences,
        "poller": Poller().fences,
    }


def play(kind: Kind, seed: int, who: dict[str, Detector]) -> Figures:
    """One trace, met by every detector."""
    trace = kind.make(seed)
    figures = Figures(faults=trace.faults, exposure=kind.exposure(trace), host_hours=trace.hosts * trace.ends / 3600)
    for name, detector in who.items():
        fenced = detector(trace)
        figures.false[name] = sum(trace.alive(host, at) for host, at in fenced.items())
        figures.latencies[name] = [
            at - trace.deaths[host] for host, at in sorted(fenced.items()) if not trace.alive(host, at)
        ]
    return figures


def _task(task: tuple[int, int]) -> Figures:
    index, seed = task
    return play(KINDS[index], seed, detectors())


def measure(share: float, first_seed: int, jobs: int) -> dict[str, Figures]:
    """All kinds of traces, or a share of each, in several processes. The sum does not depend on who played what."""
    tasks = [
        (index, first_seed + 1000 * index + number)
        for index, kind in enumerate(KINDS)
        for number in range(max(1, round(kind.traces * share)))
    ]
    sums = {kind.name: Figures() for kind in KINDS}
    with ProcessPoolExecutor(jobs) as pool:
        for (index, _), figures in zip(tasks, pool.map(_task, tasks, chunksize=2), strict=True):
            sums[KINDS[index].name].add(figures)
    return sums


def run(share: float, first_seed: int, jobs: int) -> tuple[str, bool]:
    """What is to be kept, and whether all goals were met."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    commit = described.stdout.strip() or "unknown"
    began = time.monotonic()
    sums = measure(share, first_seed, jobs)
    lines, met = goals(sums, HARMS, DEATHS)
    head = f"make bench-detection, commit {commit}, seeds from {first_seed}, share {share:g} of the traces"
    print(f"played in {time.monotonic() - began:.0f} s by {jobs} processes", file=sys.stderr)
    return "\n\n".join([head, table(sums, HARMS, DEATHS), "\n".join(lines), NOTES]) + "\n", met


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the traces of each kind; at least one is played")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="where the result is written")
    given = parser.parse_args(arguments)
    text, met = run(given.share, given.first_seed, given.jobs)
    print(text, end="")
    if given.keep is not None:
        given.keep.write_text(text)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
