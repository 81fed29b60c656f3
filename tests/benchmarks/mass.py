"""What a big loss costs the controller's event loop: `python -m tests.benchmarks.mass` (or `make bench-mass`).

The production engine with its SQLite file on a real disk, in virtual time: half of the racks of a cloud fall silent in one moment, are suspected, judged down
and heard again. Whatever reaches the engine in one moment, and the ticks that are due in it, are timed turn by turn. Then one host with very
many servers dies, and all of them are moved by a Nova that answers at once. The yardstick is a commit of one document to the same file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ha_agent.controller.effects import AnyEffect, AskWitness, Do
from ha_agent.controller.engine import Engine
from ha_agent.model import (
    Answer,
    Command,
    CommandKind,
    Finished,
    Health,
    Migration,
    Operator,
    Order,
    Outcome,
    Phase,
    Power,
    Reading,
    Server,
    State,
    Status,
    Survey,
    Verdict,
)
from ha_agent.policy import HostPolicy, Policy, Recovery, Select
from ha_agent.ports import AnyObservation, Delete, Heartbeat, ProbeAnswered, Put
from ha_agent.store.sqlite import SqliteStore
from ha_agent.system import SystemRandom
from tests.benchmarks.report import ROOT, head, report, tell

HOSTS, SERVERS = (200, 1000, 2000), (500, 1000)
STEP_S, BEAT_STEPS = 0.1, 10
DOMAINS = 10
YARDSTICK_COMMITS = 100
RECOVERY_MOST_S = 7200.0
EVERY = Recovery(select=Select(all=True))

NOTES = """\
A turn is what the event loop does before it reads heartbeats again: what came in, one tick, the commits. Longest: the longest one of the phase, also
as a multiple of the yardstick, and the most CPU time that one of them took, which a busy machine spoils less. From a turn of more than 3 s on
(detection.pause_s and one tick) the controller counts as having been paused. Turns: those in which something was written; all of them together
took "in all". Heard again: all frames are read in one turn. Servers: the whole recovery of one host, without what Nova does."""


class Clock:
    """Virtual time; only what the engine does takes real time."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        """Boottime seconds."""
        return self.at

    def wall(self) -> float:
        """Unix seconds."""
        return 1.7e9 + self.at

    def boot_id(self) -> str:
        """Of the controller's machine."""
        return "bench"


class Counted(SqliteStore):
    """The production store, and how often it was written."""

    commits = 0

    def commit(self, epoch: int | None, writes: Sequence[Put | Delete]) -> None:
        """See ports.Store."""
        self.commits += 1
        super().commit(epoch, writes)


@dataclass
class Took:
    """What the turns of one phase took, in seconds."""

    name: str
    longest_s: float = 0.0
    most_cpu_s: float = 0.0
    all_s: float = 0.0
    cpu_s: float = 0.0
    turns: int = 0
    commits: int = 0


