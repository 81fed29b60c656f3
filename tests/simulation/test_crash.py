"""S7: a crash at every boundary of the journal ends in the same final state as no crash, and nothing destructive is done twice.

The controller dies immediately before or immediately after its n-th journal write, for every n of every story, and of every story with
one fault more. What was done is counted in Nova's own books and at the fencing devices, not in what the controller says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import msgspec
import pytest

from ha_agent import plans
from ha_agent.controller.engine import Decide, Engine
from ha_agent.decide import Decision, decide
from ha_agent.model import AnyEvent, Now, Phase, Resumed, ServerProgress, ServerStage, State, Step
from ha_agent.policy import Policy
from ha_agent.sim.actions import perform
from ha_agent.sim.loop import MakeEngine
from ha_agent.sim.nova_state import EVACUATION
from ha_agent.sim.person import LEFT
from ha_agent.sim.stage import BEGINS_S, PLAIN, STORIES, SUBJECT, Stage, Story
from ha_agent.sim.timeline import stream
from ha_agent.store.memory import Moment

replaced = msgspec.structs.replace

RESTART_S = 3.0
SWITCHED_ON = re.compile(r" world: (\w+): (?:bmc|pdu) switches it on$")
GONE = "nova down for 50"

ALL: dict[str, Story] = {
    s.name: s
    for s in (
        *(s for s in STORIES if s.name != "no room"),
        # as there, with time enough for a crash and a fault while servers are started in place
        Story(
            "no room",
            ("no_room for 125", f"kill {SUBJECT}"),
            recovery=replaced(PLAIN, settle_after_s=110.0, retry_min_s=30.0),
        ),
        Story("back before the list", (f"kill {SUBJECT}",), {"force_down": (GONE, f"power_on {SUBJECT} 1")}),
        # the same boot is heard although its device reads off, before a witness reaches it: the one way to the plan UNFORCE
        Story(
            "heard again",
            (f"device {SUBJECT} lying", f"freeze {SUBJECT} for 30", "split for 33"),
            {"evacuate": (GONE,)},
        ),
        # the same, and witnesses reach it again before we do
        Story(
            "reached again",
            (f"device {SUBJECT} lying", f"freeze {SUBJECT} for 14"),
            {"force_down": (GONE, f"cut controller-1 {SUBJECT} for 20")},
        ),
        # unanswered, an order is said again
        Story("planned work", (*(f"order maintenance_on {SUBJECT} new fans",) * 2, f"reboot {SUBJECT} 5")),
        Story("guest told", ("guest_fault vm3 watchdog",)),
    )
}

FAULTS: dict[str, str] = {
    "Nova 503": "nova 503 for 20",
    "lost answers, done": "nova lost_done for 20",
    "lost answers, not done": "nova lost_not_done for 20",
    "BMC hanging": f"device {SUBJECT} hang bmc for 25",
    "BMC refusing": f"device {SUBJECT} refuse bmc for 25",
    "destination dies": "kill_destination",
    "packet loss": "loss 0.2 for 30",
    "store full": "store_full 6",
    "broker down": "broker down for 30",
    "controller paused": "pause for 20",
    "switched on": f"power_on {SUBJECT}",
    "second controller": "",
}


@dataclass(frozen=True)
class Told:
    """How a story ended. `done`: what was carried out, how often; `first`, `last`: the journal's writes from its begin to its end.
    `named`: servers of which an incident says why they were not moved or not started."""

    signature: dict[str, object]
    done: Counter[str]
    first: int
    last: int
    violations: list[str]
    plans: frozenset[tuple[Step, ...]]
    marks: dict[str, float]
    crashed: bool
    named: frozenset[str]

    @property
    def writes(self) -> range:
        """The numbers of the journal's writes, from 1."""
        return range(1, self.last - self.first + 1)


