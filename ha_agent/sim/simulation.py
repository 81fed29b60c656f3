"""One simulated cloud: world, store, judge and controllers, stepped through virtual time. Scenarios and random runs both drive it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ha_agent.controller.engine import Engine
from ha_agent.errors import StoreLocked
from ha_agent.model import Incident, Operator, Order, Phase
from ha_agent.policy import Policy
from ha_agent.sim.invariants import Judge
from ha_agent.sim.loop import MakeEngine, Process
from ha_agent.sim.timeline import stream
from ha_agent.sim.world import Violation, World
from ha_agent.store.memory import MemoryStore

PROTECTED = "automatic-recovery"
BUSY_S = 5.0  # how long a write waits for a store that another process holds


class Simulation:
    """See the module. `log` gets every line with its virtual time. `make` builds engines; `controllers` run from the start.
    `saw` may be set: it is told of all that reaches a controller, with the controller's name."""

    def __init__(
        self,
        seed: int | str,
        policy: Policy,
        *,
        controllers: int = 1,
        make: MakeEngine = Engine,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._log = log
        self.seed = seed
        self.policy = policy
        self.world = World(seed, policy, lambda line: self._line("world", line))
        self.store = MemoryStore()
        self.judge = Judge(self.world, self.store)
        self.lasting = 0  # faults that will end by themselves
        self.steps = 0  # things that happened
        self._locked_until = 0.0
        self._waits_until: dict[str, float] = {}  # by controller: for the store
        self.halt_at = -1  # `run_halting` stops before this one
        self.saw: Callable[[str, object], None] = lambda who, what: None
        names = [policy.controller, *(f"controller-{n}" for n in range(2, controllers + 1))]
        self.processes = [
            Process(n, self.world, self.store, policy, self.judge, seed, partial(self._line, n), make, self._saw)
            for n in names
        ]
        phase = stream(seed, "pulse")
        self._interval_s = policy.detection.heartbeat_interval_s
        for host in policy.hosts:
            self._pulse(host, phase.uniform(0.0, self._interval_s))

    def _line(self, who: str, line: str) -> None:
        self._log(f"{self.world.now:9.3f} {who}: {line}")

    def _saw(self, who: str, what: object) -> None:
        self.saw(who, what)

    def _pulse(self, host: str, delay_s: float) -> None:
        def beat() -> None:
            self.judge.pulse(host, self.processes)
            for process in self.processes:
                process.pulse(host)
            self._pulse(host, self._interval_s)

        self.world.timeline.after(delay_s, beat)

    # --- time ---

    def start(self, *, armed: bool = True) -> None:
        """Start the controllers; the first one leads and is armed."""
        for process in self.processes:
            process.start()
        if armed:
            self.order(Order.ARM)
        self.run(2.0)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.run_to(self.world.now + seconds)

    def run_to(self, end: float) -> None:
        """Let time pass until `end`, judged after every step."""
        while self.world.step(end):
            self.steps += 1
            self.judge.step()
        self.world.timeline.now = max(self.world.now, end)

    def run_halting(self, end: float) -> bool:
        """The same, but it may stop before the step `halt_at`. Says whether it did."""
        step, judge = self.world.step, self.judge.step
        while self.steps != self.halt_at and step(end):
            self.steps += 1
            judge()
        halted = self.steps == self.halt_at
        if not halted:
            self.world.timeline.now = max(self.world.now, end)
        return halted

    def run_until(self, done: Callable[[], bool], limit_s: float, look_s: float = 1.0) -> bool:
        """Let time pass until `done`, at most `limit_s`. Says whether it was."""
        end = self.world.now + limit_s
        while self.world.now < end:
            if done():
                return True
            self.run(min(look_s, end - self.world.now))
        return done()

    def skip(self, seconds: float) -> None:
        """Idle time passes at once, as if the controllers' machine had slept: they look anew before they act (S8)."""
        self.world.timeline.now += seconds
        self.run(1.5 * self.policy.lease_s + 2 * self.policy.detection.down_after_s)

    # --- the store ---

    def lock_store(self, seconds: float) -> None:
        """Another process holds the store for so long. Whoever writes waits for it, and does nothing else meanwhile; after BUSY_S it gives up."""
        world, until = self.world, self.world.now + seconds
        world.log(f"another process locks the store for {seconds:g} s")
        self.lasting += 1

        def wait() -> None:
            writer = next((p for p in self.processes if p.busy), None)  # none: one that is being stopped
            waited = self._waits_until.get(writer.name, 0.0) if writer is not None else 0.0
            left_s = until - max(world.now, waited)
            if writer is not None and left_s > 0.0:
                self._stands(writer, min(left_s, BUSY_S))
            if left_s > BUSY_S:
                raise StoreLocked("another process has locked it")

        def over() -> None:
            self.lasting -= 1
            if self._locked_until <= world.now:
                self.store.let_go()

        self._locked_until = until
        self.store.hold(wait)
        world.timeline.at(until, over)

    def _stands(self, process: Process, seconds: float) -> None:
        """It waits; several writes in a row wait one after the other."""
        until = max(self.world.now, self._waits_until.get(process.name, 0.0)) + seconds
        self._waits_until[process.name] = until
        if not process.paused:
            process.pause()

        def over() -> None:
            if self._waits_until[process.name] == until:
                process.resume()

        self.world.timeline.at(until, over)

    # --- acting ---

    @property
    def leader(self) -> Process | None:
        """Whoever leads."""
        return next((p for p in self.processes if p.engine is not None and p.engine.leading), None)

    def order(self, order: Order, host: str = "", reason: str = "", actor: str = "operator") -> str:
        """An operator's order to the leader; empty, or why it was refused."""
        self.run_until(lambda: self.leader is not None, 120.0, 0.5)
        return self.order_now(order, host, reason, actor)

    def order_now(
        self, order: Order, host: str = "", reason: str = "", actor: str = "operator", new_id: str = ""
    ) -> str:
        """The same, at this very moment: refused where no controller leads. `new_id`: of an incident that it may open."""
        leader = self.leader
        if leader is None:
            return "no controller leads"
        refusal = leader.order(Operator(order=order, actor=actor, host=host, reason=reason, new_id=new_id))
        self._line("operator", f"{order} {host}".rstrip() + (f": refused: {refusal}" if refusal else ""))
        return refusal

    # --- looking ---

    def open(self) -> list[Incident]:
        """The open incidents, as the leader knows them."""
        leader = self.leader
        if leader is None or leader.engine is None:
            return []
        return [i for i in leader.engine.state.incidents.values() if i.phase is Phase.OPEN]

    def calm(self) -> bool:
        """A leader is there and no incident is open."""
        return self.leader is not None and not self.open()

    def signature(self) -> dict[str, object]:
        """The final state, but for what chance decides (which destination): compared by S7."""
        nova = self.world.nova
        return {
            "servers": {
                s.name: (s.status, len(nova.runs.get(s.id, ())), nova.hosts[s.host].works)
                for s in nova.servers.values()
            },
            "hosts": {h.name: (h.powered, h.works, h.forced_down) for h in nova.hosts.values()},
            "open": sorted((i.host, str(i.step), i.blocked) for i in self.open()),
        }

    @property
    def violations(self) -> list[Violation]:
        """What the judge found."""
        return self.judge.violations
