"""What came of the detection benchmark: counts, rates with what remains possible where nothing was seen, latencies, and the goals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.benchmarks.detection_faults import Kind

PEERS = ("30/30", "10/10", "2/3", "poller")
DETECTORS = ("lan", "wan", "aggressive", *PEERS)
RIVALS = {"lan": "10/10", "aggressive": "2/3"}
MILLION = 1e6
EVERY_HOURS = 1000.0  # each host meets a passing fault so often: an assumption, to have one unit for all rows
RULE_OF_THREE = 3.0  # nothing in n trials: with 95 % confidence less than 3 in n

NOTES = f"""\
lan, wan, aggressive: this agent's presets. 30/30, 10/10, 2/3: a poker in the way of pacemaker_remote, interval/timeout in seconds: one
question, one witness. poller: instanceha's way, POLL 45 s, DELTA 30 s over Nova's service list, reports every 10 s.
A fence is the off command of our engine after its last look, or the verdict of a peer. Fencing itself takes more time and is not counted.
False: the host had power. Latency: from the loss of power to the fence; deaths found after a false fence of the same host do not count.
Rates are per million host-hours. Where the fault lasts: of hours like these. Where it passes: of hours in which each host meets one
such fault every {EVERY_HOURS:,.0f} h. "<": nothing was seen; with 95 % confidence the rate is below that (rule of three). A detector fences a
host at most once in a trace (of ten minutes, where the fault lasts), so the highest rates are too low."""


@dataclass
class Figures:
    """Of one kind of trace. `exposure`: host-hours or faults, see Kind. `false`, `latencies` (seconds): by detector."""

    faults: int = 0
    exposure: float = 0.0
    host_hours: float = 0.0
    false: dict[str, int] = field(default_factory=dict)
    latencies: dict[str, list[float]] = field(default_factory=dict)

    def add(self, other: Figures) -> None:
        """Another trace of the same kind."""
        self.faults += other.faults
        self.exposure += other.exposure
        self.host_hours += other.host_hours
        for name, count in other.false.items():
            self.false[name] = self.false.get(name, 0) + count
        for name, values in other.latencies.items():
            self.latencies.setdefault(name, []).extend(values)

    def rate(self, name: str, kind: Kind) -> str:
        """False fences per million host-hours, or their upper bound."""
        hours = self.exposure if kind.lasting else self.exposure * EVERY_HOURS
        count = self.false[name]
        return (
            f"{(count or RULE_OF_THREE) / hours * MILLION:,.0f}"
            if count
            else f"<{RULE_OF_THREE / hours * MILLION:,.0f}"
        )

    def percentile(self, name: str, percent: int) -> float:
        """Of the latencies, seconds; NaN where nothing was found."""
        values = self.latencies.get(name, [])
        if len(values) < 2:
            return values[0] if values else math.nan
        return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


Sums = Mapping[str, Figures]


def table(sums: Sums, harms: Sequence[Kind], deaths: Sequence[Kind]) -> str:
    """All figures."""
    counts, rates, found = [], [], []
    for kind in harms:
        row = sums[kind.name]
        exposure = f"{row.exposure:,.0f} {'h' if kind.lasting else 'faults'}"
        counts.append([kind.name, exposure, *(str(row.false[d]) for d in DETECTORS)])
        rates.append([kind.name, exposure, *(row.rate(d, kind) for d in DETECTORS)])
    for kind in deaths:
        row = sums[kind.name]
        found.append([kind.name, f"{row.faults} hosts", *(f"{len(row.latencies[d])}" for d in DETECTORS)])
        for percent in (50, 99):
            found.append([f"… p{percent}, s", "", *(f"{row.percentile(d, percent):.2f}" for d in DETECTORS)])
        found.append(["… fenced in vain beside", "", *(str(row.false[d]) for d in DETECTORS)])
    hours = sum(figures.host_hours for figures in sums.values())
    return "\n\n".join(
        [
            f"Hosts fenced in vain, in {hours:,.0f} simulated host-hours for each detector\n"
            + _aligned([["fault", "exposure", *DETECTORS], *counts]),
            "The same, per million host-hours\n" + _aligned([["fault", "exposure", *DETECTORS], *rates]),
            "Hosts that lost power: found, and how soon\n" + _aligned([["", "", *DETECTORS], *found]),
        ]
    )


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, wide, strict=True)))
        for row in rows
    )


def goals(sums: Sums, harms: Sequence[Kind], deaths: Sequence[Kind]) -> tuple[list[str], bool]:
    """One line for each goal, and whether all were met."""
    lines, all_met = [], True
    quiet = sums[deaths[0].name]
    for preset, rival in RIVALS.items():
        promised = [kind for kind in harms if preset in kind.goal]
        broken = [f"{kind.name}: {sums[kind.name].false[preset]}" for kind in promised if sums[kind.name].false[preset]]
        said = "met" if not broken else f"NOT MET ({'; '.join(broken)})"
        lines.append(f"goal: {preset} fences nobody in vain under {len(promised)} kinds of single faults: {said}")
        ours, theirs = quiet.percentile(preset, 50), quiet.percentile(rival, 50)
        met = ours <= theirs and len(quiet.latencies[preset]) == quiet.faults
        lines.append(
            f"goal: {preset} finds every dead host, at the median no later than {rival}: "
            f"{ours:.2f} s, {theirs:.2f} s: {'met' if met else 'NOT MET'}"
        )
        all_met = all_met and met and not broken
    return lines, all_met
