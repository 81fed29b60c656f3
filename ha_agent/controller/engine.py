"""The engine: observations in, effects out, the journal in between. Synchronous, without I/O but the store; the daemon and the
simulator run this same code.

One way only: observation -> witness -> event -> decide -> journal -> effect. A command leaves only after the journal that
names it is written under the epoch (S4, S7), and `permit` is asked again immediately before its sending. The events of one turn share a
commit; `batch` says why that is safe.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from ha_agent import guards, witness
from ha_agent.controller import guests, journal
from ha_agent.controller.batch import Batch
from ha_agent.controller.effects import AckGuest, AnyEffect, Do
from ha_agent.controller.lookout import Lookout
from ha_agent.decide import Changed, Decision, decide
from ha_agent.errors import Conflict, LeaseLost, StoreError, UsageError
from ha_agent.model import (
    DESTRUCTIVE,
    AnyEvent,
    Command,
    CommandKind,
    Finished,
    Now,
    Operator,
    Order,
    Paused,
    Phase,
    PowerRead,
    Resumed,
    State,
    Tick,
)
from ha_agent.notify.objects import build
from ha_agent.notify.writer import OutboxWriter
from ha_agent.policy import Policy
from ha_agent.ports import (
    AnyObservation,
    Clock,
    Delete,
    ForeignClaim,
    GuestSeen,
    Lease,
    Put,
    Random,
    Reported,
    Store,
)

TICK_S = 1.0  # the engine wants to be ticked at least this often; a larger gap is a pause of the process
STORE_RETRY_S = 1.0
SEND_SHARE = 1 / 3  # of the lease: how long the sending of a permitted command may take
STALE_MAX = 64  # wakes that are not wanted any more and may be kept, beside as many as are
NEEDS_EVIDENCE = (CommandKind.FORCE_DOWN, CommandKind.EVACUATE)
MAX_UNWRITTEN = 10_000

Decide = Callable[[State, AnyEvent, Policy, Now], Decision]
MaySend = Callable[[State, Command, Policy, float], str]


class Engine:
    """See the module. `log` gets one line per change. `decide` and `may_send` are parameters so that tests can plant bugs.
    `on_bug` is told of an exception that should never be; without it the exception is raised."""

    def __init__(
        self,
        *,
        name: str,
        policy: Policy,
        store: Store,
        clock: Clock,
        random: Random,
        log: Callable[[str], None] = lambda line: None,
        decide: Decide = decide,
        may_send: MaySend = guards.may_send,
        on_bug: Callable[[Exception], None] | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.store = store
        self.clock = clock
        self.random = random
        self.state = State()
        self.leading = False
        self.epoch = 0
        self.lease_until = 0.0
        self.store_error = ""
        self._log = log
        self._decide = decide
        self._may_send = may_send
        self._on_bug = on_bug
        self._outbox = OutboxWriter(0)
        self.told = 0  # notifications journalled since the start
        self.guests_lost: dict[str, int] = {}  # by host: events that its remote had to drop
        self._effects: list[AnyEffect] = []
        self._batch: Batch | None = None
        self._unwritten: deque[AnyEvent] = deque()
        self._retry_at = 0.0
        self._lease_seen: Lease | None = None
        self._lease_seen_at: float | None = None
        self._lease_at = 0.0
        self._last_tick: float | None = None
        self._open: dict[str, str] = {}  # incident -> host
        self._open_hosts: dict[str, dict[str, None]] = {}  # host -> its open incidents, oldest first
        self._wakes: list[tuple[float, str]] = []
        self._wake_at: float | None = None  # when `decide` wants a Tick
        self.lookout = Lookout(
            name=name,
            policy=policy,
            clock=clock,
            random=random,
            state=lambda: self.state,
            leading=lambda: self.leading,
            open_hosts=lambda: self._open_hosts,
            tell=self._apply,
            want=self._want,
        )

    # --- starting, and the passing of time ---

    def start(self) -> None:
        """Load the journal. Raises StoreError."""
        now = self.clock.now()
        self.state = journal.load(self.store, self.policy, now, self.clock.boot_id())
        self._after_state()
        self.set_policy(self.policy)
        self.lookout.remember()

    def set_policy(self, policy: Policy) -> None:
        """A new inventory."""
        self.policy = policy
        self.lookout.set_policy(policy)

    @property
    def views(self) -> dict[str, witness.View]:
        """Every host as it is seen."""
        return self.lookout.views

    @property
    def suspicions(self) -> int:
        """How many came to nothing."""
        return self.lookout.suspicions

    def open_of(self, host: str) -> str:
        """The oldest open incident of a host; empty: there is none."""
        return next(iter(self._open_hosts.get(host, ())), "")

    def witnesses(self, host: str) -> int:
        """How many hosts may speak of this one now."""
        return self.lookout.witnesses(host)

    def next_at(self) -> float:
        """Boottime seconds at which `tick` has something to do; at most TICK_S ahead."""
        last = self._last_tick if self._last_tick is not None else self.clock.now()
        at = min(last + TICK_S, self._lease_at, self.lookout.next_at())
        if self.leading:
            wake = self._wake_at
            if wake is not None:
                at = min(at, max(wake, self._retry_at) if self.store_error else wake)
            if self._unwritten:
                at = min(at, self._retry_at)
        return at

    def tick(self) -> None:
        """Do what is due. Idempotent."""
        now = self.clock.now()
        gap = 0.0 if self._last_tick is None else now - self._last_tick
        self._last_tick = now
        if gap > TICK_S + self.policy.detection.pause_s:
            self.lookout.paused()
            if self.leading:
                self._lease_at = now if now >= self.lease_until else self._lease_at  # looked at before anything else
                self._apply(Paused(gap_s=gap))
                self.flush()  # before the lease: whoever has lost it meanwhile says at least why
        self._lease(now)
        if self.leading and self._unwritten and now >= self._retry_at:
            self._write_again()
        self.lookout.tick(now)
        if self.leading:
            wake = self._wake_at
            if wake is not None and wake <= now and (not self.store_error or now >= self._retry_at):
                self._apply(Tick())
        self.flush()

    def effects(self) -> list[AnyEffect]:
        """Take what is to be done; it is journalled."""
        self.flush()
        taken, self._effects = self._effects, []
        return taken

    def _want(self, effect: AnyEffect) -> None:
        (self._effects if self._batch is None else self._batch.effects).append(effect)

    # --- being told ---

    def observe(self, obs: AnyObservation) -> None:
        """What a detector saw."""
        if obs.host not in self.views:
            return
        if isinstance(obs, ForeignClaim):
            if self.leading:
                claim = f"{obs.controller} (store {obs.store_id[:8]})"  # one alarm, however many hosts say so
                self._apply(Operator(order=Order.FOREIGN, actor="ha-agent", reason=claim))
            return
        if isinstance(obs, GuestSeen):
            if self.leading:
                self._guest(obs)
            return
        self.lookout.observe(obs)

    def _guest(self, seen: GuestSeen) -> None:
        """Acknowledged when it is journalled, and only by the leader; until then its remote tells of it again."""
        if seen.lost > self.guests_lost.get(seen.host, 0):
            self._log(f"{seen.host}: its remote has dropped {seen.lost} guest events in all: too many waited")
        self.guests_lost[seen.host] = seen.lost
        fault = guests.fault(seen, self.policy, self.random.uuid())
        ack = AckGuest(host=seen.host, report=seen.report)
        if fault is None:
            self._want(ack)
        else:
            self._apply(fault, ack)

    def feed(self, event: AnyEvent) -> None:
        """An outcome or another event; journalled at the end of the turn. Operator's orders go through `order`, which answers."""
        if self.leading:
            self._apply(event)

    def order(self, order: Operator) -> None:
        """Raises UsageError where it makes no sense, LeaseLost where this is not the leader, StoreError where it cannot be journalled."""
        self.flush()
        if not self.leading:
            raise LeaseLost(f"{self.name} does not lead", "ask the controller that does")
        if self._unwritten:
            raise StoreError(f"the store cannot be written: {self.store_error}")
        view = self.views.get(order.host)
        heard_at = view.heard_at if view is not None else None
        self._decided(msgspec.structs.replace(order, new_id=order.new_id or self.random.uuid(), heard_at=heard_at))
        self._write()
        if order.order is Order.REPORT:
            self.observe(Reported(host=order.host, at=self.clock.now(), source=order.actor, text=order.reason))

    def permit(self, command: Command) -> str:
        """The last look, immediately before the sending: empty, or why not (S4, S8)."""
        self.flush()
        refusal = self.may_send_in(command.epoch) if command.kind in DESTRUCTIVE else ""
        if refusal:
            return refusal
        now = self.clock.now()
        return (
            self._may_send(self.state, command, self.policy, now) or self._heard_since(command) or self._unsaid(command)
        )

    def _unsaid(self, command: Command) -> str:
        """What forbids the command may have been seen, and lost with a write that failed: nothing destructive is done before writes work again."""
        unsaid = command.kind in DESTRUCTIVE and (self._unwritten or self.store_error)
        return f"the store cannot be written: {self.store_error}" if unsaid else ""

    def may_send_in(self, epoch: int) -> str:
        """Whether this controller leads in this epoch for long enough to send something, by the store's own word: empty, or why not."""
        if not self.leading or epoch != self.epoch:
            return "this controller does not lead in the epoch of the command"
        # safety: the sending itself must end before the lease does; drivers send within SEND_SHARE of it
        if self.clock.now() >= self.lease_until - self.policy.lease_s * SEND_SHARE:
            return "the lease is over, or about to be"
        try:
            lease = self.store.read_lease()
        except StoreError as error:
            return f"the lease cannot be read: {error}"
        if lease is None or lease.epoch != self.epoch or lease.owner != self.name or lease.released:
            self._step_down("another epoch has begun")
            return "another epoch has begun"
        return ""

    def _heard_since(self, command: Command) -> str:
        """A heartbeat ends a verdict (S5) and revokes evidence (S2) also where the journal could not be told of it. A fence goes on where
        servers move already or a person wants it."""
        view = self.views.get(command.host)
        if command.kind not in (CommandKind.FENCE, *NEEDS_EVIDENCE) or view is None or view.heard_at is None:
            return ""
        incident = self.state.incidents[command.incident]
        if command.kind is CommandKind.FENCE:
            void = incident.committed_at is None and not incident.ordered_by and view.heard_at >= incident.verdict_at
            return f"{command.host} was heard since the verdict" if void else ""
        evidence = incident.evidence
        if evidence is None:
            return ""  # whether there is any is the guards' question
        proven_at = max((r.at for r in evidence.readings), default=evidence.at)
        return f"{command.host} was heard since it was proven off" if view.heard_at > proven_at else ""

    def tell(self, event_type: str, data: dict[str, Any]) -> None:
        """A notification that belongs to no incident. Best effort: lost where the store cannot be written."""
        self.flush()
        if not self.leading:
            return
        note = build(event_type, self.random.uuid(), self.clock.wall(), data)
        try:
            self.store.commit(self.epoch, [self._outbox.put_for(note)])
            self.told += 1
        except StoreError as error:
            self._store_failed(error)

    def release(self) -> None:
        """Hand the lease over cleanly."""
        self.flush()
        if self.leading:
            try:
                self.store.release_lease(self.name, self.epoch)
            except StoreError as error:
                self._log(f"the lease could not be released: {error}")
            self._step_down("stopping")

    # --- the lease ---

    def _lease(self, now: float) -> None:
        if now < self._lease_at:
            return
        self._lease_at = now + self.policy.lease_s / 3
        try:
            if self.leading:
                self.store.renew_lease(self.name, self.epoch)
                self.lease_until = now + self.policy.lease_s
                self._store_works()
                return
            seen = self.store.read_lease()
            if seen is not None and not seen.released:
                if seen != self._lease_seen:
                    self._lease_seen, self._lease_seen_at = seen, now
                assert self._lease_seen_at is not None
                free_at = self._lease_seen_at + max(seen.lease_s, self.policy.lease_s)
                if now < free_at:
                    self._lease_at = min(self._lease_at, free_at)
                    return
            lease = self.store.take_lease(self.name, self.policy.lease_s, seen)
        except (LeaseLost, Conflict) as error:
            if self.leading:
                self._step_down(str(error))
            return
        except StoreError as error:
            self._store_failed(error)
            if self.leading and now >= self.lease_until:
                self._step_down("the lease could not be renewed")
            return
        self._lead(lease, now)

    def _lead(self, lease: Lease, now: float) -> None:
        """S7: load what the last leader wrote; all of its open intents have lost their answers."""
        try:
            self.state, writes = journal.take_over(self.store, self.policy, now, self.clock.boot_id())
            self.store.commit(lease.epoch, writes)
        except StoreError as error:
            self._store_failed(error)
            return
        self.leading, self.epoch, self.lease_until = True, lease.epoch, now + self.policy.lease_s
        self._outbox = OutboxWriter(lease.epoch)
        self._unwritten.clear()
        self._store_works()
        self._after_state()
        self.lookout.remember()
        self._apply(Resumed(epoch=lease.epoch))

    def _step_down(self, reason: str) -> None:
        if self.leading:
            self._log(f"no longer leading: {reason}")
        self._undo()
        self.leading = False
        self.lease_until = 0.0
        self._unwritten.clear()
        self._effects = [e for e in self._effects if not isinstance(e, Do)]
        self._lease_seen = self._lease_seen_at = None

    # --- the journal ---

    def _apply(self, event: AnyEvent, *effects: AnyEffect) -> None:
        """Decide; it is journalled with the others of this turn, and then the effects leave. What cannot be written is not done; answers wait
        until they can."""
        if self._batch is not None and self._batch.is_full():
            self.flush()
        if not self.leading:
            return
        if self._unwritten:
            self._keep(event)
            return
        try:
            self._decided(event, *effects)
        except LeaseLost as error:
            self._step_down(str(error))
        except StoreError as error:
            self._store_failed(error)
            self._keep(event)
        except UsageError as error:
            self._log(f"ignored: {error}")
        except Exception as error:
            # a bug in one incident must not end the watch over all hosts: nothing was changed, nothing is sent
            if self._on_bug is None:
                raise
            self._on_bug(error)

    def flush(self) -> None:
        """Journal what was decided in this turn. Where that cannot be written, it was not decided."""
        try:
            self._write()
        except LeaseLost as error:
            self._step_down(str(error))
        except StoreError as error:
            self._store_failed(error)
        except Exception as error:
            self._bug(error)

    def _decided(self, event: AnyEvent, *effects: AnyEffect) -> None:
        """Decide, and put it into the batch. Raises what the batch raises that has to be written first; the event changed nothing then."""
        now = Now(at=self.clock.now(), wall=self.clock.wall())
        decision = self._decide(self.state, event, self.policy, now)
        state = journal.trimmed(decision.state)
        writes: list[Put | Delete] = list(journal.changes(self.state, state, decision.changed))
        writes += [
            self._outbox.put_for(build(t.event_type, self.random.uuid(), now.wall, t.data)) for t in decision.told
        ]
        if self._batch is not None and not self._batch.has_room(writes):
            self._write()  # the state stays what this event was decided on
        batch = self._batch = self._batch or Batch(before=self.state)
        batch.add(event, writes)
        batch.told += len(decision.told)
        batch.lines += decision.lines
        batch.effects += [*(Do(command=c) for c in decision.commands), *effects]
        self.state = state
        self._after_state(decision.changed)

    def _write(self) -> None:
        """One commit for the batch."""
        batch = self._batch
        if batch is None:
            return
        try:
            writes = batch.writes
            if writes:
                self.store.commit(self.epoch, writes)
        except BaseException as error:
            self._undo()
            if isinstance(error, Exception):
                for event in batch.events:
                    self._keep(event)
            raise
        self._batch = None
        self.told += batch.told
        self._effects += batch.effects
        for line in batch.lines:
            self._log(line)

    def _undo(self) -> None:
        """What was decided and not written never was."""
        batch, self._batch = self._batch, None
        if batch is not None:
            self.state = batch.before
            self._effects += batch.harmless()
            self._after_state()

    def _keep(self, event: AnyEvent) -> None:
        """What nobody will say again: answers, and that we were away."""
        if isinstance(event, Finished | Resumed | Paused | PowerRead) and len(self._unwritten) < MAX_UNWRITTEN:
            self._unwritten.append(event)

    def _write_again(self) -> None:
        self._retry_at = self.clock.now() + STORE_RETRY_S
        waiting, self._unwritten = self._unwritten, deque()
        try:
            while waiting:
                self._decide_again(waiting[0])
                waiting.popleft()
            self._write()
        except LeaseLost as error:
            self._step_down(str(error))
        except StoreError as error:
            self._store_failed(error)
            self._unwritten += waiting  # behind those of the batch that was not written
        except Exception as error:
            self._unwritten += waiting
            self._bug(error)
        else:
            self._store_works()

    def _decide_again(self, event: AnyEvent) -> None:
        """One that waited. A bug that it meets costs this one, as it would have when it came."""
        try:
            self._decided(event)
        except (LeaseLost, StoreError):
            raise
        except Exception as error:
            self._bug(error)

    def _bug(self, error: Exception) -> None:
        """Raises it where nobody is told."""
        if self._on_bug is None:
            raise error
        self._on_bug(error)

    def _store_failed(self, error: StoreError) -> None:
        if str(error) != self.store_error:
            self._log(f"the store failed, nothing destructive is done: {error}")
        self.store_error = str(error)
        self._retry_at = self.clock.now() + STORE_RETRY_S

    def _store_works(self) -> None:
        if self.store_error:
            self._log("the store works again")
        self.store_error = ""

    def _after_state(self, changed: Changed | None = None) -> None:
        """Which hosts have an open incident, and when the next one wants a Tick. `changed`: what may differ; None: everything."""
        incidents = self.state.incidents
        if changed is None:
            self._open, self._open_hosts, self._wakes = {}, {}, []
        for key in incidents if changed is None else changed.incidents:
            incident = incidents.get(key)  # None: closed among so many others that it is not kept
            before = self._open.pop(key, "")
            if before:
                del self._open_hosts[before][key]
                if not self._open_hosts[before]:
                    del self._open_hosts[before]
            if incident is not None and incident.phase is Phase.OPEN:
                self._open[key] = incident.host
                self._open_hosts.setdefault(incident.host, {})[key] = None
                if incident.wake_at is not None:
                    heapq.heappush(self._wakes, (incident.wake_at, key))
        if len(self._wakes) > STALE_MAX + 2 * len(self._open):
            self._wakes = sorted((at, key) for at, key in set(self._wakes) if self._wants(at, key))
        while self._wakes and not self._wants(*self._wakes[0]):
            heapq.heappop(self._wakes)
        self._wake_at = self._wakes[0][0] if self._wakes else None

    def _wants(self, at: float, key: str) -> bool:
        incident = self.state.incidents.get(key)
        return incident is not None and incident.phase is Phase.OPEN and incident.wake_at == at
