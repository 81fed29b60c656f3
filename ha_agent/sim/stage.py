"""A small cloud in which one story is told: a host fails in one way or another, and is recovered. The matrix strikes into it.

A stage is made from its seed alone; played twice it gives the same bytes, so what differs once a fault has struck is due to the fault.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ha_agent.controller.engine import Engine
from ha_agent.model import Mode
from ha_agent.policy import Detection, Fencing, HostPolicy, Policy, Recovery, Storm
from ha_agent.sim import faults
from ha_agent.sim.actions import perform
from ha_agent.sim.loop import MakeEngine
from ha_agent.sim.person import Person
from ha_agent.sim.seeded_planes import with_planes
from ha_agent.sim.simulation import PROTECTED, Simulation
from ha_agent.sim.timeline import stream

SUBJECT = "h2"
HOSTS = (3, 3, 3, 4)
BEGINS_S = 18.0  # every host is known and was reached by then, and is asked about again
BOOT_S = 1.2
COMPUTE_START_S = 1.0
PACE = 0.25  # of faults: quiet time shows nothing
LEAST_S = 2.0  # after a fault: what it broke has shown
MENDED_S = 16.0  # after a fault that does not last longer: what it left behind is mended, as an operator would
NOVA_REPORTS_S = 5.0
HUNG_PATIENCE_S = (
    11.0  # a little more than two of them, as `config check` wants it; less than the patience of the person on call
)
LIMIT_S = 1500.0
LEASE_S = 12.0
LOOKS_EVERY_S = 5.0  # of the person on call, who waits so long with what stands still:
PATIENCE_S = 12.0
STEP_OF = re.compile(rf": (?:{SUBJECT}|[0-9a-f-]{{36}}) (?:\[(\w+)\]|is (suspect))")  # a guest goes by its id


PLAIN = Recovery(settle_after_s=300.0, api_max_s=10.0)


@dataclass(frozen=True)
class Story:
    """`begin`: lines of a script at its beginning. `then`: lines when a step begins. `recovery`, `levels`: its policy. `lasts_s`: what it
    breaks by itself is not mended sooner."""

    name: str
    begin: tuple[str, ...]
    then: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    recovery: Recovery = PLAIN
    levels: tuple[tuple[str, ...], ...] = (("bmc",),)
    guest_mode: str = "notify"
    lasts_s: float = 0.0


def _recovery(**more: object) -> Recovery:
    return Recovery(**{"settle_after_s": 300.0, "api_max_s": 10.0, **more})  # type: ignore[arg-type]


STORIES: tuple[Story, ...] = (
    Story("dies", (f"kill {SUBJECT}",)),
    Story("freezes", (f"freeze {SUBJECT}",)),
    Story(
        "second level", (f"device {SUBJECT} ignore_off bmc for 18", f"freeze {SUBJECT}"), levels=(("bmc",), ("pdu",))
    ),
    Story("slow moves", ("slow_evacuations 4", f"kill {SUBJECT}"), recovery=_recovery(window_min=1, window_max=2)),
    Story("no room", ("no_room for 22", f"kill {SUBJECT}"), recovery=_recovery(settle_after_s=15.0)),
    Story(
        "others move",
        (f"kill {SUBJECT}",),
        {"await_return": (f"later 4 hasty release {SUBJECT} all moved",)},
        recovery=_recovery(mode=Mode.NOTIFY),
    ),
    Story("told only", (f"kill {SUBJECT} for 18",), recovery=_recovery(mode=Mode.NOTIFY, fence=False)),
    Story("reboots", (f"reboot {SUBJECT} 5",)),
    Story("back too early", (f"kill {SUBJECT}",), {"evacuate": ("nova down for 10", f"power_on {SUBJECT} 1")}),
    Story("guest", ("guest_fault vm3 watchdog",), guest_mode="auto"),
    Story("hangs", (f"hang {SUBJECT}",), lasts_s=30.0),
)
QUICK = (
    "others move",
    "told only",
    "reboots",
)  # a strike into them costs half as much, so they are told twice as often
TURN = STORIES + tuple(s for s in STORIES if s.name in QUICK)


def story_of(seed: int) -> Story:
    """The story that a seed tells."""
    return TURN[seed % len(TURN)]


@dataclass(frozen=True)
class Mark:
    """A step was reached. `line`: with the how-manieth line of the log; `ends`: when it was left; `during`: after so many things had
    happened in the cloud, of the next one (-1: a person did something)."""

    step: str
    at: float
    line: int
    ends: float
    during: int


class Stage:
    """See the module. `log` takes all lines. `story`: another one than the seed's; `controllers`: another number of them."""

    def __init__(
        self,
        seed: int,
        make: MakeEngine = Engine,
        log: Callable[[str], None] = lambda line: None,
        *,
        story: Story | None = None,
        controllers: int | None = None,
    ) -> None:
        self.seed = seed
        self.chance = stream(seed, "stage")
        self.story = story or story_of(seed)
        policy, number = self._policy(), self.chance.choice((1, 1, 1, 2))
        policy, own = with_planes(policy, stream(seed, "planes"))
        self.sim = Simulation(seed, policy, controllers=controllers or number, make=make, log=self._line)
        self.sim.world.controller_planes = own
        self.sim.world.boot_s, self.sim.world.compute_start_s = BOOT_S, COMPUTE_START_S
        self.sim.world.microversion = self.chance.choice(((2, 94), (2, 95)))
        self._populate()
        self.person = Person(self.sim, stream(seed, "person"), LOOKS_EVERY_S, PATIENCE_S)
        self.marks: list[Mark] = []
        self.lines = 0
        self.on_line: Callable[[int], None] = lambda number: None
        self.on_second: Callable[[], bool] = lambda: False  # True: the rest need not be played
        self.cut_short = False
        self.struck_at: float | None = None
        self._log = log
        self._then = dict(self.story.then)
        self._look_at = 0.0
        self._mend_at = BEGINS_S + max(MENDED_S, self.story.lasts_s)
        self._mended = False
        self._ended = False

    def _policy(self) -> Policy:
        story, chance = self.story, self.chance
        detection = Detection(
            heartbeat_interval_s=chance.choice((2.4, 2.5)),
            probe_interval_s=chance.choice((5.0, 6.0)),
            probes=chance.choice((2, 3)),
            down_after_s=chance.choice((8.0, 9.0)),
            suspect_after_s=5.0,
            witness_fresh_s=60.0,
            nova_report_interval_s=NOVA_REPORTS_S,
            hung_patience_s=HUNG_PATIENCE_S,
        )
        fencing = Fencing(
            levels=story.levels, attempt_s=chance.choice((5.0, 8.0)), evidence_max_age_s=chance.choice((12.0, 30.0))
        )
        hosts = {
            f"h{n}": HostPolicy(
                name=f"h{n}", domain=f"rack{n % 2}", detection=detection, fencing=fencing, recovery=story.recovery
            )
            for n in range(1, 1 + chance.choice(HOSTS))
        }
        return Policy(
            lease_s=LEASE_S, hosts=hosts, detection=detection, storm=Storm(max_share=0.5), guest_mode=story.guest_mode
        )

    def _populate(self) -> None:
        number = 0
        for host in self.sim.policy.hosts:
            for _ in range(self.chance.choice((2, 2, 2, 3)) if host == SUBJECT else 1):
                number += 1
                self.sim.world.nova.add_server(host, f"vm{number}", tags=(PROTECTED,))

    # --- the log ---

    def _line(self, line: str) -> None:
        self._log(line)
        self.lines += 1
        found = STEP_OF.search(line)
        if found:
            self._step(found[1] or found[2])
        self.on_line(self.lines)

    def _step(self, step: str) -> None:
        now = self.sim.world.now
        last = self.marks[-1] if self.marks else None
        if last is not None and last.step == step:
            return
        if last is not None:
            self.marks[-1] = replace(last, ends=now)
        during = self.sim.steps if self.person.waiting else -1
        self.marks.append(Mark(step, now, self.lines, now, during))
        for line in self._then.pop(step, ()):
            self.sim.world.timeline.after(0.0, lambda line=line: perform(self.sim, line))  # type: ignore[misc]

    def tell(self, log: Callable[[str], None]) -> None:
        """Where the lines go from now on."""
        self._log = log

    # --- playing ---

    def begin(self) -> None:
        """Everything is up and known, and the story begins."""
        self.sim.start()
        self.sim.run_to(BEGINS_S + self.chance.uniform(0.0, 1.0))
        for line in self.story.begin:
            perform(self.sim, line)
        self._look_at = math.floor(self.sim.world.now) + 1.0

    def over(self) -> bool:
        """Nothing is open, broken or suspected any more."""
        sim = self.sim
        leader = sim.leader
        if leader is None or leader.engine is None or any(v.suspect_at for v in leader.engine.views.values()):
            return False
        since = sim.world.now - (BEGINS_S if self.struck_at is None else self.struck_at)
        return since > LEAST_S and not sim.lasting and sim.calm() and self.person.all_up()

    def play(self, until: float = LIMIT_S, *, ends: bool = True) -> None:
        """Until it is over, or until a moment, or where its cloud halts. After a fault has struck, what it left broken is mended in the end. Whether it is over is
        looked at on every whole second, so that nothing depends on where it was stopped before."""
        sim = self.sim
        while sim.world.now < until and not self._ended:
            halted = self.person.pass_time(min(self._look_at, until) - sim.world.now, mended=self._mended)
            if halted or until < self._look_at:
                return
            self._look_at = max(self._look_at, math.floor(sim.world.now)) + 1.0
            self.cut_short = self.on_second()
            if self.cut_short:
                return
            if not self._mended and sim.world.now > self._mend_at:
                if self.struck_at is not None:  # the story's own faults are over by then; its host waits for a person
                    faults.mend(sim)
                self._mended = True
            self._ended = ends and self.over()

    def go_on(self, seconds: float) -> None:
        """Some quiet time after the end."""
        self._ended = False
        self.play(self.sim.world.now + seconds, ends=False)

    def strike(self, fault: faults.Fault) -> list[str]:
        """A fault strikes now: its lines."""
        self.struck_at = self.sim.world.now
        self._mended = False  # what its own story broke may be, but not this
        self._mend_at = max(self.struck_at + max(MENDED_S, fault.lasts_s), BEGINS_S + self.story.lasts_s)
        return faults.strike(fault, self.sim, stream(self.seed, f"{fault.name} at {self.lines}"), SUBJECT, PACE)

    def finish(self) -> None:
        """To the end, and what the judge and the person say of it."""
        self.play()
        if self.cut_short:
            return
        if not self.over():
            self.person.complain()
        self.person.servers_run()
        self.sim.judge.late()
