"""Our detector on a trace: the production engine with its lookout, witnesses, rules and journal, in virtual time.

What stands between it and the trace is a model of `ha_agent/heartbeat`: one connection per host, beats on it, dialled anew after a silence;
witnesses that dial a target and bring its signature back on the connection that their own beats come on. A fence is an off command that
leaves, after the last look (`Engine.permit`). What it did is in `fenced`; the host is off from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from ha_agent.config.schema import PRESETS
from ha_agent.controller.effects import AnyEffect, AskWitness, Do, ReadBmc, ReadNova
from ha_agent.controller.engine import Engine
from ha_agent.heartbeat.link import PAUSE_S, MonitorOptions
from ha_agent.model import (
    Answer,
    Command,
    CommandKind,
    ComputeService,
    Finished,
    Mode,
    Operator,
    Order,
    Outcome,
    Power,
    Reading,
    Status,
)
from ha_agent.policy import Detection, Fencing, HostPolicy, Policy, Recovery, Storm
from ha_agent.ports import AnyObservation, Disconnected, Heartbeat, NovaSeen, PowerSeen, ProbeAnswered
from ha_agent.sim.timeline import SeededRandom, Timeline, VirtualClock, stream
from ha_agent.store.memory import MemoryStore
from tests.benchmarks.detection_peers import heard_at, reports
from tests.benchmarks.detection_tcp import Stream, connect, converse
from tests.benchmarks.detection_trace import CONTROLLER, NEVER, NOVA, Trace

OPTIONS = MonitorOptions()
DIAL_TRIPS = 2  # TLS, and the welcome
PROBE_TRIPS = 3  # those, and the signature
DIAL_SHARE = 0.95  # of a probe's deadline; as heartbeat/reach.py has it
ANSWER_S = 0.5  # beyond its deadline, for a witness's answer to come back; as heartbeat/link.py has it
READ_BMC_S = 0.3
READ_NOVA_S = 0.2
OFF_S = 1.2
LOOK_EVERY_S = 0.5
RACKS = 3
# The storm guard would hold back the fences that are to be counted.
STORM = Storm(max_hosts=100_000, max_share=1.0, domain_max_hosts=100_000)
MakeEngine = Callable[..., Engine]


def policy(preset: str, trace: Trace) -> Policy:
    """The preset, and defaults for all else, but for the storm guard. Fence and tell: what comes after an off is not looked at here."""
    detection = detection_of(preset)
    fencing, recovery = Fencing(storm=STORM), Recovery(mode=Mode.NOTIFY)
    hosts = {
        name(h): HostPolicy(
            name=name(h), domain=f"rack{h % RACKS}", detection=detection, fencing=fencing, recovery=recovery
        )
        for h in trace.names
    }
    return Policy(hosts=hosts, detection=detection, storm=STORM)


def detection_of(preset: str) -> Detection:
    """As the configuration resolves it."""
    fields = {key: value for key, value in PRESETS[preset].items() if key in Detection.__struct_fields__}
    fresh_s = PRESETS[preset].get("witnesses", {}).get("fresh_s", Detection().witness_fresh_s)
    return msgspec.structs.replace(Detection(), **fields, witness_fresh_s=fresh_s)


def name(host: int) -> str:
    """Of a host of a trace."""
    return f"h{host}"


@dataclass
class Link:
    """The connection to one host. `life` grows with each: what belongs to an earlier one does not happen."""

    host: int
    up: Stream
    down: Stream
    life: int = 0
    connected: bool = False
    beat_by: float = 0.0
    wait_s: float = OPTIONS.retry_min_s
    asked: dict[tuple[str, int], int] = field(default_factory=dict)  # nonce and target -> the life that carries it


class Ours:
    """See the module. `make`: builds the engine; tests plant bugs there."""

    def __init__(self, preset: str, trace: Trace, make: MakeEngine = Engine) -> None:
        self.trace = trace
        self.fenced: dict[int, float] = {}
        self.timeline = Timeline()
        self.clock = VirtualClock(self.timeline, "controller-machine")
        self._chance = stream(trace.seed, f"{preset} latency")
        rules = policy(preset, trace)
        self.interval_s = rules.detection.heartbeat_interval_s
        self._silence_s = max(OPTIONS.silence_s, 5 * self.interval_s)
        self._numbers = {name(h): h for h in trace.names}
        self._noted = {h: reports(trace, h) for h in trace.names}
        self._links = {h: self._link(h) for h in trace.names}
        self._inbox: list[Callable[[], None]] = []
        self._tick_at = -1.0
        self.engine = make(
            name=rules.controller,
            policy=rules,
            store=MemoryStore(),
            clock=self.clock,
            random=SeededRandom(stream(trace.seed, f"{preset} random")),
        )

    def run(self) -> dict[int, float]:
        """The whole trace. By host: when it was fenced."""
        engine, timeline = self.engine, self.timeline
        engine.start()
        for link in self._links.values():
            self._later(self._chance.uniform(0.0, 0.1), lambda link=link: self._dial(link))  # type: ignore[misc]
        for stall in self.trace.stalls(CONTROLLER):
            timeline.at(stall.ends, self._goes_on)
        self._call(engine.tick)
        timeline.at(1.0, lambda: engine.order(Operator(order=Order.ARM, actor="benchmark")))
        while (at := timeline.next_at()) is not None and at < self.trace.ends:
            timeline.step()
        return self.fenced

    @property
    def now(self) -> float:
        """Seconds since the trace began."""
        return self.timeline.now

    # --- the process ---

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        self.timeline.after(delay_s, action)

    def _stands_still(self) -> bool:
        return self.trace.agent_at(CONTROLLER, self.now) > self.now

    def _call(self, action: Callable[[], None]) -> None:
        """Something happens in the process, now or when it goes on."""
        if self._stands_still():
            self._inbox.append(action)
            return
        action()
        self._pump()

    def _goes_on(self) -> None:
        """Whether its timers or its sockets come first is chance."""
        inbox, self._inbox = self._inbox, []
        if self._chance.random() < 0.5:
            self._call(self.engine.tick)
        for action in inbox:
            self._call(action)
        self._call(self.engine.tick)

    def _pump(self) -> None:
        for effect in self.engine.effects():
            self._carry_out(effect)
        at = self.engine.next_at()
        if at < self._tick_at or self._tick_at < self.now:
            self._tick_at = max(at, self.now + 0.001)
            self.timeline.at(self._tick_at, lambda when=self._tick_at: self._due(when))  # type: ignore[misc]

    def _due(self, when: float) -> None:
        if when == self._tick_at and not self._stands_still():
            self._tick_at = -1.0
            self._call(self.engine.tick)

    def _observe(self, observation: AnyObservation) -> None:
        """Its time is that of the reading."""
        self._call(lambda: self.engine.observe(msgspec.structs.replace(observation, at=self.now)))

    # --- the world, without what was fenced ---

    def _agent_at(self, host: int, at: float) -> float:
        return NEVER if host in self.fenced else self.trace.agent_at(host, at)

    # --- connections and beats ---

    def _link(self, host: int) -> Link:
        return Link(host, Stream(self.trace, host, CONTROLLER), Stream(self.trace, CONTROLLER, host))

    def _dial(self, link: Link) -> None:
        host, at = link.host, self.trace.agent_at(CONTROLLER, self.now)
        answered = None if host in self.fenced else connect(self.trace, CONTROLLER, host, at, OPTIONS.dial_s)
        welcome = NEVER if answered is None else converse(self.trace, CONTROLLER, host, answered, DIAL_TRIPS)
        if welcome <= at + OPTIONS.dial_s:
            self.timeline.at(welcome, lambda: self._welcomed(link))
        else:
            self.timeline.at(at + OPTIONS.dial_s, lambda: self._call(lambda: self._refused(link, answered is not None)))

    def _refused(self, link: Link, answered: bool) -> None:
        self._observe(Disconnected(host=name(link.host), at=self.now, answered=answered, error="no answer"))
        link.wait_s = min(OPTIONS.retry_max_s, 2 * link.wait_s)
        self._later(self._chance.uniform(link.wait_s / 2, link.wait_s), lambda: self._dial(link))

    def _welcomed(self, link: Link) -> None:
        fresh = self._link(link.host)
        link.up, link.down, link.life, link.connected = fresh.up, fresh.down, link.life + 1, True
        link.beat_by = self.now + self._silence_s
        self._watch(link, link.life)
        self._beats(link, link.life)

    def _beats(self, link: Link, life: int) -> None:
        """The host sends a beat of this connection, and the next ones after it, as long as it knows of no newer one."""
        at = self._agent_at(link.host, self.now)
        if link.life != life or at == NEVER:
            return
        if at > self.now:
            self.timeline.at(at, lambda: self._beats(link, life))
            return
        arrives = link.up.send(at)
        if arrives < NEVER:
            self.timeline.at(arrives, lambda: self._arrived(link, life))
        self.timeline.at(at + self.interval_s, lambda: self._beats(link, life))

    def _arrived(self, link: Link, life: int) -> None:
        if link.life == life and link.connected and link.host not in self.fenced:
            self._call(lambda: self._heard(link, life))

    def _heard(self, link: Link, life: int) -> None:
        if link.life == life and link.connected:
            link.beat_by, link.wait_s = self.now + self._silence_s, OPTIONS.retry_min_s
            self._observe(Heartbeat(host=name(link.host), at=self.now, boot_id=f"boot-{link.host}"))

    def _watch(self, link: Link, life: int) -> None:
        """A connection without a beat is dialled anew; what came while we stood still is waiting to be read."""
        if link.life != life:
            return
        due = link.beat_by
        if self.now < due:
            self.timeline.at(due, lambda: self._call(lambda: self._watch(link, life)))
        elif self.now - due >= PAUSE_S:
            link.beat_by = self.now + self._silence_s
            self._watch(link, life)
        else:
            link.connected = False
            self._drop(link)
            self._observe(Disconnected(host=name(link.host), at=self.now, answered=False, error="it fell silent"))
            self._later(self._chance.uniform(link.wait_s / 2, link.wait_s), lambda: self._dial(link))

    def _drop(self, link: Link) -> None:
        """Nothing that was asked on it will be answered."""
        for nonce, target in list(link.asked):
            self._answer(link, nonce, target, Answer.FAILED)

    # --- effects ---

    def _carry_out(self, effect: AnyEffect) -> None:
        match effect:
            case AskWitness():
                self._ask(effect)
            case ReadBmc(host=host):
                self._later(READ_BMC_S, lambda: self._read_bmc(host))
            case ReadNova(host=host):
                self._read_nova(host)
            case Do(command=command):
                wait_s = self._chance.uniform(0.005, 0.05)
                self._later(wait_s, lambda: self._call(lambda: self._do(command)))

    def _ask(self, effect: AskWitness) -> None:
        """The question goes to the witness, the witness dials the target, its answer comes back behind its beats."""
        link, target, nonce = self._links[self._numbers[effect.witness]], self._numbers[effect.target], effect.nonce
        link.asked[nonce, target] = link.life
        asked_at = self._agent_at(link.host, link.down.send(self.now)) if link.connected else NEVER
        if not link.connected:
            self._later(0.0, lambda: self._answer(link, nonce, target, Answer.FAILED))
            return
        self._later(
            effect.deadline_s + ANSWER_S,
            lambda: self._call(lambda: self._answer(link, nonce, target, Answer.FAILED)),
        )
        if asked_at < NEVER:
            life = link.life
            self.timeline.at(asked_at, lambda: self._probe(link, life, target, nonce, effect.deadline_s))

    def _probe(self, link: Link, life: int, target: int, nonce: str, deadline_s: float) -> None:
        trace, witness, ends = self.trace, link.host, self.now + deadline_s
        answer, at = Answer.SILENT, ends
        answered = None if target in self.fenced else connect(trace, witness, target, self.now, DIAL_SHARE * deadline_s)
        if answered is not None:
            signed = converse(trace, witness, target, answered, PROBE_TRIPS)
            answer, at = (Answer.SIGNED, signed) if signed <= ends else (Answer.TCP, ends)

        def told() -> None:
            if link.life == life and witness not in self.fenced:
                arrives = link.up.send(self.now)
                if arrives < NEVER:
                    self.timeline.at(arrives, lambda: self._call(lambda: self._answer(link, nonce, target, answer)))

        tells = self._agent_at(witness, at)
        if tells < NEVER:
            self.timeline.at(tells, told)

    def _answer(self, link: Link, nonce: str, target: int, answer: Answer) -> None:
        if link.asked.pop((nonce, target), None) is None:
            return
        boot = f"boot-{target}" if answer is Answer.SIGNED else ""
        self._observe(
            ProbeAnswered(
                host=name(target), at=self.now, witness=name(link.host), nonce=nonce, answer=answer, boot_id=boot
            )
        )

    def _read_bmc(self, host: str) -> None:
        self._observe(PowerSeen(host=host, at=self.now, readings=(self._reading(host),)))

    def _reading(self, host: str) -> Reading:
        number = self._numbers[host]
        off = number in self.fenced or not self.trace.alive(number, self.now)
        return Reading(device="bmc", power=Power.OFF if off else Power.ON, at=self.now, wall=self.clock.wall())

    def _read_nova(self, host: str) -> None:
        """A question to Nova on a new connection; its network is as good as the hosts'."""
        answered = connect(self.trace, CONTROLLER, NOVA, self.now, READ_NOVA_S + OPTIONS.dial_s)
        at = NEVER if answered is None else converse(self.trace, CONTROLLER, NOVA, answered, DIAL_TRIPS)
        noted = self._noted[self._numbers[host]]

        def seen() -> None:
            row = ComputeService(id=host, host=host, state="up", updated_at=f"{heard_at(noted, self.now):.6f}")
            self._observe(NovaSeen(host=host, at=self.now, service=row if at < NEVER else None))

        self.timeline.at(min(at, self.now + OPTIONS.dial_s) + READ_NOVA_S, seen)

    def _do(self, command: Command) -> None:
        """A fence is what is looked for; it works at once. Everything else is done as if all were well."""
        host = self._numbers[command.host]
        if command.kind is CommandKind.FENCE:
            refusal = self.engine.permit(command)
            if refusal:
                self._feed(command, Outcome(command=command.id, status=Status.FAILED, error=refusal))
                return
            self.fenced.setdefault(host, self.now)
            self._later(OFF_S, lambda: self._off(command))
        elif command.kind is CommandKind.READ_POWER:
            readings = (self._reading(command.host),)
            self._feed(command, Outcome(command=command.id, status=Status.OK, readings=readings))
        else:
            self._feed(command, Outcome(command=command.id, status=Status.OK))

    def _off(self, command: Command) -> None:
        last = self._reading(command.host)
        readings = (msgspec.structs.replace(last, at=last.at - LOOK_EVERY_S), last)
        self._feed(command, Outcome(command=command.id, status=Status.OK, readings=readings))

    def _feed(self, command: Command, outcome: Outcome) -> None:
        self._later(0.05, lambda: self._call(lambda: self.engine.feed(Finished(outcome=outcome))))