class Cloud:
    """An engine, and what happens to its hosts."""

    def __init__(self, directory: Path, policy: Policy) -> None:
        self.clock = Clock()
        self.store = Counted(directory / "store.db")
        self.policy = policy
        self.silent: set[str] = set()
        self.engine = Engine(
            name="controller-1", policy=policy, store=self.store, clock=self.clock, random=SystemRandom()
        )
        self.phase = Took("start")
        self.commands: deque[Command] = deque()
        self._answers: deque[tuple[float, AnyObservation]] = deque()
        self._steps = 0
        self.engine.start()
        self.turn([])
        self.engine.order(Operator(order=Order.ARM, actor="bench"))

    def turn(self, came: Iterable[AnyObservation | Finished]) -> None:
        """One turn of the loop, and more of them until nothing is due."""
        store = self.store
        while True:
            commits, wall, cpu = store.commits, time.perf_counter(), time.process_time()
            for each in came:
                if isinstance(each, Finished):
                    self.engine.feed(each)
                else:
                    self.engine.observe(each)
            self.engine.tick()
            effects = self.engine.effects()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            phase = self.phase
            phase.longest_s, phase.cpu_s = max(phase.longest_s, wall), phase.cpu_s + cpu
            phase.most_cpu_s = max(phase.most_cpu_s, cpu)
            phase.all_s += wall
            phase.turns += store.commits > commits
            phase.commits += store.commits - commits
            self._take(effects)
            came = ()
            if self.engine.next_at() > self.clock.at:
                return

    def _take(self, effects: Sequence[AnyEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Do):
                self.commands.append(effect.command)
            elif isinstance(effect, AskWitness):
                silent = effect.target in self.silent
                answer = Answer.SILENT if silent else Answer.SIGNED
                at = self.clock.at + effect.deadline_s
                self._answers.append(
                    (
                        at,
                        ProbeAnswered(
                            host=effect.target, at=at, witness=effect.witness, nonce=effect.nonce, answer=answer
                        ),
                    )
                )

    def run(self, seconds: float) -> None:
        """Living hosts beat each second; witnesses answer when a dial would have ended."""
        hosts = list(self.policy.hosts)
        for _ in range(round(seconds / STEP_S)):
            self.clock.at += STEP_S
            self._steps += 1
            now = hosts[self._steps % BEAT_STEPS :: BEAT_STEPS]
            came: list[AnyObservation] = [self.beat(h) for h in now if h not in self.silent]
            while self._answers and self._answers[0][0] <= self.clock.at:
                came.append(self._answers.popleft()[1])
            self.turn(came)

    def beat(self, host: str) -> Heartbeat:
        """A heartbeat that arrives now."""
        return Heartbeat(host=host, at=self.clock.at, boot_id=f"boot-{host}", nova_compute=Health.UP)

    def begin(self, name: str) -> Took:
        """Another phase."""
        self.phase = Took(name)
        return self.phase

    def yardstick(self) -> float:
        """Seconds that a commit of one document takes, the middle one of many."""
        took = []
        for number in range(YARDSTICK_COMMITS):
            began = time.perf_counter()
            SqliteStore.commit(self.store, None, [Put(kind="bench", key=f"{number}", body=b"x" * 500)])
            took.append(time.perf_counter() - began)
        return statistics.median(took)


def inventory(hosts: int) -> Policy:
    """Hosts of some failure domains."""
    names = [f"compute-{n:05d}" for n in range(hosts)]
    return Policy(
        hosts={h: HostPolicy(name=h, domain=f"rack-{n % DOMAINS}", recovery=EVERY) for n, h in enumerate(names)}
    )


def lose(hosts: int, directory: Path) -> tuple[float, list[Took]]:
    """Half of the racks, in one moment. The yardstick, and what came of it."""
    cloud = Cloud(directory, inventory(2 * hosts + DOMAINS))
    names = list(cloud.policy.hosts)
    lost = [h for n, h in enumerate(names) if n % DOMAINS < DOMAINS // 2][:hosts]
    phases = [cloud.begin("seen first")]
    cloud.turn([cloud.beat(h) for h in names])
    cloud.begin("quiet")
    cloud.run(20.0)
    cloud.turn([cloud.beat(h) for h in lost])
    cloud.silent.update(lost)
    phases.append(cloud.begin("suspected"))
    cloud.run(6.0)
    phases.append(cloud.begin("judged down"))
    cloud.run(8.0)
    found = cloud.engine.state.incidents.values()
    down = sum(i.phase is Phase.OPEN and i.verdict is Verdict.DOWN and bool(i.blocked) for i in found)
    assert down == hosts, f"{down} of {hosts} were found and held back by the storm guard"
    cloud.silent.clear()
    phases.append(cloud.begin("heard again"))
    cloud.turn([cloud.beat(h) for h in lost])
    left = sum(i.phase is Phase.OPEN for i in cloud.engine.state.incidents.values())
    assert left == 0, f"{left} incidents are still open"
    stick = cloud.yardstick()
    cloud.store.close()
    return stick, phases


class Nova:
    """It lists one host's servers, and moves what it is asked to at once. Its devices are off."""

    def __init__(self, host: str, servers: int, dests: Sequence[str], now: Callable[[], float]) -> None:
        self._now = now
        self._dests = dests
        self._servers = {
            f"{n:032x}": Server(id=f"{n:032x}", name=f"vm{n}", host=host, status="ACTIVE", local_disk=False)
            for n in range(servers)
        }
        self._moves: list[Migration] = []
        self._host = host

    def answer(self, command: Command) -> Finished:
        """At once."""
        readings: tuple[Reading, ...] = ()
        survey: Survey | None = None
        match command.kind:
            case CommandKind.FENCE | CommandKind.READ_POWER:
                readings = tuple(Reading(device="bmc", power=Power.OFF, at=self._now() + n * 0.01) for n in range(2))
            case CommandKind.SURVEY:
                here = tuple(s for s in self._servers.values() if s.host == self._host)
                survey = Survey(servers=here, migrations=tuple(self._moves))
            case CommandKind.FOLLOW:
                survey = Survey(migrations=tuple(self._moves))
            case CommandKind.LIST_SERVERS:
                survey = Survey(servers=tuple(s for s in self._servers.values() if s.host in command.hosts))
            case CommandKind.EVACUATE:
                self._move(command.subject)
            case _:
                pass
        outcome = Outcome(command=command.id, status=Status.OK, readings=readings, survey=survey)
        return Finished(outcome=outcome)

    def _move(self, server: str) -> None:
        number = len(self._moves) + 1
        dest = self._dests[number % len(self._dests)]
        self._servers[server] = Server(id=server, name=f"vm{number}", host=dest, status="ACTIVE", local_disk=False)
        self._moves.append(
            Migration(id=number, server=server, kind="evacuation", status="done", source=self._host, dest=dest)
        )


def recover(servers: int, directory: Path) -> tuple[float, Took]:
    """One host with so many servers. The yardstick, and what its recovery took."""
    cloud = Cloud(directory, inventory(10))
    names = list(cloud.policy.hosts)
    dead = names[0]
    nova = Nova(dead, servers, names[1:], cloud.clock.now)
    cloud.turn([cloud.beat(h) for h in names])
    cloud.run(20.0)
    cloud.silent.add(dead)
    phase = cloud.begin(f"{servers:,} servers")
    ends = cloud.clock.at + RECOVERY_MOST_S
    while not settled(cloud.engine.state):
        assert cloud.clock.at < ends, "it does not end"
        cloud.run(STEP_S)
        while cloud.commands:
            came = [nova.answer(c) for c in cloud.commands]
            cloud.commands.clear()
            cloud.turn(came)
    stick = cloud.yardstick()
    cloud.store.close()
    return stick, phase


def settled(state: State) -> bool:
    """Whether the recovery of some host is over."""
    return any(i.settled for i in state.incidents.values())


def line(phase: Took, stick: float) -> str:
    """Of the table."""
    return (
        f"  {phase.name:<14}  longest {1000 * phase.longest_s:8.1f} ms  × {phase.longest_s / stick:7.1f}  CPU {1000 * phase.most_cpu_s:8.1f} ms  in all {phase.all_s:7.2f} s  "
        f"CPU {phase.cpu_s:6.2f} s  turns {phase.turns:6,}  commits {phase.commits:6,}"
    )


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--hosts", type=int, nargs="*", default=list(HOSTS), help="that fall silent together")
    parser.add_argument("--servers", type=int, nargs="*", default=list(SERVERS), help="of one host that dies")
    parser.add_argument("--directory", type=Path, default=ROOT / "build", help="on the disk that is meant")
    parser.add_argument("--keep", type=Path, help="where the result is written")
    given = parser.parse_args()
    first = head("bench-mass")
    given.directory.mkdir(exist_ok=True)
    blocks = []
    for hosts in given.hosts:
        tell(f"{hosts} hosts")
        with tempfile.TemporaryDirectory(dir=given.directory) as place:
            stick, phases = lose(hosts, Path(place))
        lines = [f"{hosts:,} of {2 * hosts + DOMAINS:,} hosts; one commit takes {1000 * stick:.2f} ms"]
        blocks.append("\n".join(lines + [line(p, stick) for p in phases]))
        tell(blocks[-1])
    for servers in given.servers:
        tell(f"{servers} servers")
        with tempfile.TemporaryDirectory(dir=given.directory) as place:
            stick, phase = recover(servers, Path(place))
        blocks.append(f"one host; one commit takes {1000 * stick:.2f} ms\n{line(phase, stick)}")
        tell(blocks[-1])
    report(first, "\n\n".join(blocks), NOTES, given.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
