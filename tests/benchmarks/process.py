"""What a process costs, as the kernel counts it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

MIB = 1024.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Memory in MiB: `rss` all that is in memory, `pss` with shared pages divided among those who share them, `uss` what would be free
    without this process. `cpu_s`: so far, by all its threads; `children_s`: by programs that it has started, to a hundredth."""

    rss: float
    pss: float
    uss: float
    cpu_s: float
    children_s: float
    threads: int
    descriptors: int


def cost(pid: int) -> Cost:
    """Of a process, now."""
    memory = _fields(Path(f"/proc/{pid}/smaps_rollup").read_text())
    status = _fields(Path(f"/proc/{pid}/status").read_text())
    stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return Cost(
        rss=memory["Rss"] / MIB,
        pss=memory["Pss"] / MIB,
        uss=(memory["Private_Clean"] + memory["Private_Dirty"]) / MIB,
        cpu_s=time.clock_gettime((~pid << 3) | 2),  # clock_getcpuclockid(3), to a nanosecond
        children_s=(int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK"),
        threads=int(status["Threads"]),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 -- names only
    )


def _fields(text: str) -> dict[str, float]:
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdigit():
            found[name] = float(number[0])
    return found
