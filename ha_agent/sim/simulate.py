"""`ha-agent simulate`: random worlds, one a seed, in virtual time, judged after every step. The same seed gives the same bytes."""

from __future__ import annotations

import hashlib
import json as jsonlib
import random
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

from ha_agent.controller.engine import Engine
from ha_agent.errors import UsageError
from ha_agent.model import Incident, Mode, Phase, ServerStage
from ha_agent.policy import Detection, Fencing, HostPolicy, Policy, Recovery, Storm
from ha_agent.sim import faults
from ha_agent.sim.actions import parsed, perform
from ha_agent.sim.loop import MakeEngine
from ha_agent.sim.person import Person
from ha_agent.sim.seeded_planes import with_planes
from ha_agent.sim.simulation import PROTECTED, Simulation
from ha_agent.sim.timeline import stream

DAY_S = 86_400.0
DAYS_MAX = 3650
CALM_LIMIT_S = 2400.0


def policy_of(chance: random.Random) -> Policy:
    """A cloud of a few hosts: settings vary within what `config check` would accept."""
    count = chance.randint(4, 10)
    racks = chance.randint(1, 3)
    levels: tuple[tuple[str, ...], ...] = chance.choice(((("bmc",),), (("bmc",), ("pdu",)), (("bmc",), ("pdu",))))
    detection = Detection(down_after_s=chance.choice((8.0, 10.0, 15.0)), suspect_after_s=chance.choice((3.0, 4.0)))
    fencing = Fencing(
        levels=levels, attempt_s=chance.choice((10.0, 20.0)), evidence_max_age_s=chance.choice((15.0, 30.0))
    )
    recovery = Recovery(settle_after_s=300.0, api_max_s=10.0, window_min=chance.choice((1, 2, 4)))
    told = Recovery(mode=Mode.NOTIFY, fence=chance.random() < 0.5, settle_after_s=300.0, api_max_s=10.0)
    names = [f"h{n}" for n in range(1, count + 1)]
    notified = set(names[:1]) if chance.random() < 0.2 else set()
    return Policy(
        hosts={
            name: HostPolicy(
                name=name,
                domain=f"rack{i % racks}",
                detection=detection,
                fencing=fencing,
                recovery=told if name in notified else recovery,
            )
            for i, name in enumerate(names)
        },
        detection=detection,
        storm=Storm(max_share=chance.choice((0.2, 0.5))),
    )


def populate(sim: Simulation, chance: random.Random) -> None:
    """Servers, most of them protected, some image-backed, some stopped."""
    number = 0
    for host in sim.policy.hosts:
        for _ in range(chance.randint(0, 4)):
            number += 1
            sim.world.nova.add_server(
                host,
                f"vm{number}",
                tags=(PROTECTED,) if chance.random() < 0.8 else (),
                volume=chance.random() < 0.85,
                stopped=chance.random() < 0.1,
            )


