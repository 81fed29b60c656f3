"""What a controller notices of a flood of hostile connections: gaps between heartbeats, and how soon a witness answers.

    python -m tests.benchmarks.hostile [--seconds 10] [--keep FILE]

Real remotes in processes of their own. For each kind of attack three windows follow each other: quiet; the same flood against another
remote, which nobody watches (so that what the attacker itself takes from this machine is known); the flood against the remote that is
watched. Nothing here fails because a machine is slow. It fails where a heartbeat is lost, a connection of an honest peer ends, a witness
does not answer, somebody hostile is let in, or nothing is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ha_agent.heartbeat.monitor import Monitor
from ha_agent.model import Answer
from ha_agent.system import SystemClock, SystemRandom
from tests.benchmarks.report import head, report, tell
from tests.integration.attacker import ATTACKS, MAY_ENTER
from tests.integration.honest import INTERVAL_S, Heard, World, monitored, percentiles, process, unharmed
from tests.unit.heartbeat_support import until

WATCHED, TARGET, DECOY = "compute-1", "compute-2", "compute-3"
PROBE_EVERY_S = 0.15  # fewer than the 10 a second that a remote takes from one address
PROBE_S = 3.0
PATIENCE_S = 30.0
HARMLESS = frozenset({"connections", "probes", "handshake_failures"})  # the last is a sum of others

NOTES = f"""\
Milliseconds. The controller hears a heartbeat every {1000 * INTERVAL_S:.0f} ms and asks the watched remote {1 / PROBE_EVERY_S:.0f} times a second to reach another
host as a witness: TCP, mutual TLS, a signature, and back. "Elsewhere": the same attacker floods another remote on this machine, so
these figures hold what the attacker and its victim take from the two of them; "here": it floods the watched one. × is here against
quiet, in brackets against elsewhere. Attackers come from eight addresses, eight at once (slow_loris: 300), as fast as they can.
In all windows no heartbeat was lost, no connection of an honest peer ended, and every witness answer was signed: otherwise
this would not have been written."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One window, milliseconds: `gap` between heartbeats, `witness` from question to answer."""

    gap_p50: float
    gap_p99: float
    gap_most: float
    witness_p50: float
    witness_p99: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """Of one kind of attack. `counted`: by the watched remote's counters, while the flood was there."""

    name: str
    quiet: Seen
    elsewhere: Seen
    here: Seen
    tried: int
    counted: dict[str, int]


class Attacker:
    """The hostile process."""

    def __init__(self, made: subprocess.Popen[bytes]) -> None:
        self._made = made

    async def flood(self, name: str, seconds: float, port: int) -> dict[str, int]:
        """What it says that it did."""
        assert self._made.stdin is not None
        assert self._made.stdout is not None
        self._made.stdin.write(f"{name} {seconds} {port}\n".encode())
        self._made.stdin.flush()
        said = await asyncio.wait_for(asyncio.to_thread(self._made.stdout.readline), seconds + PATIENCE_S)
        tally: dict[str, int] = json.loads(said)
        return tally


class Witness:
    """Asks the watched remote for its word on the target, again and again."""

    def __init__(self, watch: Monitor, heard: Heard) -> None:
        self._watch = watch
        self._heard = heard
        self._asked: dict[str, float] = {}

    async def ask(self, seconds: float) -> list[float]:
        """For so long; how many milliseconds each answer took."""
        clock, random = SystemClock(), SystemRandom()
        nonces = []
        end = clock.now() + seconds
        while clock.now() < end:
            nonces.append(random.nonce())
            self._asked[nonces[-1]] = clock.now()
            self._watch.probe(WATCHED, TARGET, nonces[-1], PROBE_S)
            await asyncio.sleep(PROBE_EVERY_S)
        await until(lambda: {answer.nonce for answer in self._heard.answers} >= set(nonces))
        answers = [answer for answer in self._heard.answers if answer.nonce in set(nonces)]
        assert {answer.answer for answer in answers} == {Answer.SIGNED}, answers
        return [1000 * (answer.at - self._asked[answer.nonce]) for answer in answers]


