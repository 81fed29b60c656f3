"""One way to switch many hosts off at once, in a process of its own, so that its cost can be told.

`python -m tests.benchmarks.fencing_contender NAME DEADLINE_S PASSWORD_FILE < '[[port, healthy], …]'`. It says as one line of JSON after how
many seconds each BMC was proven off (null: it was not), and how much CPU it took with all the processes that it started.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from ha_agent.fencing.fencer import WorkerFencer
from ha_agent.fencing.topology import Device, Topology
from ha_agent.model import Power
from ha_agent.sim.bmc import USER
from ha_agent.system import SystemClock

GAP_S = 0.5  # between two readings
Proven = Callable[[int], Awaitable[bool]]


async def ours(
    ports: Sequence[int], deadline_s: float, secret: Path, timed: Callable[[Proven], Awaitable[None]]
) -> None:
    """The controller's own fencer: worker processes, two readings, nothing believed that was not read."""
    levels: dict[str, tuple[tuple[Device, ...], ...]] = {
        str(port): ((Device(name="bmc", address="127.0.0.1", port=port, username=USER, password_file=str(secret)),),)
        for port in ports
    }
    fencer = WorkerFencer(Topology(levels=levels), SystemClock(), gap_s=GAP_S, poll_s=GAP_S)
    await fencer.start()

    async def proven(port: int) -> bool:
        readings = await fencer.off(str(port), 0, deadline_s)
        return [r.power for r in readings[-2:]] == [Power.OFF, Power.OFF]

    await timed(proven)
    await fencer.close()


async def ipmitool(
    ports: Sequence[int], deadline_s: float, secret: Path, timed: Callable[[Proven], Awaitable[None]]
) -> None:
    """A process for the off, and one for each of two readings."""

    async def run(port: int, *words: str) -> str:
        where = ("-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-p", str(port), "-U", USER, "-f", str(secret))
        return (await _output(["ipmitool", *where, "chassis", "power", *words]))[1]

    async def proven(port: int) -> bool:
        await run(port, "off")
        offs = 0
        while offs < 2:
            offs = offs + 1 if "is off" in await run(port, "status") else 0
            await asyncio.sleep(GAP_S if offs < 2 else 0.0)
        return True

    await timed(proven)


async def fence_ipmilan(
    ports: Sequence[int], deadline_s: float, secret: Path, timed: Callable[[Proven], Awaitable[None]]
) -> None:
    """ClusterLabs' agent, which runs ipmitool."""
    password = await asyncio.to_thread(secret.read_text)

    async def proven(port: int) -> bool:
        options = {
            "action": "off",
            "ip": "127.0.0.1",
            "ipport": port,
            "username": USER,
            "password": password,
            "lanplus": 1,
            "cipher": 3,
            "power_wait": 0,
            "power_timeout": int(deadline_s),
        }
        given = "".join(f"{name}={value}\n" for name, value in options.items())
        return (await _output(["fence_ipmilan"], given))[0] == 0

    await timed(proven)


async def _output(command: Sequence[str], given: str = "") -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        out, _ = await process.communicate(given.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode()


CONTENDERS = {"ha-agent": ours, "ipmitool": ipmitool, "fence_ipmilan": fence_ipmilan}


async def measure(name: str, ports: Sequence[int], deadline_s: float, secret: Path) -> tuple[list[float | None], float]:
    """All at once. Seconds from the first order until each is proven off; CPU of ours before that (to load Python and the driver)."""
    took: list[float | None] = []
    before_s = 0.0

    async def timed(proven: Proven) -> None:
        nonlocal before_s
        begun, before_s = time.monotonic(), time.process_time()

        async def one(port: int) -> float | None:
            try:
                async with asyncio.timeout(deadline_s + 1.0):
                    return time.monotonic() - begun if await proven(port) else None
            except TimeoutError:
                return None

        took.extend(await asyncio.gather(*(one(port) for port in ports)))

    await CONTENDERS[name](ports, deadline_s, secret, timed)
    return took, before_s


def main() -> None:
    """See the module."""
    name, deadline_s, secret = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    took, before_s = asyncio.run(measure(name, json.loads(sys.stdin.read()), deadline_s, secret))
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps([took, sum(u.ru_utime + u.ru_stime for u in usage) - before_s]), flush=True)


if __name__ == "__main__":
    main()