def tell(
    story: Story,
    seed: int,
    timed: Sequence[tuple[float, str]] = (),
    crash: tuple[Moment, int] | None = None,
    make: MakeEngine = Engine,
    *,
    controllers: int = 1,
) -> Told:
    """One story, with lines of a script at their moments, and a crash of the controller that leads at its n-th write."""
    lines: list[str] = []
    stage = Stage(seed, make, lines.append, story=story, controllers=controllers)
    sim = stage.sim
    process = sim.processes[0]
    process.restart_after_s = RESTART_S
    for at_s, line in timed:
        sim.world.timeline.at(at_s, lambda line=line: perform(sim, line))  # type: ignore[misc]
    first = 0

    def now_it_counts() -> None:
        nonlocal first
        first = sim.store.commits
        if crash is not None:
            process.crash_at.add((crash[0], first + crash[1]))

    sim.world.timeline.at(BEGINS_S - 0.5, now_it_counts)
    stage.begin()
    stage.finish()
    return Told(
        signature=sim.signature(),
        done=carried_out(stage, lines),
        first=first,
        last=sim.store.commits,
        violations=[str(v) for v in sim.violations],
        plans=frozenset(i.plan for i in stage.person.incidents.values()),
        marks={m.step: m.at for m in reversed(stage.marks)},
        crashed=process.lives > 1,
        named=frozenset(
            s.name for i in stage.person.incidents.values() for s in i.servers if s.stage in LEFT and s.reason
        ),
    )


def carried_out(stage: Stage, lines: Sequence[str]) -> Counter[str]:
    """What was done to the cloud, and how often. An evacuation counts that came to its end: one that
    failed, or whose destination died, is tried again."""
    nova = stage.sim.world.nova
    done: Counter[str] = Counter()
    for _, what, of in nova.calls:
        if what != "evacuate":
            done[f"{what} {name_of(stage, of)}"] += 1
    for m in nova.migrations:
        if m.kind == EVACUATION and m.status in ("done", "completed"):
            done[f"evacuate {name_of(stage, m.server)} from {m.source}"] += 1
    for line in lines:
        found = SWITCHED_ON.search(line)
        if found:
            done[f"power on {found[1]}"] += 1
    return done


def name_of(stage: Stage, what: str) -> str:
    """A server's name; a host's is its own."""
    servers = stage.sim.world.nova.servers
    return servers[what].name if what in servers else what


@dataclass(frozen=True)
class Case:
    """A story, and a fault that strikes when one of its steps begins; none: the story alone."""

    name: str
    seed: int = 1
    fault: str = ""
    step: str = ""

    @property
    def timed(self) -> list[tuple[float, str]]:
        """What the story and the fault do when a step begins, as lines at moments: a crash would swallow the line of the log that says that
        the step has begun."""
        marks = twin(self.name, self.seed).marks
        lines = [(marks[step] + 0.001, line) for step, each in ALL[self.name].then.items() for line in each]
        if self.fault and FAULTS[self.fault]:
            lines.append((marks[self.step] + 0.001, FAULTS[self.fault]))
        return lines

    def tell(self, crash: tuple[Moment, int] | None = None, make: MakeEngine = Engine) -> Told:
        """How it ends."""
        story = replace(ALL[self.name], then={})
        controllers = 2 if self.fault == "second controller" else 1
        return tell(story, self.seed, self.timed, crash, make, controllers=controllers)


@cache
def twin(name: str, seed: int) -> Told:
    """The story as it is."""
    return tell(ALL[name], seed)


@cache
def reference(case: Case) -> Told:
    """Without the crash."""
    told = case.tell()
    assert told.violations == []
    assert not told.crashed
    return told


def problems(case: Case, moment: Moment, number: int, make: MakeEngine = Engine) -> list[str]:
    """What a crash changes."""
    expected, told = reference(case), case.tell((moment, number), make)
    out = list(told.violations)
    if not told.crashed:
        out.append("it did not crash")
    # a fault has its moment by the clock: after a crash it may meet another step, and leave a server that an incident names
    named = told.named if case.fault else frozenset()
    now_is, was = without(told.signature, named), without(expected.signature, named)
    if now_is != was:
        out.append(f"it ends with {now_is}, without the crash with {was}")
    for what in sorted({*told.done, *expected.done}):
        before, now = expected.done[what], told.done[what]
        moved_less = what.startswith("evacuate") and now < before and not case.fault
        if now > max(before, moves(told, what), bool(case.fault) or follows(expected, what)) or moved_less:
            out.append(f"{what}: {now} times, without the crash {before}")
    return out


def follows(expected: Told, what: str) -> bool:
    """Whether it may be done once although the story has it not: what a story does by the clock (a host comes back, room is made) meets another step
    after a crash. Only of a host that the story deals with, and nothing but to move its servers and to switch it on."""
    host = what.rpartition(" ")[2]
    return what.startswith(("evacuate", "power on")) and any(host in each.split() for each in expected.done)


