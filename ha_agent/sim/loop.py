"""A simulated controller process: the production engine, its effects carried out in the world, heartbeats brought to it.

It can crash at any boundary of the journal and start again, and it can stand still while the world goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from ha_agent import selfdoubt
from ha_agent.controller.devices import Devices
from ha_agent.controller.engine import Engine
from ha_agent.errors import HaAgentError, StoreError
from ha_agent.model import CommandKind, GuestFault, Health, Notification, Operator, Reading
from ha_agent.notify.writer import KIND as OUTBOX
from ha_agent.policy import Policy
from ha_agent.ports import (
    AnyObservation,
    Delete,
    Disconnected,
    GuestSeen,
    Heartbeat,
    Put,
    Random,
    Store,
)
from ha_agent.sim.devices import DeviceFault
from ha_agent.sim.hands import Hands, Witnessing
from ha_agent.sim.timeline import SeededRandom, VirtualClock, stream
from ha_agent.sim.world import GuestTrouble, World
from ha_agent.store.memory import MemoryStore, Moment

INBOX_MAX = 200
PUBLISH_S = 0.1
PUBLISH_AGAIN_S = 5.0
PUBLISH_TIMEOUT_S = 8.0
PUBLISH_BATCH = 20
TELL_AGAIN_S = 5.0  # what is not acknowledged
OF_ORDERS = ("controller.armed", "controller.disarmed")  # these say that an order was given, not what came of it
CHECK_FIRST_S, CHECK_EVERY_S = 3.0, 30.0  # of the fencing devices


class Crash(Exception):
    """The process dies here. Not one of ours, so that no handler of the core sees it. `written`: whether its last words are."""

    def __init__(self, *, written: bool = False) -> None:
        super().__init__()
        self.written = written


MakeEngine = Callable[..., Engine]


class Process:
    """See the module. `make`: builds the engine; tests plant bugs there. `saw`: is told of all that reaches the process."""

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
        saw: Callable[[str, object], None] = lambda who, what: None,
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
        self.stop_before: CommandKind | None = (
            None  # stands still for `stop_for_s` when it is about to send the next one
        )
        self.stop_for_s = 0.0
        self.machines = 1
        self.clock = VirtualClock(world.timeline, "controller-machine")
        self.saw = saw
        self.own = selfdoubt.WELL
        self.sick_until = 0.0  # world time; until then it may be more patient than one in good health
        self._make = make
        self._judge = judge
        self._seed = seed
        self._log = log
        self._latency = stream(seed, f"{name} latency")
        self._hands = Hands(self, world, judge, self._latency)
        self._inbox: list[Callable[[], None]] = []
        self._tick_at = -1.0
        self._writing = False
        self._misses: dict[str, int] = {}
        self._line_free: dict[str, float] = {}  # host -> until when its connection is stalled by lost frames
        self._publishing = False
        self._told_at: dict[str, float] = {}  # when a remote last told it of an event of a guest
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
            clock=self.clock,
            random=random,
            log=self._log,
        )
        self.world.log(f"{self.name} starts")
        self.devices = Devices(self.engine, self.clock, self._drivers())
        self.call(self.engine.start)
        self._tick()
        self._publish_soon()
        self.world.timeline.after(CHECK_FIRST_S, partial(self._check, self.engine))

    def _drivers(self) -> dict[tuple[str, str], str]:
        hosts = self.policy.hosts.items()
        return {(host, name): "simulated" for host, rules in hosts for level in rules.fencing.levels for name in level}

    def now(self) -> float:
        """Boottime seconds of its machine."""
        return self.clock.now()

    def feel(self, own: selfdoubt.Own, for_s: float) -> None:
        """Something happens to its own machine, by that machine's clock; it may show for so long."""
        self.own = own
        self.sick_until = self.world.now + for_s
        self._tick()

    def move(self) -> None:
        """It is started on another machine, whose clocks are its own; the store comes along (a shared disk)."""
        self.machines += 1
        self.clock = VirtualClock(self.world.timeline, f"controller-machine-{self.machines}", 37.0 - self.world.now)
        self.own = selfdoubt.WELL
        self.crash()

    def reload(self, policy: Policy) -> None:
        """SIGHUP: a new inventory and new rules."""
        self.policy = policy
        if self.engine is not None:
            self.call(lambda: self.engine.set_policy(policy) if self.engine is not None else None)

    def crash(self, restart_after_s: float | None = None) -> None:
        """Killed: so are its workers, and with them every attempt that it began."""
        if self.engine is None:
            return
        if self._writing:
            raise Crash  # in the middle of what it does: `call` ends it
        self.world.log(f"{self.name} crashes")
        self._ends(restart_after_s)

    def stop(self, restart_after_s: float | None = None) -> None:
        """Ended by its service manager (SIGTERM): it hands the lease over, then it ends like a killed one."""
        if self.engine is None or self.paused:
            return
        self.world.log(f"{self.name} is stopped")
        self.engine.release()
        self._ends(restart_after_s)

    def _ends(self, restart_after_s: float | None) -> None:
        self.engine = None
        self._inbox.clear()
        self._told_at.clear()
        self.paused = False
        self._tick_at = -1.0
        self._hands.died()
        self.world.ended(self.name)
        wait = self.restart_after_s if restart_after_s is None else restart_after_s
        self.world.timeline.after(wait, self.start)

    def pause(self) -> None:
        """It stands still; what is sent to it waits."""
        if self.engine is not None:
            self.world.log(f"{self.name} stands still")
            self.paused = True

    @property
    def busy(self) -> bool:
        """Whether it is in the middle of something, perhaps of a write."""
        return self._writing

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

    def stops_before(self, kind: CommandKind) -> bool:
        """Whether its whole machine stops here, between the last look and the sending (a documented limit; see `stop_before`)."""
        if kind is not self.stop_before:
            return False
        self.stop_before = None
        self.pause()
        self.world.timeline.after(self.stop_for_s, self.resume)
        return True

    def call(self, action: Callable[[], None]) -> None:
        """Something happens inside the process."""
        if self.engine is None:
            return
        if self.paused:
            if len(self._inbox) < INBOX_MAX:
                self._inbox.append(action)
            return
        if self._writing:  # it is inside something else: this comes next
            self.world.timeline.after(0.0, lambda: self.call(action))
            return
        self._writing, died = True, False
        try:
            action()
            if self.engine is not None:
                self.engine.flush()
        except Crash:
            died = True
        finally:
            self._writing = False
        if died:
            self.crash()
        else:
            self._pump()

    def order(self, order: Operator) -> str:
        """An operator's order; empty, or why it was refused. In the middle of something else it comes next."""
        if self._writing:
            self.world.timeline.after(0.0, lambda: (self.order(order), None)[1])
            return ""
        if self.engine is None or self.paused:
            return f"{self.name} does not answer"
        self._writing, refusal, died, written = True, "", False, True
        try:
            self.engine.order(order)
        except HaAgentError as error:
            refusal, written = str(error), False
        except Crash as crash:
            died, written, refusal = True, crash.written, f"{self.name} died before it answered"
        finally:
            self._writing = False
        if written:
            self._judge.ordered(order)
        if died:
            self.crash()
        elif written:
            self._pump()
        return refusal

    def _boundary(self, moment: Moment, number: int, writes: Sequence[Put | Delete]) -> None:
        if self._writing and (moment, number) in self.crash_at:
            self.crash_at.discard((moment, number))
            raise Crash(written=moment is Moment.AFTER)
        if moment is Moment.AFTER and any(isinstance(w, Put) and w.kind == OUTBOX for w in writes):
            self._publish_soon()

    def _tick(self) -> None:
        engine = self.engine
        if engine is not None and not self.paused:
            self.call(partial(self._turn, engine))

    def _turn(self, engine: Engine) -> None:
        engine.lookout.feel(self.own)
        engine.tick()

    def _pump(self) -> None:
        engine = self.engine
        if engine is None or self.paused:
            return
        for effect in engine.effects():
            self._hands.carry_out(effect)
        now = self.world.timeline.now
        at = engine.next_at() - self.clock.offset_s  # from the clock of its machine
        if at < self._tick_at or self._tick_at < now:
            self._tick_at = max(at, now + 0.001)
            self.world.timeline.at(self._tick_at, partial(self._due, self._tick_at))

    def _due(self, when: float) -> None:
        if when == self._tick_at:
            self._tick_at = -1.0
            self._tick()

    # --- its fencing devices ---

    def _check(self, engine: Engine) -> None:
        """Now and then, whether anything happens or not."""
        if self.engine is not engine:
            return
        if engine.leading and not self.paused:
            for host, policy in self.policy.hosts.items():
                for level, devices in enumerate(policy.fencing.levels):
                    self._hands.check(host, level, devices)
                if self._hears(host):
                    for device in self.world.hosts[host].devices.values():
                        device.known = device.known or device.fault is DeviceFault.NONE
        self.world.timeline.after(CHECK_EVERY_S, partial(self._check, engine))

    def _hears(self, host: str) -> bool:
        return self.world.hosts[host].speaks and self.world.arrives(host, self.name)

    def checked(self, host: str, level: int, readings: Sequence[Reading]) -> None:
        """A look at the devices of a level is over."""
        self.call(partial(self.devices.result, host, level, readings))

    def expected(self, host: str, device: str) -> str | None:
        """Which machine a device is, as was learned."""
        return self.devices.expected(host, device)

    # --- what reaches it ---

    def pulse(self, host: str) -> None:
        """One heartbeat interval of one host's connection. None is kept to a host that is not in the inventory."""
        engine = self.engine
        if engine is None or host not in self.policy.hosts:
            return
        row = self.world.hosts[host]
        where, reached = not self.world.astray(self.policy, host), self.world.reach(self.name, host)
        if row.speaks and where and self.world.arrives(host, self.name):
            self._misses[host] = 0
            row.heard = True
            self._beat(host)
            self.tell_guests(host)
            return
        self._misses[host] = self._misses.get(host, 0) + 1
        answered = where and reached and row.answers_tcp
        if answered or self._misses[host] % 3 == 0:
            spoke = answered and row.answers
            error = "its certificate has expired" if spoke else "connection refused" if answered else "timed out"
            self._deliver(Disconnected(host=host, at=self.now(), answered=answered, spoke=spoke, error=error))

    def tell_guests(self, host: str) -> None:
        """The host's remote tells whoever leads what happened to its guests, again and again until it was taken."""
        engine, row, now = self.engine, self.world.hosts[host], self.world.now
        if engine is None or not engine.leading or host not in self.policy.hosts or not self._hears(host):
            return
        for report, event in list(row.events.items()):
            if now - self._told_at.get(report, -TELL_AGAIN_S) >= TELL_AGAIN_S:
                self._told_at[report] = now
                self.call(partial(self._guest, engine, host, report, event))

    def _guest(self, engine: Engine, host: str, report: str, event: GuestTrouble) -> None:
        """One that is young is believed, as if Nova had been asked whether the guest still runs there."""
        row = self.world.hosts[host]
        if report not in row.events or engine is not self.engine:
            return
        age_s = self.world.now - event.at if event.boot_id == row.boot_id else None
        seen = GuestSeen(host=host, at=self.now(), server=event.server, report=report, fault=event.fault, age_s=age_s)
        self.saw(self.name, seen)
        if age_s is None or age_s > self.policy.guest_max_age_s:
            engine.observe(seen)
            return
        new_id = engine.random.uuid()
        engine.feed(GuestFault(host=host, server=event.server, fault=event.fault, report=report, new_id=new_id))
        engine.flush()
        if engine.leading and not engine.store_error:  # it is journalled
            self._hands.acknowledge(host, report)

    def _beat(self, host: str) -> None:
        """A frame, or a frame that comes late: what follows it on the same connection comes later still."""
        world, frame = self.world, self._heartbeat(host)
        arrives = max(world.now + world.network.extra_s(self.name, host), self._line_free.get(host, 0.0))
        if arrives <= world.now:
            self._deliver(frame)
            return
        self._line_free[host] = arrives
        engine = self.engine

        def late() -> None:
            # what was lost is sent again by a host that can; where it cannot, it is lost for good
            if self.engine is engine and world.reach(self.name, host) and world.hosts[host].speaks:
                self._deliver(frame)

        world.timeline.at(arrives, late)

    def told(self, observation: AnyObservation) -> None:
        """Something that another monitor saw."""
        self._hands.observe(self.engine, observation)

    def _heartbeat(self, host: str) -> Heartbeat:
        row = self.world.hosts[host]
        row.seq += 1
        compute = self.world.nova.hosts[host].compute
        return Heartbeat(
            host=host,
            at=self.now(),
            boot_id=row.boot_id,
            seq=row.seq,
            started_s=self.world.now - row.started_at,
            nova_compute=Health.UP if compute else Health.DOWN,
            libvirt=Health.UP,
            waiting_gate=self.world.waits_at_gate(host),
        )

    def _deliver(self, frame: Heartbeat | Disconnected) -> None:
        engine = self.engine
        assert engine is not None

        self.call(partial(self._read, engine, frame))

    def _read(self, engine: Engine, frame: Heartbeat | Disconnected) -> None:
        """A frame that waited in a socket is read late: its time is that of the reading."""
        now = self.now()
        current = frame if now == frame.at else msgspec.structs.replace(frame, at=now)
        if isinstance(current, Heartbeat) and current.boot_id != self.world.hosts[current.host].boot_id:
            return
        self.saw(self.name, current)
        if isinstance(current, Heartbeat):
            self._judge.heard(self, current.host)
        engine.observe(current)

    # --- what it tells the world ---

    def _publish_soon(self, delay_s: float = PUBLISH_S) -> None:
        if not self._publishing:
            self._publishing = True
            self.world.timeline.after(delay_s, self._publish)

    def _publish(self) -> None:
        """Oldest first, deleted once the broker has it: at least once, in order. What was sent to a frozen broker arrives when it goes
        on, and is sent again: only this waits for it."""
        self._publishing = False
        engine = self.engine
        if engine is None or self.paused or not engine.leading:
            return
        waiting = self.store.list(OUTBOX, PUBLISH_BATCH)
        if not waiting:
            return
        if self.world.broker == "frozen":  # it has the first one, and confirms nothing
            first = msgspec.json.decode(waiting[0].body, type=Notification)
            self.world.in_broker.append(partial(self._judge.published, first))
            self._publish_soon(PUBLISH_TIMEOUT_S)
            return
        if self.world.broker:
            self._publish_soon(PUBLISH_AGAIN_S)
            return
        for document in waiting:
            note = msgspec.json.decode(document.body, type=Notification)
            if note.event_type not in OF_ORDERS:
                self.saw(self.name, note)
            self._judge.published(note)
        deletes = [Delete(kind=OUTBOX, key=d.key) for d in waiting]
        self.call(lambda: self._forget(deletes))
        self._publish_soon()

    def _forget(self, deletes: Sequence[Delete]) -> None:
        try:
            self.store.commit(None, deletes)
        except StoreError:
            self._publish_soon(PUBLISH_AGAIN_S)
