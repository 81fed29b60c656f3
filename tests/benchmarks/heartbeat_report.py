"""What came of the heartbeat benchmark: figures, goals beside them, and whether a healthy host was harmed."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

GOAL_HOSTS = 5000  # the goals are for this many
CPU_GOAL = 100.0  # per cent of one core
RSS_GOAL = 1024.0  # MiB
SETTLED_GOAL_S = 30.0
LATE_GOAL = 1.2  # times the bound

NOTES = """\
CPU and memory are of the controller process alone, in a window in which nothing happens; 100 % is one core. The remotes run beside it on the
same machine. A start begins with the start of the process: first with an empty journal, then again, with all remotes up. Heard: every host
was heard. Settled: that, and the last alarm in vain is over. Witnesses: every host was also reached by those who may later deny it.
Detection counts from the last heartbeat that was sent to the first verdict that fences (down, off, hung). The bound is that of the alarm: where
a witness that was asked dies at about the same time, the alarm is `unknown`, and the verdict that fences follows a round later. A silenced host's connections
stay open and say nothing, and its kernel answers no SYN. Witnesses do not dial their targets, which live in the same process: they relay
the target's real signature at once, or deny a silent one when a dial would have ended. The goals of speed are for 5,000 hosts.
The yardstick is a UDP listener in a plain loop that checks an HMAC-SHA256 and notes the time: no encryption, no connection, no answer,
nothing kept over a restart."""


@dataclass
class Result:
    """Of one number of hosts. Times in seconds, memory in MiB. `false`: verdicts that fence, or fences, of hosts that were not silent."""

    hosts: int
    bound_s: float
    setup_s: float = 0.0
    first_heard_s: float = 0.0
    first_complete_s: float = 0.0
    first_cpu_s: float = 0.0
    heard_s: float = 0.0
    heard_cpu_s: float = 0.0
    settled_s: float = 0.0
    restart_suspicions: int = 0
    restart_alarms: Counter[str] = field(default_factory=Counter)
    complete_s: float = 0.0
    cpu: float = 0.0
    cpu_least: float = math.inf
    cpu_most: float = 0.0
    rss: float = 0.0
    rss_most: float = 0.0
    beats_s: float = 0.0
    beat_cpu_us: float = 0.0
    yardstick_us: float = 0.0
    silenced: int = 0
    latencies: list[float] = field(default_factory=list)
    fenced: int = 0
    suspicions: int = 0
    views_ms: float = 0.0
    ready_ms: float = 0.0
    bugs: int = 0
    beside: dict[str, str] = field(
        default_factory=dict
    )  # by host that was not silent: its last alarm that fences nothing
    false: list[str] = field(default_factory=list)

    def percentile(self, percent: int) -> float:
        """Of the detection latencies."""
        if len(self.latencies) < 2:
            return max(self.latencies, default=float("nan"))
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1]

    def harmless(self) -> bool:
        """Whether nobody was harmed and everything that died was found."""
        return not self.false and len(self.latencies) == self.silenced and not self.bugs


Row = tuple[str, str, list[str]]


def table(results: Sequence[Result]) -> str:
    """All figures, a column for each number of hosts."""
    rows: list[Row] = [
        ("hosts, one heartbeat a second each", "", [f"{r.hosts:,}" for r in results]),
        ("certificates made, remotes up", "", [f"{r.setup_s:.1f} s" for r in results]),
        ("controller: CPU", f"< {CPU_GOAL:.0f} %", [_met(r, r.cpu < CPU_GOAL, f"{r.cpu:.1f} %") for r in results]),
        ("… least and most in 5 s", "", [f"{r.cpu_least:.0f} … {r.cpu_most:.0f} %" for r in results]),
        (
            "controller: memory",
            f"< {RSS_GOAL:.0f} MiB",
            [_met(r, r.rss < RSS_GOAL, f"{r.rss:.0f} MiB") for r in results],
        ),
        (
            "controller: most memory so far",
            f"< {RSS_GOAL:.0f} MiB",
            [_met(r, r.rss_most < RSS_GOAL, f"{r.rss_most:.0f} MiB") for r in results],
        ),
        ("heartbeats taken", "", [f"{r.beats_s:,.0f} /s" for r in results]),
        ("CPU per heartbeat, all included", "", [f"{r.beat_cpu_us:.0f} µs" for r in results]),
        ("… of the UDP yardstick", "", [f"{r.yardstick_us:.1f} µs" for r in results]),
        ("… ratio", "", [f"× {r.beat_cpu_us / r.yardstick_us:.1f}" for r in results]),
        ("loop stands still for all hosts' views", "", [f"{r.views_ms:.0f} ms" for r in results]),
        ("loop stands still for readiness", "", [f"{r.ready_ms:.0f} ms" for r in results]),
        ("start, first: heard", "", [f"{r.first_heard_s:.1f} s" for r in results]),
        ("… CPU used until then", "", [f"{r.first_cpu_s:.1f} s" for r in results]),
        ("start, first: witnesses", "", [f"{r.first_complete_s:.1f} s" for r in results]),
        ("start, again: heard", "", [f"{r.heard_s:.1f} s" for r in results]),
        ("… CPU used until then", "", [f"{r.heard_cpu_s:.1f} s" for r in results]),
        (
            "start, again: settled",
            f"< {SETTLED_GOAL_S:.0f} s",
            [_met(r, r.settled_s < SETTLED_GOAL_S and not r.false, f"{r.settled_s:.1f} s") for r in results],
        ),
        (
            "… suspected in vain until then",
            "0",
            [_met(r, not r.restart_suspicions, f"{r.restart_suspicions}") for r in results],
        ),
        ("… alarms in vain until then", "", [f"{r.restart_alarms.total()}" for r in results]),
        ("start, again: witnesses", "", [f"{r.complete_s:.1f} s" for r in results]),
        ("hosts silenced", "", [f"{r.silenced}" for r in results]),
        ("… found down", "all", [_met(r, len(r.latencies) == r.silenced, f"{len(r.latencies)}") for r in results]),
        ("… and fenced", "", [f"{r.fenced}" for r in results]),
        ("detection: bound", "", [f"{r.bound_s:.1f} s" for r in results]),
        ("detection: p50", "", [f"{r.percentile(50):.2f} s" for r in results]),
        (
            "detection: p99",
            f"< {LATE_GOAL:.1f} × bound",
            [_met(r, r.percentile(99) < LATE_GOAL * r.bound_s, f"{r.percentile(99):.2f} s") for r in results],
        ),
        ("detection: latest", "", [f"{max(r.latencies, default=float('nan')):.2f} s" for r in results]),
        ("healthy hosts: suspicions that came to nothing", "", [f"{r.suspicions}" for r in results]),
        ("healthy hosts: alarms that fence nothing", "", [f"{len(r.beside)}" for r in results]),
        ("healthy hosts: down verdicts or fences", "0", [_met(r, not r.false, f"{len(r.false)}") for r in results]),
    ]
    heads = max(len(name) for name, _, _ in rows)
    goals = max(len(goal) for _, goal, _ in rows)
    wide = max(len(cell) for _, _, cells in rows for cell in cells)
    lines = [
        f"{name:<{heads}}  {goal:<{goals}}  " + "  ".join(f"{cell:>{wide}}" for cell in cells)
        for name, goal, cells in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _met(result: Result, met: bool, text: str) -> str:
    """The goals of speed are for the largest number only; that nobody is harmed is always one."""
    if met:
        return f"{text}  met"
    return f"{text}  {'NOT MET' if result.hosts >= GOAL_HOSTS else 'not met'}"