class Life:
    """One seed: a world, its episodes of faults, and the person who is on call.

    `only`: the numbers of the faults that strike, None for all. `instead`: lines of a script that strike in place of a fault, by its
    number. What chance decides about one fault depends on no other one. `struck`: what struck, by number.
    """

    def __init__(
        self,
        seed: int,
        make: MakeEngine = Engine,
        log: Callable[[str], None] = lambda line: None,
        only: Collection[int] | None = None,
        instead: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        self.seed = seed
        chance = stream(seed, "policy")
        policy, own = with_planes(policy_of(chance), stream(seed, "planes"))
        self.sim = Simulation(seed, policy, controllers=2 if chance.random() < 0.3 else 1, make=make, log=log)
        self.sim.world.controller_planes = own
        self.sim.world.microversion = chance.choice(((2, 94), (2, 95)))
        populate(self.sim, stream(seed, "servers"))
        self.struck: dict[int, list[str]] = {}
        self.person = Person(self.sim, stream(seed, "person"))
        self._chance = stream(seed, "faults")
        self._only = only
        self._instead = instead or {}
        self._number = 0

    def live(self, days: float) -> None:
        """So many days; an episode of faults about every eight hours."""
        self.sim.start()
        self.sim.run(20.0)
        for _ in range(max(1, round(days * 3))):
            self._episode()
            self.sim.skip(self._chance.uniform(600.0, DAY_S / 2))
        self.sim.judge.late()

    def _episode(self) -> None:
        sim, world, person = self.sim, self.sim.world, self.person
        number = self._chance.choice((1, 1, 2, 2, 3, 4, 6))
        for _ in range(number):
            self._strike(alone=number == 1)
            person.pass_time(self._chance.choice((0.0, 1.0, 5.0, 15.0, 30.0)) * self._chance.random())
        person.pass_time(self._chance.uniform(30.0, 300.0))
        faults.mend(sim)
        limit = world.now + CALM_LIMIT_S
        while world.now < limit and not (sim.calm() and person.all_up()):
            person.pass_time(5.0, mended=True)
        person.pass_time(70.0, mended=True)  # Nova's own bookkeeping follows
        if world.now >= limit:
            person.complain()
        person.servers_run()

    def _strike(self, *, alone: bool) -> None:
        """The next fault of this life."""
        self._number += 1
        chance = stream(self.seed, f"fault {self._number}")
        fault, subject = faults.pick(chance), chance.choice(list(self.sim.world.hosts))
        if self._number in self._instead:
            lines = list(self._instead[self._number])
            for line in lines:
                self.sim.world.log(f"fault {self._number}: {line}")
                perform(self.sim, line)
        elif self._only is None or self._number in self._only:
            lines = faults.strike(fault, self.sim, chance, subject)
        else:
            return
        self.struck[self._number] = lines
        if alone and len(lines) == 1 and lines[0].split()[0] == "kill" and " for " not in lines[0]:  # L1 holds for it
            host = lines[0].split()[1]
            if self.sim.policy.hosts[host].recovery.fence:
                self.sim.judge.died(host)

    @property
    def incidents(self) -> dict[str, Incident]:
        """All of this life, by id."""
        return self.person.incidents

    def summary(self) -> dict[str, Any]:
        """What this life saw."""
        done = [i for i in self.incidents.values() if i.phase is Phase.CLOSED]
        moved = sum(
            s.stage is ServerStage.VERIFIED and bool(s.dest) for i in self.incidents.values() for s in i.servers
        )
        return {
            "incidents": len(self.incidents),
            "recovered": sum(i.committed_at is not None for i in done),
            "moved": moved,
        }


def run(
    seeds: int,
    first_seed: int,
    days: float,
    json: bool,
    out: TextIO | None = None,
    make: MakeEngine = Engine,
    *,
    log: bool = False,
    ended: Callable[[Simulation], None] = lambda sim: None,
) -> int:
    """Live `seeds` lives. `ended` is shown the cloud at the end of each. Prints with `log` every line of them, progress (not with `json`), violations with the command that replays each and a script of fewer faults
    that still shows the first, and last a summary with a digest of all logs; with `json` each line is a JSON object. 0 if no rule was broken."""
    stdout = out if out is not None else sys.stdout
    total = {"incidents": 0, "recovered": 0, "moved": 0}
    violations: list[dict[str, Any]] = []
    digest = hashlib.sha256()

    def take(line: str) -> None:
        digest.update(f"{line}\n".encode())
        if log:
            print(line, file=stdout)

    for seed in range(first_seed, first_seed + seeds):
        if log:
            print(f"--- seed {seed}", file=stdout)
        life = lived(Life(seed, make, take), days)
        for key, value in life.summary().items():
            total[key] += value
        replay = f"ha-agent simulate --seeds 1 --first-seed {seed} --days {days:g}"
        found = [
            {"seed": seed, "rule": v.rule, "at_s": round(v.at, 3), "text": v.text, "replay": replay}
            for v in life.sim.violations
        ]
        violations += found
        for line in found:
            print(
                jsonlib.dumps(line) if json else f"seed {seed}: {line['rule']}: {line['text']}\n  {replay}", file=stdout
            )
        if found:
            script = minimised(life, days, make)
            print(jsonlib.dumps({"seed": seed, "script": script}) if json else f"minimised:\n{script}", file=stdout)
        ended(life.sim)
        if not json and (seed - first_seed + 1) % 10 == 0:
            print(f"{seed - first_seed + 1} of {seeds} seeds, {len(violations)} violations", file=stdout, flush=True)
    summary = {"seeds": seeds, "first_seed": first_seed, "days": days, **total, "log_sha256": digest.hexdigest()}
    print(jsonlib.dumps({**summary, "violations": violations}), file=stdout)
    return 1 if violations else 0


def lived(life: Life, days: float) -> Life:
    """The same life, at its end."""
    try:
        life.live(days)
    except Exception as error:  # the core must not raise, whatever happens: that too is a finding, with its seed
        life.sim.judge.broken("ERROR", f"{type(error).__name__}: {error}")
    return life


def minimised(life: Life, days: float, make: MakeEngine = Engine) -> str:
    """A script that still breaks the first rule that the life broke: once through all faults, each is left out where the
    rule is broken without it too. A shorter script may exist."""
    rule = life.sim.violations[0].rule

    def shows(numbers: Collection[int]) -> bool:
        again = lived(Life(life.seed, make, only=numbers), days)
        return any(v.rule == rule for v in again.sim.violations)

    kept = sorted(life.struck)
    for number in list(kept):
        fewer = [n for n in kept if n != number]
        if shows(fewer):
            kept = fewer
    least = lived(Life(life.seed, make, only=kept), days)
    script = {"seed": life.seed, "days": days, "faults": {n: least.struck[n] for n in kept if n in least.struck}}
    return str(yaml.safe_dump(script, sort_keys=False))


def replay_script(
    path: Path,
    out: TextIO | None = None,
    make: MakeEngine = Engine,
    ended: Callable[[Simulation], None] = lambda sim: None,
) -> int:
    """Live the life of a script, and print its log. `ended` is shown the cloud at its end. Raises UsageError where the script is wrong. 0 if no rule was broken."""
    stdout = out if out is not None else sys.stdout
    seed, days, lines = _script(path)
    log: Callable[[str], None] = lambda line: print(line, file=stdout)  # noqa: E731
    life = lived(Life(seed, make, log, only=(), instead=lines), days)
    for v in life.sim.violations:
        print(f"violation: {v}", file=stdout)
    ended(life.sim)
    return 1 if life.sim.violations else 0


def _script(path: Path) -> tuple[int, float, dict[int, list[str]]]:
    try:
        script = yaml.safe_load(path.read_text())
        seed, days = int(script["seed"]), float(script["days"])
        lines = {int(n): [str(line) for line in each] for n, each in script["faults"].items()}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: {error}", "a script has seed, days, and faults: {number: [lines]}") from None
    if not 0 < days <= DAYS_MAX:
        raise UsageError(f"{path}: days is {days:g}", f"use more than 0 and at most {DAYS_MAX}")
    hosts = Life(seed).sim.world.hosts
    for line in (line for each in lines.values() for line in each):
        try:
            action, args, _ = parsed(line)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        for what, given in zip(action.usage.strip("[]").split(), args, strict=False):
            if what == "HOST" and given not in hosts:
                raise UsageError(
                    f"{path}: {line!r}: seed {seed} has no host {given}", f"use one of: {', '.join(hosts)}"
                )
    return seed, days, lines
