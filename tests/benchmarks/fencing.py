"""How long it takes until every healthy host of many is proven off, while some BMCs hang and some refuse, and what that costs.

    python -m tests.benchmarks.fencing [--sizes 1 10 50 200] [--keep FILE]

The same BMCs (pyghmi's server, in processes of their own, on loopback) for our fencer, for ipmitool's processes and for ClusterLabs'
fence_ipmilan, one after the other. Nothing fails here because a machine is slow. It fails where a healthy host was not proven off, or
another one was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ha_agent.sim.bmc import PASSWORD
from tests.benchmarks.fencing_contender import CONTENDERS
from tests.benchmarks.report import head, report, tell

SIZES = (1, 10, 50, 200)
HANG, REFUSE = 0.10, 0.05
FARM_OF = 50  # BMCs in one process
DEADLINE_S = 30.0

NOTES = """\
Seconds: from the order to switch all of them off at once until the last healthy one is proven off; "all well": the same number of healthy
BMCs with no bad one among them. CPU: of the contender from the order on, and of all processes that it ever started, until the bad
ones were given up, after 30 s. Ours and ipmitool's read off twice, half a second apart; fence_ipmilan reads once. The BMCs run on the same cores, which is in the
seconds of all three. No core's CPU is in another's figure."""


@dataclass(frozen=True)
class Result:
    """`last_s`: until the last healthy one was proven off."""

    contender: str
    size: int
    bad: bool
    last_s: float
    cpu_s: float


def kinds(size: int, *, bad: bool) -> list[str]:
    """Who is what: the bad ones spread over all."""
    hang, refuse = (round(size * HANG), round(size * REFUSE)) if bad else (0, 0)
    out = ["good"] * size
    for number in range(hang + refuse):
        out[number * size // (hang + refuse)] = "hang" if number < hang else "refuse"
    return out


@contextlib.contextmanager
def farm(wanted: Sequence[str]) -> Iterator[list[int]]:
    """The ports of BMCs of these kinds."""
    processes = []
    try:
        for begin in range(0, len(wanted), FARM_OF):
            processes.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "tests.benchmarks.fencing_farm",
                        json.dumps(wanted[begin : begin + FARM_OF]),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        ports: list[int] = []
        for process in processes:
            assert process.stdout is not None
            ports += json.loads(process.stdout.readline())
        yield ports
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def contend(name: str, size: int, *, bad: bool, deadline_s: float, secret: Path) -> Result:
    """One contender, against BMCs that nobody has touched. Raises RuntimeError where it found what is not so."""
    wanted = kinds(size, bad=bad)
    with farm(wanted) as ports:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.benchmarks.fencing_contender", name, str(deadline_s), str(secret)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate(json.dumps(ports).encode())
    if process.returncode != 0:
        raise RuntimeError(f"{name} ended with {process.returncode}")
    took, cpu_s = json.loads(out)
    wrong = [(port, kind) for port, kind, s in zip(ports, wanted, took, strict=True) if (s is None) is (kind == "good")]
    if wrong:
        raise RuntimeError(f"{name} with {size} BMCs: {len(wrong)} of them not as they are: {wrong[:3]}")
    return Result(name, size, bad, max(s for s in took if s is not None), cpu_s)


async def measure(sizes: Sequence[int], deadline_s: float, tell: Callable[[str], None]) -> list[Result]:
    """Every contender at every size, with bad BMCs and without."""
    results = []
    with tempfile.TemporaryDirectory() as directory:
        secret = Path(directory) / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        for size in sizes:
            for bad in (False, True):
                for name in CONTENDERS:
                    if bad and kinds(size, bad=True) == kinds(size, bad=False):
                        continue
                    results.append(await contend(name, size, bad=bad, deadline_s=deadline_s, secret=secret))
                    tell(f"{results[-1]}")
    return results


def table(results: Sequence[Result]) -> str:
    """A line per size."""
    found = {(r.contender, r.size, r.bad): r for r in results}
    lines = [
        f"{'':>5}  {'all well: seconds, CPU':^58}  {'with bad ones: seconds, CPU':^58}",
        f"{'BMCs':>5}" + f"  {'ha-agent':>16}  {'ipmitool':>18}  {'fence_ipmilan':>18}" * 2,
    ]
    for size in sorted({r.size for r in results}):
        cells = []
        for bad in (False, True):
            for name, width in zip(CONTENDERS, (16, 18, 18), strict=True):
                r = found.get((name, size, bad))
                cells.append(f"{f'{r.last_s:.1f} s, {r.cpu_s:.1f} s' if r else '-':>{width}}")
        lines.append(f"{size:>5}  " + "  ".join(cells))
    lines.append("")
    for size in sorted({r.size for r in results if r.bad}):
        mine, well = found["ha-agent", size, True], found["ha-agent", size, False]
        tool, agent = found["ipmitool", size, True], found["fence_ipmilan", size, True]
        lines.append(
            f"{size} BMCs: healthy ones × {mine.last_s / well.last_s:.2f} of a run without bad ones, × {mine.last_s / tool.last_s:.2f} of "
            f"ipmitool's time; CPU × {mine.cpu_s / agent.cpu_s:.2f} of fence_ipmilan's, × {mine.cpu_s / tool.cpu_s:.2f} of ipmitool's"
        )
    return "\n".join(lines)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, help="seconds for each off")
    parser.add_argument("--keep", type=Path, help="where the result is written")
    given = parser.parse_args()
    first = head("bench-fencing")
    results = asyncio.run(measure(given.sizes, given.deadline, tell))
    report(first, table(results), NOTES, given.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
