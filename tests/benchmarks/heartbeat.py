"""Thousands of hosts at one heartbeat a second: what it costs the controller, and how soon it finds the dead.

    python -m tests.benchmarks.heartbeat [--hosts 1000 2000 5000] [--keep FILE] [--profile first quiet start silences]

One process is the controller, as the daemon runs it; one process is all remotes (see `heartbeat_farm`). Nothing here fails because a
machine is slow. It fails where a host that was not silent got a verdict that fences, or was fenced, or where a dead one was not found.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ha_agent.model import Verdict
from ha_agent.policy import Detection
from tests.benchmarks import heartbeat_plan as plan
from tests.benchmarks import heartbeat_yardstick as yardstick
from tests.benchmarks.heartbeat_report import NOTES, Result, table
from tests.benchmarks.report import head, tell

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "docs" / "bench-heartbeat.txt"
HOSTS = (1000, 2000, 5000)
FENCE = frozenset({Verdict.DOWN, Verdict.OFF, Verdict.HUNG})
PATIENCE_S = 600.0  # for anything that a working controller does at all, on a very slow machine
LINE = 1024 * 1024
SAMPLE_S = 5.0
VARIABLE = re.compile(r"compute-\d+|[\d.]+")


@dataclass(frozen=True, kw_only=True)
class Options:
    """`quiet_s`: the window in which CPU is taken; within 100 s every host is reached once by its witnesses. `silences` hosts die within `stagger_s`, at random moments."""

    detection: Detection = field(default_factory=Detection)
    calm_s: float = 3.0
    quiet_s: float = 100.0
    silences: int = 200
    stagger_s: float = 50.0
    yardstick_s: float = 5.0
    profile: Sequence[str] = ()


class Child:
    """A process of ours that speaks JSON lines. `lines`: all so far."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._log = log
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(msgspec.json.decode(line))
            self._more.set()

    def order(self, text: str) -> None:
        """One line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")

    async def line(self, key: str, since: int = 0) -> dict[str, Any]:
        """The first line from the given one on that has this key."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [line for line in self.lines[since:] if key in line][:1]
            return bool(found)

        await self.until(there)
        return found[0]

    async def until(self, test: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
        """Waits for lines. Raises AssertionError where it ended, or where nothing comes of it in PATIENCE_S."""
        end = time.monotonic() + patience_s
        while not test():
            if time.monotonic() > end and patience_s < PATIENCE_S:
                return False
            assert time.monotonic() < end, f"in vain\n{self._tail()}"
            assert not self._reading.done(), f"a process ended\n{self._tail()}"
            self._more.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._more.wait(), 0.5)
        return True

    async def ask(self, question: str, key: str) -> dict[str, Any]:
        """An order and its answer."""
        since = len(self.lines)
        self.order(question)
        return await self.line(key, since)

    def cpu_s(self) -> float:
        """Used so far, by all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, what: str) -> float:
        """MiB; VmRSS or VmHWM."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{what}:")[1].split()[0]) / 1024

    async def end(self) -> None:
        """Asked to, and then made to."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), 20.0)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        await self._reading

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


@contextlib.asynccontextmanager
async def child(module: str, directory: Path) -> AsyncIterator[Child]:
    """Runs one of our modules."""
    log = directory / f"{module}.log"
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"tests.benchmarks.{module}", str(directory)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=LINE,
        )
    made = Child(process, log)
    try:
        yield made
    finally:
        await made.end()


def now() -> float:
    """CLOCK_BOOTTIME, as the controller reads it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def measure(hosts: int, options: Options, note: Callable[[str], None] = lambda text: None) -> Result:
    """Everything for one number of hosts."""
    with tempfile.TemporaryDirectory(prefix="ha-agent-bench-") as temporary:
        directory = Path(temporary)
        begun = now()
        planned = plan.make(directory, hosts, options.detection)
        result = Result(hosts=hosts, bound_s=planned.bound_s(), silenced=min(options.silences, hosts // 5))
        async with child("heartbeat_farm", directory) as farm:
            await farm.line("listening")
            result.setup_s = now() - begun
            note(f"{hosts} remotes are up after {result.setup_s:.1f} s")
            lines = await _quiet(directory, options, result, note)
            lines += await _restart(directory, farm, planned, options, result, note)
            errors = [line["error"] for line in farm.lines if "error" in line]
            assert not errors, errors[:5]
        judge(lines, farm.lines, result)
    result.yardstick_us = 1e6 * await yardstick.measure(hosts, options.yardstick_s)
    return result


async def _quiet(
    directory: Path, options: Options, result: Result, note: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The first start, and a while in which nothing happens."""
    begun = now()
    async with child("heartbeat_controller", directory) as controller:
        if "first" in options.profile:
            controller.order("profile")
        result.first_heard_s = (await controller.line("heard"))["at"] - begun
        result.first_cpu_s = controller.cpu_s()
        note(f"first start: all heard after {result.first_heard_s:.1f} s, {result.first_cpu_s:.1f} s CPU")
        result.first_complete_s = (await controller.line("complete"))["at"] - begun
        note(f"first start: all have their witnesses after {result.first_complete_s:.1f} s")
        if "first" in options.profile:
            await _profiled(controller, note)
        await asyncio.sleep(options.calm_s)
        if "quiet" in options.profile:
            controller.order("profile")
        before, used, at = (await controller.ask("tell", "beats")), controller.cpu_s(), now()
        while (left_s := at + options.quiet_s - now()) > 0:
            sampled, sampled_at = controller.cpu_s(), now()
            await asyncio.sleep(min(SAMPLE_S, left_s))
            share = 100 * (controller.cpu_s() - sampled) / (now() - sampled_at)
            result.cpu_least, result.cpu_most = min(result.cpu_least, share), max(result.cpu_most, share)
        # The answer costs a little itself, so CPU is taken before it; the heartbeats between are a few of thousands.
        used, passed = controller.cpu_s() - used, now() - at
        result.rss = controller.memory("VmRSS")
        after = await controller.ask("tell", "beats")
        beats = after["beats"] - before["beats"]
        result.cpu = 100 * used / passed
        result.beats_s = beats / passed
        result.beat_cpu_us = 1e6 * used / beats
        result.views_ms, result.ready_ms = after["views_ms"], after["ready_ms"]
        result.suspicions += after["suspicions"]
        result.bugs += after["bugs"]
        probes = (after["probes"] - before["probes"]) / passed
        turns = (after["turns"] - before["turns"]) / passed
        note(f"quiet: {result.cpu:.1f} % CPU, {result.rss:.0f} MiB, {probes:.0f} probes and {turns:.0f} turns a second")
        if "quiet" in options.profile:
            await _profiled(controller, note)
        return controller.lines


async def _restart(
    directory: Path, farm: Child, planned: plan.Plan, options: Options, result: Result, note: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The next start, with all remotes up; then hosts die."""
    begun = now()
    async with child("heartbeat_controller", directory) as controller:
        if "start" in options.profile:
            controller.order("profile")
        result.heard_s = (await controller.line("heard"))["at"] - begun
        result.heard_cpu_s = controller.cpu_s()
        note(f"restart: all heard after {result.heard_s:.1f} s, {result.heard_cpu_s:.1f} s CPU")
        result.complete_s = (await controller.line("complete"))["at"] - begun
        note(f"restart: all have their witnesses after {result.complete_s:.1f} s")
        if "start" in options.profile:
            await _profiled(controller, note)
        await asyncio.sleep(options.calm_s)
        alarms = [line for line in controller.lines if "verdict" in line]
        result.settled_s = max([result.heard_s, *(line["at"] - begun for line in alarms)])
        result.restart_alarms = Counter({line["host"]: line["verdict"] for line in alarms}.values())
        told = await controller.ask("tell", "beats")
        result.restart_suspicions = told["verdicts"].get(Verdict.SUSPECT, 0)
        note(f"restart: settled after {result.settled_s:.1f} s, verdicts {told['verdicts']}")
        if "silences" in options.profile:
            controller.order("profile")
        dying = random.sample(planned.names(), result.silenced)
        moments = sorted(random.uniform(0.0, options.stagger_s) for _ in dying)
        begun = now()
        for name, moment in zip(dying, moments, strict=True):
            await asyncio.sleep(max(0.0, begun + moment - now()))
            farm.order(f"silence {name}")
        left = set(dying)

        def found() -> bool:
            left.difference_update(line["fenced"] for line in controller.lines if "fenced" in line)
            return not left

        if not await controller.until(found, 3 * planned.bound_s() + 10.0):
            note(f"not fenced: {', '.join(sorted(left)[:5])}")
        if "silences" in options.profile:
            await _profiled(controller, note)
        result.rss_most = controller.memory("VmHWM")
        told = await controller.ask("tell", "beats")
        result.suspicions += told["suspicions"]
        result.bugs += told["bugs"]
        note(f"{result.silenced} silenced: verdicts {told['verdicts']}")
        reasons = Counter(
            f"{line['verdict']}: {VARIABLE.sub('…', line['reason'])}"
            for line in controller.lines
            if "verdict" in line and line["verdict"] not in FENCE and line["host"] in dying
        )
        for reason, count in reasons.most_common(8):
            note(f"  before that, {count} times {reason}")
        return controller.lines


async def _profiled(controller: Child, note: Callable[[str], None]) -> None:
    since = len(controller.lines)
    controller.order("profile")
    for key in ("tottime", "cumulative"):
        note((await controller.line(key, since))[key])


def judge(lines: Sequence[dict[str, Any]], farm: Sequence[dict[str, Any]], result: Result) -> None:
    """Of every verdict and every off command: was it owed?"""
    dead = {line["silenced"]: line["beat_at"] for line in farm if "silenced" in line}
    found: dict[str, float] = {}
    fenced = set()
    for line in lines:
        host = line.get("host") or line.get("fenced")
        if host is None:
            continue
        owed = host in dead and line["at"] > dead[host]
        if "fenced" in line:
            fenced.add(host)
            if not owed:
                result.false.append(f"{host} was fenced")
        elif line["verdict"] in FENCE:
            found.setdefault(host, line["at"])
            if not owed:
                result.false.append(f"{host} is {line['verdict']}: {line['reason']}")
        elif not owed:
            result.beside[host] = f"{host} is {line['verdict']}: {line['reason']}"
    result.latencies = [at - dead[host] for host, at in found.items() if host in dead]
    result.fenced = len(fenced & dead.keys())


async def run(numbers: Sequence[int], options: Options) -> tuple[str, bool]:
    """All of it. Returns what is to be kept, and whether nobody was harmed."""
    first = head("bench-heartbeat")
    results = []
    for hosts in numbers:
        results.append(await measure(hosts, options, tell))
    text = f"{first}\n\n{table(results)}\n\n{NOTES}\n"
    print(text)
    for result in results:
        for what in (*result.false, *list(result.beside.values())[:5]):
            print(f"at {result.hosts} hosts: {what}", file=sys.stderr)
    return text, all(result.harmless() for result in results)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=HOSTS)
    parser.add_argument("--silences", type=int, default=Options.silences)
    parser.add_argument("--quiet", type=float, default=Options.quiet_s, help="seconds of the quiet window")
    parser.add_argument("--keep", type=Path, help="where the result is written; as it is: docs/bench-heartbeat.txt")
    parser.add_argument("--profile", choices=["first", "quiet", "start", "silences"], nargs="+", default=())
    given = parser.parse_args()
    whole = tuple(given.hosts) == HOSTS and not given.profile
    options = Options(silences=given.silences, quiet_s=given.quiet, profile=given.profile)
    plan.allow_descriptors(2 * max(given.hosts))  # told at once, not after the first thousand
    text, harmless = asyncio.run(run(given.hosts, options))
    keep = given.keep or (KEPT if whole else None)
    if keep is not None:
        keep.write_text(text)
    return 0 if harmless else 1


if __name__ == "__main__":
    sys.exit(main())