async def measure(
    names: Sequence[str], seconds: float, note: Callable[[str], None] = lambda text: None
) -> list[Result]:
    """All of these attacks, one after the other."""
    with tempfile.TemporaryDirectory(prefix="ha-agent-bench-") as temporary:
        world = World(Path(temporary), (WATCHED, TARGET, DECOY))
        results = []
        async with _running(world) as (attacker, watch, heard):
            witness = Witness(watch, heard)
            for name in names:
                quiet = await _window(heard, witness, seconds)
                flood = asyncio.create_task(attacker.flood(name, seconds, world.ports[DECOY]))
                elsewhere = await _window(heard, witness, seconds)
                await flood
                before = await world.counters()
                flood = asyncio.create_task(attacker.flood(name, seconds, world.port))
                here = await _window(heard, witness, seconds)
                tally = await flood
                after = await world.counters()
                counted = {key: after[key] - before[key] for key in after if after[key] > before[key]}
                assert tally["tried"] > 10, (name, tally)
                assert name in MAY_ENTER or tally["welcomed"] == 0, (name, tally)
                assert ATTACKS[name] & counted.keys(), (name, tally, counted)
                counted = {key: number for key, number in counted.items() if key not in HARMLESS}
                results.append(
                    Result(
                        name=name, quiet=quiet, elsewhere=elsewhere, here=here, tried=tally["tried"], counted=counted
                    )
                )
                note(f"{name}: {tally['tried']} tried, {counted}")
        return results


@contextlib.asynccontextmanager
async def _running(world: World) -> AsyncIterator[tuple[Attacker, Monitor, Heard]]:
    with contextlib.ExitStack() as stack:
        for host in world.ports:
            stack.enter_context(world.remote(host))
        arguments = ("tests.integration.attacker", str(world.port), world.loot)
        hostile = stack.enter_context(process(*arguments, log=world.directory / "attacker.log"))
        for host in world.ports:
            await world.ready(host)
        watched = {host: world.ports[host] for host in (WATCHED, TARGET)}
        async with monitored(world, watched) as (watch, heard):
            await until(lambda: heard.beats.keys() == watched.keys())
            yield Attacker(hostile), watch, heard


async def _window(heard: Heard, witness: Witness, seconds: float) -> Seen:
    since = len(heard.beats[WATCHED])
    answers = percentiles(await witness.ask(seconds))
    beats = unharmed(heard, since)
    gaps = [1000 * (b.at - a.at) for a, b in itertools.pairwise(beats)]
    cuts = percentiles(gaps)
    return Seen(
        gap_p50=cuts[49], gap_p99=cuts[98], gap_most=max(gaps), witness_p50=answers[49], witness_p99=answers[98]
    )


FIGURES: tuple[tuple[str, Callable[[Seen], float]], ...] = (
    ("gap p50", lambda seen: seen.gap_p50),
    ("gap p99", lambda seen: seen.gap_p99),
    ("longest gap", lambda seen: seen.gap_most),
    ("witness p50", lambda seen: seen.witness_p50),
    ("witness p99", lambda seen: seen.witness_p99),
)


def table(results: Sequence[Result], seconds: float) -> str:
    """A block for each kind of attack."""
    blocks = []
    for result in results:
        counted = ", ".join(f"{name} {number}" for name, number in sorted(result.counted.items()))
        lines = [f"{result.name}: {result.tried / seconds:.0f} tried a second; counted: {counted}"]
        for name, of in FIGURES:
            quiet, elsewhere, here = of(result.quiet), of(result.elsewhere), of(result.here)
            lines.append(
                f"  {name:<12}  quiet {quiet:7.1f}  elsewhere {elsewhere:7.1f}  here {here:7.1f}  "
                f"× {here / quiet:5.2f}  (× {here / elsewhere:5.2f})"
            )
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each window; there are three for each attack")
    parser.add_argument("--keep", type=Path, help="where the result is written")
    given = parser.parse_args()
    first = f"{head('bench-hostile')}, windows of {given.seconds:g} s"
    results = asyncio.run(measure(tuple(ATTACKS), given.seconds, tell))
    report(first, table(results, given.seconds), NOTES, given.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