def moves(told: Told, what: str) -> int:
    """How often a server that is started was evacuated: a Nova may land it stopped each time. 0 for anything else that is done."""
    verb, _, name = what.partition(" ")
    return sum(n for w, n in told.done.items() if w.startswith(f"evacuate {name} ")) if verb == "start" else 0


def without(signature: dict[str, object], named: Container[str]) -> dict[str, object]:
    """The final state but for these servers."""
    servers = signature["servers"]
    assert isinstance(servers, dict)
    return {**signature, "servers": {name: how for name, how in servers.items() if name not in named}}


def sampled(fault: str, cases: int, crashes: int) -> Iterator[tuple[Case, Moment, int]]:
    """Some of all stories, moments of the fault, and crashes."""
    chance = stream(1, fault)
    for _ in range(cases):
        name = chance.choice(list(ALL))
        case = Case(name, 1, fault, chance.choice(list(twin(name, 1).marks)))
        for _ in range(crashes):
            yield case, chance.choice(list(Moment)), chance.choice(reference(case).writes)


def test_every_plan_is_told() -> None:
    known = {p for p in vars(plans).values() if isinstance(p, tuple)}
    told: set[tuple[Step, ...]] = set()
    for name in ALL:
        told |= twin(name, 1).plans
    assert told >= known, f"no story for {known - told}"


@pytest.mark.parametrize("name", ALL)
def test_a_crash_anywhere_changes_nothing(name: str) -> None:
    case = Case(name)
    found = [(m, n, p) for m in Moment for n in reference(case).writes for p in problems(case, m, n)]
    assert found == []


@pytest.mark.parametrize("fault", FAULTS)
def test_nor_does_one_with_a_fault_more(fault: str) -> None:
    found = [(c, m, n, p) for c, m, n in sampled(fault, 8, 5) for p in problems(c, m, n)]
    assert found == []


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ALL)
def test_nor_does_any_with_a_fault_more(name: str) -> None:
    """Every boundary, with every fault at two of the story's steps."""
    steps = list(twin(name, 2).marks)
    chosen = [
        (fault, step) for fault in FAULTS for step in stream(2, f"{name} {fault}").sample(steps, min(2, len(steps)))
    ]
    cases = [Case(name, 2, fault, step) for fault, step in chosen]
    found = [(c, m, n, p) for c in cases for m in Moment for n in reference(c).writes for p in problems(c, m, n)]
    assert found == []


# --- planted bugs: the comparison can fail ---


def forgetful(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """A new life does not ask what became of the old one's intents."""
    if isinstance(event, Resumed):
        return Decision(state=replaced(state, fleet=replaced(state.fleet, epoch=event.epoch)))
    return decide(state, event, rules, now)


def starts_over(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """A new life does the last one's work again from its beginning."""
    if isinstance(event, Resumed):
        incidents = {
            k: i if i.phase is Phase.CLOSED else replaced(i, position=0, servers=tuple(_anew(s) for s in i.servers))
            for k, i in state.incidents.items()
        }
        state = replaced(state, incidents=incidents)
    return decide(state, event, rules, now)


def _anew(server: ServerProgress) -> ServerProgress:
    return server.with_(stage=ServerStage.WAITING, next_at=0.0)


@pytest.mark.parametrize(
    ("bug", "name", "shows"),
    [(forgetful, "dies", "it ends with"), (starts_over, "guest", "reboot vm3: 2 times"), (starts_over, "dies", "S2")],
)
def test_a_planted_bug_shows(bug: Decide, name: str, shows: str) -> None:
    make = partial(Engine, decide=bug)
    case = Case(name)
    found = [p for n in reference(case).writes[2::3] for p in problems(case, Moment.AFTER, n, make)]
    assert any(p.startswith(shows) for p in found), found


@pytest.mark.parametrize("what", ["reboot vm1", "power on h3", "evacuate vm4 from h3", "force_down h2"])
def test_what_a_crash_invents_does_not_follow_from_the_story(what: str) -> None:
    """What is done of hosts that the story does not deal with, and what is no move of its servers."""
    assert not follows(reference(Case("told only")), what)
