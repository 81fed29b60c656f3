"""The benchmarks of the remote work: the same code, in short windows. What they measure is judged by whoever reads it."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.benchmarks import hostile, remote
from tests.benchmarks.process import cost
from tests.integration.attacker import ATTACKS


async def test_what_a_remote_costs() -> None:
    results = await remote.measure(2.0)
    assert [result.phase for result in results] == list(remote.PHASES)
    for result in results:
        assert result.remote.rss > result.remote.pss >= result.remote.uss > 1
        assert result.yardstick.rss > result.yardstick.uss > 1
        assert result.beats >= result.phase.controllers
    assert results[2].remote.descriptors == results[0].remote.descriptors + 3
    assert results[3].signed > 0
    assert results[3].cpu > 0
    assert "remote: RSS" in remote.table(results)


async def test_what_a_controller_notices_of_a_flood() -> None:
    """Refused, counted, and nobody is suspected: `measure` asserts it."""
    names = ("garbage", "as_another", "everything")
    results = await hostile.measure(names, 1.5)
    assert tuple(result.name for result in results) == names
    assert set(names) <= ATTACKS.keys()
    assert "witness p99" in hostile.table(results, 1.5)


def test_costs_are_the_kernels() -> None:
    """A process that works for a while, and one that holds memory."""
    code = "import sys, time\nkept = bytearray(50_000_000)\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = cost(process.pid)
        time.sleep(0.05)
        assert cost(process.pid).cpu_s - found.cpu_s < 0.05
        assert 0.3 <= found.cpu_s < 3.0
        assert 47 < found.uss <= found.pss <= found.rss < 100
        assert (found.threads, found.descriptors, found.children_s) == (1, 3, 0.0)
        process.kill()
