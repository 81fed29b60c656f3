"""The hands of a simulated controller: effects carried out in the world, in virtual time, and their outcomes brought back.

What the daemon's executor does with drivers, threads and processes is done here with the world's own methods. Off attempts are
worker processes: they die with their controller, and with a CANCEL_FENCE.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from ha_agent.controller.effects import AckGuest, AnyEffect, AskWitness, Do, ReadBmc, ReadNova
from ha_agent.controller.engine import Engine
from ha_agent.controller.nova_calls import ask, failed, row_seen
from ha_agent.errors import HaAgentError
from ha_agent.model import (
    Answer,
    Command,
    CommandKind,
    Finished,
    Notification,
    Operator,
    Outcome,
    Power,
    Presence,
    Reading,
    Status,
)
from ha_agent.planes import MANAGEMENT, summed
from ha_agent.policy import HostPolicy, Policy
from ha_agent.ports import AnyObservation, PowerSeen, ProbeAnswered
from ha_agent.sim.requests import SimCloud
from ha_agent.sim.timeline import VirtualClock
from ha_agent.sim.world import Attempt, World, machine

TALK_TRIPS = 3  # of a probe on a connection that stands: TLS, the question
OFF_TAKES_S = 0.2
LOOK_EVERY_S = 0.5


class Owner(Protocol):
    """The process whose hands these are. `call`: something happens inside it, now or when it goes on."""

    name: str
    engine: Engine | None
    policy: Policy
    clock: VirtualClock
    saw: Callable[[str, object], None]

    def now(self) -> float: ...
    def call(self, action: Callable[[], None]) -> None: ...
    def stops_before(self, kind: CommandKind) -> bool: ...
    def expected(self, host: str, device: str) -> str | None: ...
    def checked(self, host: str, level: int, readings: Sequence[Reading]) -> None: ...


class Witnessing(Protocol):
    """What the judge is told of."""

    def sending(self, who: Owner, command: Command) -> None: ...
    def read(self, host: str, device: str, power: Power) -> None: ...
    def switched(self, command: Command, actual: str, *, on: bool) -> None: ...
    def before_nova(self, command: Command) -> None: ...
    def after_nova(self, command: Command, outcome: Outcome, learned_at: float) -> None: ...
    def gate_opened(self, host: str) -> None: ...
    def ordered(self, order: Operator) -> None: ...
    def published(self, note: Notification) -> None: ...
    def heard(self, who: Owner, host: str) -> None: ...
    def answered(self, who: Owner, answered: ProbeAnswered, asked_at: float) -> None: ...


class Hands:
    """See the module."""

    def __init__(self, owner: Owner, world: World, judge: Witnessing, latency: random.Random) -> None:
        self._owner = owner
        self._world = world
        self._judge = judge
        self._latency = latency
        self._cloud = SimCloud(world, owner.name)
        self._queued: dict[str, set[str]] = {}  # by host: fences that were handed over and have not begun

    def died(self) -> None:
        """Its workers die with the process."""
        for attempt in self._world.attempts:
            if attempt.controller == self._owner.name:
                attempt.alive = False

    def carry_out(self, effect: AnyEffect) -> None:
        match effect:
            case Do(command=command):
                self._do(command)
            case AskWitness():
                self._ask(effect)
            case ReadBmc(host=host):
                self._world.timeline.after(0.3, lambda: self._read_bmc(host))
            case ReadNova(host=host):
                late_s = self._world.weather.late_s()
                self._world.timeline.after(0.2 + late_s, lambda: self._read_nova(host))
            case AckGuest(host=host, report=report):
                self.acknowledge(host, report)

    def acknowledge(self, host: str, report: str) -> None:
        """The host's remote forgets an event of a guest, if it hears that it was taken."""
        row = self._world.hosts[host]
        if row.speaks and self._world.arrives(self._owner.name, host):
            row.events.pop(report, None)

    def _feed(self, outcome: Outcome, delay_s: float = 0.0) -> None:
        engine = self._owner.engine
        if engine is None:
            return

        def arrive() -> None:
            if self._owner.engine is engine:
                self._owner.saw(self._owner.name, outcome)
                self._owner.call(lambda: engine.feed(Finished(outcome=outcome)))

        if delay_s:
            self._world.timeline.after(delay_s, arrive)
        else:
            arrive()

    def _ask(self, effect: AskWitness) -> None:
        engine, world = self._owner.engine, self._world
        witness, target = effect.witness, effect.target

        own = witness == self._owner.name
        planes = self._host_policy(target).planes

        asked_at = world.now

        def answer() -> None:
            able = own or (world.hosts[witness].speaks and world.reach(self._owner.name, witness))
            word, delay_s = self._try(effect, MANAGEMENT) if able else (Answer.FAILED, 0.0)
            over: dict[str, Answer] = {}
            if able and planes:
                tries = {MANAGEMENT: (word, delay_s), **{plane: self._try(effect, plane) for plane in planes}}
                over = {plane: word for plane, (word, _) in tries.items()}
                word, delay_s = summed(over), max(took_s for _, took_s in tries.values())
            boot = world.hosts[target].boot_id if word is Answer.SIGNED else ""
            delay_s += world.network.extra_s(self._owner.name, witness) if able else 0.0
            if word in (Answer.SILENT, Answer.FAILED) or delay_s > effect.deadline_s:
                delay_s = max(effect.deadline_s, delay_s)

            def arrive() -> None:
                answered = ProbeAnswered(
                    host=target,
                    at=self._owner.now(),
                    witness=witness,
                    nonce=effect.nonce,
                    answer=word,
                    boot_id=boot,
                    over=over,
                )
                self.observe(engine, answered, lambda: self._judge.answered(self._owner, answered, asked_at))

            if delay_s:
                world.timeline.after(delay_s, arrive)
            else:
                arrive()

        world.timeline.after(self._latency.uniform(0.01, 0.1), answer)

    def _try(self, effect: AskWitness, plane: str) -> tuple[Answer, float]:
        """What comes over one plane, and how much later than it would."""
        network, witness, target = self._world.network, effect.witness, effect.target
        word = self._world.probe(witness, target, plane)
        if word is not Answer.FAILED and self._world.astray(self._owner.policy, target):
            word = Answer.SILENT
        connect_s = network.extra_s(witness, target, 1, connect=True)
        talk_s = network.extra_s(witness, target, TALK_TRIPS) if word is Answer.SIGNED else 0.0
        if connect_s > effect.deadline_s:
            word = Answer.SILENT
        elif connect_s + talk_s > effect.deadline_s:
            word = Answer.TCP
        return word, connect_s + talk_s

    def observe(
        self, engine: Engine | None, observation: AnyObservation, told: Callable[[], None] = lambda: None
    ) -> None:
        """It reaches the controller, if it still is the one that asked; `told` is called in the same moment."""
        if engine is None or self._owner.engine is not engine:
            return

        def arrive() -> None:
            told()
            engine.observe(observation)

        self._owner.saw(self._owner.name, observation)
        self._owner.call(arrive)

    def _read_bmc(self, host: str) -> None:
        levels = self._levels(host)
        engine = self._owner.engine
        if not levels or engine is None:
            return
        readings = tuple(self._reading(host, device) for device in levels[0])
        wait_s = self._world.takes_s(host, levels[0])

        def arrive() -> None:
            self.observe(engine, PowerSeen(host=host, at=self._owner.now(), readings=readings))

        if wait_s:
            self._world.timeline.after(wait_s, arrive)
        else:
            arrive()

    def _read_nova(self, host: str) -> None:
        try:
            services = {s.host: s for s in self._cloud.services()}
        except HaAgentError:
            services = None
        self.observe(self._owner.engine, row_seen(host, self._owner.now(), services))

    def _reading(self, host: str, device: str) -> Reading:
        """As a fencing worker reports it: of another machine than was learned it only says that it is another one."""
        found = self._looked(host, device)
        if self._may_switch(host, device, found.machine):
            self._judge.read(host, device, found.power)
            return found
        error = f"wrong machine: it says that it is {found.machine}"
        return msgspec.structs.replace(found, power=Power.UNKNOWN, error=error)

    def _looked(self, host: str, device: str) -> Reading:
        power, error, says = self._world.read(self._owner.name, host, device)
        at, wall = self._owner.now(), self._owner.clock.wall()
        return Reading(device=device, power=power, at=at, wall=wall, machine=says, error=error)

    def _may_switch(self, host: str, device: str, says: str) -> bool:
        """As a fencing worker asks before it sends anything: is this the machine that was learned?"""
        expected = self._owner.expected(host, device)
        return not says or not expected or says == expected

    def check(self, host: str, level: int, devices: tuple[str, ...]) -> None:
        """The periodic look at the devices of a level, in which nothing is expected of them."""
        readings = [self._looked(host, device) for device in devices]
        self._owner.saw(self._owner.name, tuple((r.device, r.power, r.machine, r.error) for r in readings))
        self._owner.checked(host, level, readings)

    def _host_policy(self, host: str) -> HostPolicy:
        """As the executor does: a host that left the configuration while something of it was under way has the defaults."""
        return self._owner.policy.hosts.get(host) or HostPolicy(name=host)

    def _levels(self, host: str) -> tuple[tuple[str, ...], ...]:
        policy = self._owner.policy.hosts.get(host)
        return policy.fencing.levels if policy is not None else ()

    # --- commands ---

    def _do(self, command: Command) -> None:
        engine = self._owner.engine
        if command.kind is CommandKind.FENCE:
            self._queued.setdefault(command.host, set()).add(command.id)

        def begin() -> None:
            if self._owner.engine is engine:
                self._owner.call(lambda: self._begin(command))

        self._world.timeline.after(self._latency.uniform(0.005, 0.05), begin)

    def _begin(self, command: Command) -> None:
        assert self._owner.engine is not None
        queued = self._queued.get(command.host, set())
        if command.kind is CommandKind.FENCE:
            if command.id not in queued:
                return  # cancelled before it began: it never does
            queued.discard(command.id)
        if command.kind is CommandKind.CANCEL_FENCE:
            queued.clear()
            self.kill(command.host)
            self._feed(Outcome(command=command.id, status=Status.OK), 0.05)
            return
        if command.kind is CommandKind.POWER_ON:
            self.kill(command.host)
        if command.kind is not CommandKind.READ_POWER and command.kind is not CommandKind.CHECK_ABSENT:
            refusal = self._owner.engine.permit(command)
            if refusal:
                self._feed(Outcome(command=command.id, status=Status.FAILED, error=f"not sent: {refusal}"), 0.001)
                return
            if self._owner.stops_before(command.kind):
                self._owner.call(lambda: self._send(command))  # when it goes on, as if no time had passed
                return
        self._send(command)

    def _send(self, command: Command) -> None:
        if command.kind is not CommandKind.READ_POWER and command.kind is not CommandKind.CHECK_ABSENT:
            self._judge.sending(self._owner, command)
        match command.kind:
            case CommandKind.FENCE:
                self._fence(command)
            case CommandKind.POWER_ON:
                self._power_on(command)
            case CommandKind.READ_POWER:
                devices = self._devices(command)
                readings = tuple(self._reading(command.host, d) for d in devices)
                wait_s = 0.3 + self._world.takes_s(command.host, devices)
                self._feed(Outcome(command=command.id, status=Status.OK, readings=readings), wait_s)
            case CommandKind.OPEN_GATE:
                self._world.timeline.after(0.05, lambda: self._open_gate(command))
            case CommandKind.CHECK_ABSENT:
                able = self._world.reach(self._owner.name, command.host) and self._world.hosts[command.host].speaks
                present = self._world.nova.domain_present(command.host, command.subject) if able else None
                self._feed(
                    Outcome(command=command.id, status=Status.OK, presence=Presence(present=present)),
                    0.1 if able else 3.0,
                )
            case _:
                self._ask_nova(command)

    def kill(self, host: str) -> None:
        for attempt in self._world.attempts:
            if attempt.host == host and attempt.controller == self._owner.name:
                attempt.alive = False

    def _devices(self, command: Command) -> tuple[str, ...]:
        levels = self._levels(command.host)
        return levels[command.level] if command.level < len(levels) else ()

    def _fence(self, command: Command) -> None:
        """Off to every device of the level, then readings until each read off twice."""
        world, devices = self._world, self._devices(command)
        attempt = Attempt(command.host, self._owner.name, command.id)
        world.attempts = [a for a in world.attempts if a.alive] + [attempt]
        deadline = world.now + self._host_policy(command.host).fencing.attempt_s
        readings: list[Reading] = []

        def off() -> None:
            if attempt.alive:
                for device in devices:
                    self._switch(command, device, on=False)
                world.timeline.after(LOOK_EVERY_S, look)

        def look() -> None:
            if not attempt.alive:
                return
            readings.extend(self._reading(command.host, d) for d in devices)
            proven = all([r.power for r in readings if r.device == d][-2:] == [Power.OFF, Power.OFF] for d in devices)
            again_s = LOOK_EVERY_S + world.takes_s(command.host, devices)
            if proven or world.now + again_s >= deadline:
                attempt.alive = False
                self._feed(Outcome(command=command.id, status=Status.OK, readings=tuple(readings)))
            else:
                world.timeline.after(again_s, look)

        world.timeline.after(OFF_TAKES_S, off)

    def _switch(self, command: Command, device: str, *, on: bool) -> None:
        world, host = self._world, command.host
        actual = world.behind(host, device)
        if self._may_switch(host, device, machine(actual)):
            self._judge.switched(command, actual, on=on)
            world.switch(self._owner.name, host, device, on=on)

    def _power_on(self, command: Command) -> None:
        def on() -> None:
            devices = self._devices(command)
            for device in devices:
                self._switch(command, device, on=True)
            readings = tuple(self._reading(command.host, d) for d in devices)
            wait_s = 1.0 + self._world.takes_s(command.host, devices)
            self._feed(Outcome(command=command.id, status=Status.OK, readings=readings), wait_s)

        self._world.timeline.after(OFF_TAKES_S, on)

    def _open_gate(self, command: Command) -> None:
        world = self._world
        host = world.hosts[command.host]
        if not (host.speaks and world.arrives(self._owner.name, command.host)):
            self._feed(Outcome(command=command.id, status=Status.FAILED, error="its remote does not answer"), 0.1)
        elif world.open_gate(command.host, command.boot_id):
            self._judge.gate_opened(command.host)
            if world.arrives(command.host, self._owner.name):
                self._feed(Outcome(command=command.id, status=Status.OK), 0.05)
            else:
                self._feed(Outcome(command=command.id, status=Status.LOST, error="no answer in time"), 3.0)
        else:
            self._feed(Outcome(command=command.id, status=Status.FAILED, error="it is in another boot"), 0.05)

    def _ask_nova(self, command: Command) -> None:
        """The request is on its way now: a crash of the controller does not take it back."""
        late_s = self._world.weather.late_s()
        to, back = (self._latency.uniform(0.02, 0.2) + late_s / 2 for _ in range(2))
        api_max_s = self._host_policy(command.host).recovery.api_max_s
        engine = self._owner.engine

        def arrive() -> None:
            delay = back
            self._judge.before_nova(command)
            try:
                outcome = ask(self._cloud, command)
            except HaAgentError as error:
                outcome = failed(command, error)
                if outcome.status is Status.LOST:
                    delay = min(api_max_s, 5.0)
            if to + delay > api_max_s:
                outcome = Outcome(command=command.id, status=Status.LOST, error="Nova did not answer in time")
                delay = max(0.0, api_max_s - to)
            self._judge.after_nova(command, outcome, self._world.now + delay)
            if self._owner.engine is engine:
                self._feed(outcome, delay)

        self._world.timeline.after(to, arrive)
