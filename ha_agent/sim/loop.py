"""A simulated controller process: the production engine, its effects carried out in the world, heartbeats brought to it.

It can crash at any boundary of the journal and start again, and it can stand still while the world goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ha_agent.controller.effects import AnyEffect, AskWitness, Do, ReadBmc, ReadNova
from ha_agent.controller.engine import Engine
from ha_agent.errors import DriverError, HaAgentError, StoreError, Unanswered
from ha_agent.model import (
    Answer,
    Command,
    CommandKind,
    Finished,
    Health,
    Operator,
    Order,
    Outcome,
    Power,
    Presence,
    Reading,
    Status,
)
from ha_agent.policy import Policy
from ha_agent.ports import (
    AnyObservation,
    Delete,
    Disconnected,
    Heartbeat,
    NovaSeen,
    PowerSeen,
    ProbeAnswered,
    Put,
    Random,
    Store,
)
from ha_agent.sim.requests import Requests
from ha_agent.sim.timeline import SeededRandom, VirtualClock, stream
from ha_agent.sim.world import Attempt, World
from ha_agent.store.memory import MemoryStore, Moment

OFF_TAKES_S = 0.2
LOOK_EVERY_S = 0.5
INBOX_MAX = 200


class Crash(Exception):
    """The process dies here. Not one of ours, so that no handler of the core sees it."""


class Witnessing(Protocol):
    """What the judge is told of."""

    def sending(self, who: Process, command: Command) -> None: ...
    def switched(self, command: Command, *, on: bool) -> None: ...
    def before_nova(self, command: Command) -> None: ...
    def after_nova(self, command: Command, outcome: Outcome, learned_at: float) -> None: ...
    def gate_opened(self, host: str) -> None: ...
    def ordered(self, order: Operator) -> None: ...


MakeEngine = Callable[..., Engine]


class Process:
    """See the module. `make`: builds the engine; tests plant bugs there."""

    def __init__(
        self,
        name: str,
        world: World,
        store: MemoryStore,
        policy: Policy,
        judge: Witnessing,
        seed: int | str,
        log: Callable[[str], None],
        make: MakeEngine = Engine,
    ) -> None:
        self.name = name
        self.world = world
        self.store = store
        self.policy = policy
        self.engine: Engine | None = None
        self.paused = False
        self.lives = 0
        self.crash_at: set[tuple[Moment, int]] = set()
        self.restart_after_s = 3.0
        self._make = make
        self._judge = judge
        self._seed = seed
        self._log = log
        self._requests = Requests(world)
        self._latency = stream(seed, f"{name} latency")
        self._inbox: list[Callable[[], None]] = []
        self._tick_at = -1.0
        self._writing = False
        self._misses: dict[str, int] = {}
        store.on_commit(self._boundary)

    # --- life ---

    def start(self) -> None:
        """A new process with the old store."""
        self.lives += 1
        random: Random = SeededRandom(stream(self._seed, f"{self.name} life {self.lives}"))
        store: Store = self.store
        self.engine = self._make(
            name=self.name,
            policy=self.policy,
            store=store,
            clock=VirtualClock(self.world.timeline, "controller-machine"),
            random=random,
            log=self._log,
        )
        self.world.log(f"{self.name} starts")
        self.call(self.engine.start)
        self._tick()

    def crash(self, restart_after_s: float | None = None) -> None:
        """Killed: so are its workers, and with them every attempt that it began."""
        if self.engine is None:
            return
        self.world.log(f"{self.name} crashes")
        self.engine = None
        self._inbox.clear()
        self.paused = False
        self._tick_at = -1.0
        for attempt in self.world.attempts:
            if attempt.controller == self.name:
                attempt.alive = False
        wait = self.restart_after_s if restart_after_s is None else restart_after_s
        self.world.timeline.after(wait, self.start)

    def pause(self) -> None:
        """It stands still; what is sent to it waits."""
        if self.engine is not None:
            self.world.log(f"{self.name} stands still")
            self.paused = True

    def resume(self) -> None:
        """It goes on; whether its timers or its sockets come first is chance."""
        if self.engine is None or not self.paused:
            return
        self.world.log(f"{self.name} goes on")
        self.paused = False
        inbox, self._inbox = self._inbox, []
        if self._latency.random() < 0.5:
            self._tick()
        for action in inbox:
            self.call(action)
        self._tick()

    def call(self, action: Callable[[], None]) -> None:
        """Something happens inside the process."""
        if self.engine is None:
            return
        if self.paused:
            if len(self._inbox) < INBOX_MAX:
                self._inbox.append(action)
            return
        self._writing = True
        try:
            action()
        except Crash:
            self.crash()
            return
        finally:
            self._writing = False
        self._pump()

    def order(self, order: Operator) -> str:
        """An operator's order; empty, or why it was refused."""
        if self.engine is None or self.paused:
            return f"{self.name} does not answer"
        try:
            self.engine.order(order)
        except HaAgentError as error:
            return str(error)
        self._judge.ordered(order)
        self._pump()
        return ""

    def _boundary(self, moment: Moment, number: int, writes: Sequence[Put | Delete]) -> None:
        if self._writing and (moment, number) in self.crash_at:
            self.crash_at.discard((moment, number))
            raise Crash

    def _tick(self) -> None:
        engine = self.engine
        if engine is not None and not self.paused:
            self.call(engine.tick)

    def _pump(self) -> None:
        engine = self.engine
        if engine is None or self.paused:
            return
        for effect in engine.effects():
            self._carry_out(effect)
        at = engine.next_at()
        if at is not None and (self._tick_at < self.world.now or at < self._tick_at):
            self._tick_at = max(at, self.world.now + 0.001)
            self.world.timeline.at(self._tick_at, lambda when=self._tick_at: self._due(when))  # type: ignore[misc]

    def _due(self, when: float) -> None:
        if when == self._tick_at:
            self._tick_at = -1.0
            self._tick()

    # --- what reaches it ---

    def pulse(self, host: str) -> None:
        """One heartbeat interval of one host's connection."""
        row = self.world.hosts[host]
        connected = self.world.reach(self.name, host)
        engine = self.engine
        if engine is None:
            return
        if connected and row.speaks:
            self._misses[host] = 0
            row.heard = True
            self._observe_later(host, lambda: self._heartbeat(host))
            return
        self._misses[host] = self._misses.get(host, 0) + 1
        answered = connected and row.answers_tcp
        if answered or self._misses[host] % 3 == 0:
            error = "connection refused" if answered else "timed out"
            self._observe_later(
                host, lambda: Disconnected(host=host, at=self.world.now, answered=answered, error=error)
            )

    def told(self, observation: AnyObservation) -> None:
        """Something that another monitor saw."""
        self._observe(self.engine, observation)

    def _heartbeat(self, host: str) -> Heartbeat:
        row = self.world.hosts[host]
        row.seq += 1
        compute = self.world.nova.hosts[host].compute
        return Heartbeat(
            host=host,
            at=self.world.now,
            boot_id=row.boot_id,
            seq=row.seq,
            started_s=self.world.now - row.started_at,
            nova_compute=Health.UP if compute else Health.DOWN,
            libvirt=Health.UP,
            waiting_gate=self.world.waits_at_gate(host),
        )

    def _observe_later(self, host: str, make: Callable[[], AnyObservation]) -> None:
        engine = self.engine
        assert engine is not None
        boot = self.world.hosts[host].boot_id
        frame = make()

        def deliver() -> None:
            # a frame that waited in a socket is read late: its time is that of the reading
            current = frame if self.world.now == frame.at else _dated(frame, self.world.now)
            if isinstance(current, Heartbeat) and current.boot_id != boot:
                return
            engine.observe(current)

        self.call(deliver)

    # --- effects ---

    def _carry_out(self, effect: AnyEffect) -> None:
        match effect:
            case Do(command=command):
                self._do(command)
            case AskWitness():
                self._ask(effect)
            case ReadBmc(host=host):
                self.world.timeline.after(0.3, lambda: self._read_bmc(host))
            case ReadNova(host=host):
                self.world.timeline.after(0.2, lambda: self._read_nova(host))

    def _feed(self, outcome: Outcome, delay_s: float = 0.0) -> None:
        engine = self.engine
        if engine is None:
            return

        def arrive() -> None:
            if self.engine is engine:
                self.call(lambda: engine.feed(Finished(outcome=outcome)))

        if delay_s:
            self.world.timeline.after(delay_s, arrive)
        else:
            arrive()

    def _ask(self, effect: AskWitness) -> None:
        engine, world = self.engine, self.world

        def answer() -> None:
            witness = world.hosts[effect.witness]
            able = witness.speaks and world.reach(self.name, effect.witness)
            word = world.probe(effect.witness, effect.target) if able else Answer.FAILED
            boot = world.hosts[effect.target].boot_id if word is Answer.SIGNED else ""
            slow = word in (Answer.SILENT, Answer.FAILED)
            observation = ProbeAnswered(
                host=effect.target,
                at=world.now + (effect.deadline_s if slow else 0.0),
                witness=effect.witness,
                nonce=effect.nonce,
                answer=word,
                boot_id=boot,
            )
            if slow:
                world.timeline.after(effect.deadline_s, lambda: self._observe(engine, observation))
            else:
                self._observe(engine, observation)

        world.timeline.after(self._latency.uniform(0.01, 0.1), answer)

    def _observe(self, engine: Engine | None, observation: AnyObservation) -> None:
        if engine is not None and self.engine is engine:
            self.call(lambda: engine.observe(observation))

    def _read_bmc(self, host: str) -> None:
        levels = self.policy.hosts[host].fencing.levels
        if levels and self.engine is not None:
            readings = tuple(self._reading(host, device) for device in levels[0])
            self._observe(self.engine, PowerSeen(host=host, at=self.world.now, readings=readings))

    def _read_nova(self, host: str) -> None:
        service = None if self.world.nova_down else self._requests.service(host)
        self._observe(self.engine, NovaSeen(host=host, at=self.world.now, service=service))

    def _reading(self, host: str, device: str) -> Reading:
        power, error = self.world.read(host, device)
        return Reading(device=device, power=power, at=self.world.now, error=error)

    # --- commands ---

    def _do(self, command: Command) -> None:
        engine = self.engine

        def begin() -> None:
            if self.engine is engine:
                self.call(lambda: self._begin(command))

        self.world.timeline.after(self._latency.uniform(0.005, 0.05), begin)

    def _begin(self, command: Command) -> None:
        assert self.engine is not None
        if command.kind is CommandKind.CANCEL_FENCE:
            self._kill(command.host)
            self._feed(Outcome(command=command.id, status=Status.OK), 0.05)
            return
        if command.kind is CommandKind.POWER_ON:
            self._kill(command.host)
        if command.kind is not CommandKind.READ_POWER and command.kind is not CommandKind.CHECK_ABSENT:
            refusal = self.engine.permit(command)
            if refusal:
                self._feed(Outcome(command=command.id, status=Status.FAILED, error=f"not sent: {refusal}"), 0.001)
                return
            self._judge.sending(self, command)
        match command.kind:
            case CommandKind.FENCE:
                self._fence(command)
            case CommandKind.POWER_ON:
                self._power_on(command)
            case CommandKind.READ_POWER:
                readings = tuple(self._reading(command.host, d) for d in self._devices(command))
                self._feed(Outcome(command=command.id, status=Status.OK, readings=readings), 0.3)
            case CommandKind.OPEN_GATE:
                self.world.timeline.after(0.05, lambda: self._open_gate(command))
            case CommandKind.CHECK_ABSENT:
                able = self.world.reach(self.name, command.host) and self.world.hosts[command.host].speaks
                present = self.world.nova.domain_present(command.host, command.subject) if able else None
                self._feed(
                    Outcome(command=command.id, status=Status.OK, presence=Presence(present=present)),
                    0.1 if able else 3.0,
                )
            case _:
                self._ask_nova(command)

    def _kill(self, host: str) -> None:
        for attempt in self.world.attempts:
            if attempt.host == host and attempt.controller == self.name:
                attempt.alive = False

    def _devices(self, command: Command) -> tuple[str, ...]:
        return self.policy.hosts[command.host].fencing.levels[command.level]

    def _fence(self, command: Command) -> None:
        """Off to every device of the level, then readings until each read off twice."""
        world, devices = self.world, self._devices(command)
        attempt = Attempt(command.host, self.name, command.id)
        world.attempts = [a for a in world.attempts if a.alive] + [attempt]
        deadline = world.now + self.policy.hosts[command.host].fencing.attempt_s
        readings: list[Reading] = []

        def off() -> None:
            if attempt.alive:
                for device in devices:
                    self._judge.switched(command, on=False)
                    world.switch(command.host, device, on=False)
                world.timeline.after(LOOK_EVERY_S, look)

        def look() -> None:
            if not attempt.alive:
                return
            readings.extend(self._reading(command.host, d) for d in devices)
            proven = all([r.power for r in readings if r.device == d][-2:] == [Power.OFF, Power.OFF] for d in devices)
            if proven or world.now + LOOK_EVERY_S >= deadline:
                attempt.alive = False
                self._feed(Outcome(command=command.id, status=Status.OK, readings=tuple(readings)))
            else:
                world.timeline.after(LOOK_EVERY_S, look)

        world.timeline.after(OFF_TAKES_S, off)

    def _power_on(self, command: Command) -> None:
        def on() -> None:
            devices = self._devices(command)
            for device in devices:
                self._judge.switched(command, on=True)
                self.world.switch(command.host, device, on=True)
            readings = tuple(self._reading(command.host, d) for d in devices)
            self._feed(Outcome(command=command.id, status=Status.OK, readings=readings), 1.0)

        self.world.timeline.after(OFF_TAKES_S, on)

    def _open_gate(self, command: Command) -> None:
        host = self.world.hosts[command.host]
        if not (host.speaks and self.world.reach(self.name, command.host)):
            self._feed(Outcome(command=command.id, status=Status.FAILED, error="its remote does not answer"), 0.1)
        elif self.world.open_gate(command.host, command.boot_id):
            self._judge.gate_opened(command.host)
            self._feed(Outcome(command=command.id, status=Status.OK), 0.05)
        else:
            self._feed(Outcome(command=command.id, status=Status.FAILED, error="it is in another boot"), 0.05)

    def _ask_nova(self, command: Command) -> None:
        """The request is on its way now: a crash of the controller does not take it back."""
        to, back = self._latency.uniform(0.02, 0.2), self._latency.uniform(0.02, 0.2)
        api_max_s = self.policy.hosts[command.host].recovery.api_max_s
        engine = self.engine

        def arrive() -> None:
            outcome = Outcome(command=command.id, status=Status.OK)
            delay = back
            self._judge.before_nova(command)
            try:
                outcome = Outcome(command=command.id, status=Status.OK, survey=self._requests.carry_out(command))
            except DriverError as error:
                outcome = Outcome(command=command.id, status=Status.FAILED, error=str(error))
            except Unanswered as error:
                outcome = Outcome(command=command.id, status=Status.LOST, error=str(error))
                delay = min(api_max_s, 5.0)
            self._judge.after_nova(command, outcome, self.world.now + delay)
            if self.engine is engine:
                self._feed(outcome, delay)

        self.world.timeline.after(to, arrive)


def _dated(frame: AnyObservation, at: float) -> AnyObservation:
    import msgspec

    return msgspec.structs.replace(frame, at=at)


def arm(process: Process, actor: str = "operator") -> str:
    """The order that every cloud gives once."""
    return process.order(Operator(order=Order.ARM, actor=actor))


__all__ = ["Crash", "Process", "StoreError", "arm"]
