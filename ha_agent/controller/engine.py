"""The engine: observations in, effects out, the journal in between. Synchronous, without I/O but the store; the daemon and the
simulator run this same code.

One way only: observation -> witness -> event -> decide -> journal -> effect. A command leaves only after the journal that
names it is written under the epoch (S4, S7), and `permit` is asked again immediately before its sending.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ha_agent import guards, witness
from ha_agent.controller import journal
from ha_agent.controller.effects import AnyEffect, AskWitness, Do, ReadBmc, ReadNova
from ha_agent.decide import Decision, decide, next_wake
from ha_agent.errors import Conflict, LeaseLost, StoreError, UsageError
from ha_agent.model import (
    DESTRUCTIVE,
    Answer,
    AnyEvent,
    Beat,
    Command,
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
    Verdict,
    VerdictGiven,
    WitnessesSeen,
)
from ha_agent.notify.objects import build
from ha_agent.notify.outbox import OutboxWriter
from ha_agent.policy import Detection, Policy
from ha_agent.ports import (
    AnyObservation,
    Clock,
    Delete,
    Disconnected,
    ForeignClaim,
    Heartbeat,
    Lease,
    NovaSeen,
    PowerSeen,
    ProbeAnswered,
    Put,
    Random,
    Reported,
    Store,
)

TICK_S = 1.0  # the engine wants to be ticked at least this often; a larger gap is a pause of the process
STORE_RETRY_S = 1.0
SEND_SHARE = 1 / 3  # of the lease: how long the sending of a permitted command may take
MAX_UNWRITTEN = 10_000
SILENT_VERDICTS = frozenset({Verdict.SUSPECT, Verdict.DOWN, Verdict.OFF, Verdict.HUNG, Verdict.UNKNOWN})

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
        self.views: dict[str, witness.View] = {}
        self.leading = False
        self.epoch = 0
        self.lease_until = 0.0
        self.store_error = ""
        self.reached: dict[str, dict[str, float]] = {}
        self.suspicions = 0
        self._log = log
        self._decide = decide
        self._may_send = may_send
        self._on_bug = on_bug
        self._outbox = OutboxWriter(0)
        self.told = 0  # notifications journalled since the start
        self._effects: list[AnyEffect] = []
        self._unwritten: deque[AnyEvent] = deque()
        self._retry_at = 0.0
        self._lease_seen: Lease | None = None
        self._lease_seen_at: float | None = None
        self._lease_at = 0.0
        self._last_tick: float | None = None
        self._looks: list[tuple[float, str]] = []
        self._look_at: dict[str, float] = {}
        self._probes: list[tuple[float, str]] = []
        self._given: dict[str, tuple[Verdict, str]] = {}
        self._open_hosts: set[str] = set()
        self._silent: set[str] = set()
        self._ring: list[str] = []
        self._index: dict[str, int] = {}

    # --- starting, and the passing of time ---

    def start(self) -> None:
        """Load the journal. Raises StoreError."""
        now = self.clock.now()
        self.state = journal.load(self.store, self.policy, now, self.clock.boot_id())
        # A host that is dead by now can be reached by nobody: who may deny it is only in the journal.
        self.reached = {h: dict.fromkeys(r.witnesses, now) for h, r in self.state.hosts.items() if r.witnesses}
        self._after_state()
        self.set_policy(self.policy)

    def set_policy(self, policy: Policy) -> None:
        """A new inventory: known hosts keep their view, new ones get a full window."""
        self.policy = policy
        now = self.clock.now()
        for host in policy.hosts:
            if host not in self.views:
                record = self.state.hosts.get(host)
                seen = record is not None and bool(record.first_seen_wall)
                self.views[host] = witness.fresh(host, now, seen=seen, boot_id=record.boot_id if record else "")
                self._schedule(host)
                heapq.heappush(self._probes, (now + self.random.uniform(0.5, 2.0), host))
        for host in [h for h in self.views if h not in policy.hosts]:
            del self.views[host]
            self._silent.discard(host)
        self._ring = sorted(policy.hosts)
        self._index = {h: i for i, h in enumerate(self._ring)}

    def next_at(self) -> float | None:
        """Boottime seconds at which `tick` has something to do; at most TICK_S ahead."""
        now = self.clock.now()
        times = [(self._last_tick if self._last_tick is not None else now) + TICK_S]
        if self._looks:
            times.append(self._looks[0][0])
        if self._probes:
            times.append(self._probes[0][0])
        if self.leading:
            wake = next_wake(self.state)
            if wake is not None:
                times.append(max(wake, self._retry_at) if self.store_error else wake)
            if self._unwritten:
                times.append(self._retry_at)
        times.append(self._lease_at)
        return min(times)

    def tick(self) -> None:
        """Do what is due. Idempotent."""
        now = self.clock.now()
        gap = 0.0 if self._last_tick is None else now - self._last_tick
        self._last_tick = now
        if gap > TICK_S + self.policy.detection.pause_s:
            self._paused(gap)
        self._lease(now)
        if self.leading and self._unwritten and now >= self._retry_at:
            self._write_again()
        self._look_due(now)
        self._probe_due(now)
        if self.leading:
            wake = next_wake(self.state)
            if wake is not None and wake <= now and (not self.store_error or now >= self._retry_at):
                self._apply(Tick())

    def effects(self) -> list[AnyEffect]:
        """Take what is to be done."""
        taken, self._effects = self._effects, []
        return taken

    # --- being told ---

    def observe(self, obs: AnyObservation) -> None:
        """What a detector saw."""
        view = self.views.get(obs.host)
        if view is None:
            return
        match obs:
            case Heartbeat():
                self._heard(view, obs)
                return
            case Disconnected():
                self.views[obs.host] = witness.disconnected(view, obs)
            case ProbeAnswered():
                if obs.answer is Answer.SIGNED:
                    self.reached.setdefault(obs.host, {})[obs.witness] = obs.at
                    self._note_first_witnesses(obs.host)
                self.views[obs.host] = witness.answered(view, obs)
            case PowerSeen():
                self.views[obs.host] = witness.power_seen(view, obs)
                if self.leading and obs.host in self._open_hosts:
                    self._apply(PowerRead(host=obs.host, readings=obs.readings))
            case NovaSeen():
                self.views[obs.host] = witness.nova_seen(view, obs)
            case Reported():
                self.views[obs.host] = witness.reported(view, obs, self._detection(obs.host))
            case ForeignClaim():
                if self.leading:
                    claim = f"{obs.controller} (store {obs.store_id[:8]})"  # one alarm, however many hosts say so
                    self._apply(Operator(order=Order.FOREIGN, actor="ha-agent", reason=claim))
                return
        if view.suspect_at is not None or isinstance(obs, Reported):
            self._look(obs.host, self.clock.now())

    def feed(self, event: AnyEvent) -> None:
        """An outcome or another event. Operator's orders go through `order`, which answers."""
        if self.leading:
            self._apply(event)

    def order(self, order: Operator) -> None:
        """Raises UsageError where it makes no sense, LeaseLost where this is not the leader, StoreError where it cannot be journalled."""
        if not self.leading:
            raise LeaseLost(f"{self.name} does not lead", "ask the controller that does")
        if self._unwritten:
            raise StoreError(f"the store cannot be written: {self.store_error}")
        self._commit(msgspec.structs.replace(order, new_id=order.new_id or self.random.uuid()))

    def permit(self, command: Command) -> str:
        """The last look, immediately before the sending: empty, or why not (S4, S8)."""
        now = self.clock.now()
        if command.kind in DESTRUCTIVE:
            if not self.leading or command.epoch != self.epoch:
                return "this controller does not lead in the epoch of the command"
            # safety: the sending itself must end before the lease does; drivers send within SEND_SHARE of it
            if now >= self.lease_until - self.policy.lease_s * SEND_SHARE:
                return "the lease is over, or about to be"
            try:
                lease = self.store.read_lease()
            except StoreError as error:
                return f"the lease cannot be read: {error}"
            if lease is None or lease.epoch != self.epoch or lease.owner != self.name or lease.released:
                self._step_down("another epoch has begun")
                return "another epoch has begun"
        return self._may_send(self.state, command, self.policy, now)

    def tell(self, event_type: str, data: dict[str, Any]) -> None:
        """A notification that belongs to no incident. Best effort: lost where the store cannot be written."""
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
        if self.leading:
            try:
                self.store.release_lease(self.name, self.epoch)
            except StoreError as error:
                self._log(f"the lease could not be released: {error}")
            self._step_down("stopping")

    def witnesses(self, host: str) -> int:
        """How many hosts may speak of this one now."""
        view = self.views.get(host)
        return 0 if view is None else len(self._eligible(view, self.clock.now()))

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
        self._given.clear()
        self._store_works()
        self._after_state()
        for host, view in self.views.items():
            record = self.state.hosts.get(host)
            if record is not None and not self.reached.get(host):
                self.reached[host] = dict.fromkeys(record.witnesses, now)
            if record is not None and record.first_seen_wall and not view.seen:
                self.views[host] = msgspec.structs.replace(
                    view, seen=True, boot_id=record.boot_id, verdict=Verdict.ALIVE, window_at=now, suspect_at=None
                )
        self._apply(Resumed(epoch=lease.epoch))

    def _step_down(self, reason: str) -> None:
        if self.leading:
            self._log(f"no longer leading: {reason}")
        self.leading = False
        self.lease_until = 0.0
        self._unwritten.clear()
        self._effects = [e for e in self._effects if not isinstance(e, Do)]
        self._lease_seen = self._lease_seen_at = None

    # --- the journal ---

    def _apply(self, event: AnyEvent) -> None:
        """Decide and journal. What cannot be written is not done; answers wait until they can."""
        if self._unwritten and not isinstance(event, Finished | Resumed):
            return
        if self._unwritten:
            self._keep(event)
            return
        try:
            self._commit(event)
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

    def _commit(self, event: AnyEvent) -> None:
        now = Now(at=self.clock.now(), wall=self.clock.wall())
        decision = self._decide(self.state, event, self.policy, now)
        state = journal.trimmed(decision.state)
        writes: list[Put | Delete] = list(journal.changes(self.state, state))
        writes += [
            self._outbox.put_for(build(t.event_type, self.random.uuid(), now.wall, t.data)) for t in decision.told
        ]
        if writes:
            self.store.commit(self.epoch, writes)
        self.state = state
        self.told += len(decision.told)
        self._after_state()
        for line in decision.lines:
            self._log(line)
        self._effects += [Do(command=c) for c in decision.commands]

    def _keep(self, event: AnyEvent) -> None:
        if isinstance(event, Finished | Resumed) and len(self._unwritten) < MAX_UNWRITTEN:
            self._unwritten.append(event)

    def _write_again(self) -> None:
        self._retry_at = self.clock.now() + STORE_RETRY_S
        waiting, self._unwritten = self._unwritten, deque()
        while waiting:
            event = waiting.popleft()
            try:
                self._commit(event)
            except LeaseLost as error:
                self._step_down(str(error))
                return
            except StoreError as error:
                self._store_failed(error)
                self._unwritten = deque([event, *waiting])
                return
        self._store_works()

    def _store_failed(self, error: StoreError) -> None:
        if str(error) != self.store_error:
            self._log(f"the store failed, nothing destructive is done: {error}")
        self.store_error = str(error)
        self._retry_at = self.clock.now() + STORE_RETRY_S

    def _store_works(self) -> None:
        if self.store_error:
            self._log("the store works again")
        self.store_error = ""

    def _after_state(self) -> None:
        self._open_hosts = {i.host for i in self.state.incidents.values() if i.phase is Phase.OPEN}

    # --- the witness ---

    def _detection(self, host: str) -> Detection:
        policy = self.policy.hosts.get(host)
        return policy.detection if policy else self.policy.detection

    def _heard(self, view: witness.View, beat: Heartbeat) -> None:
        host = beat.host
        first = view.heard_at is None
        if view.suspect_at is not None and view.boot_id == beat.boot_id:
            self.suspicions += 1
        self.views[host] = witness.heard(view, beat)
        self._silent.discard(host)
        if first or view.suspect_at is not None:
            self._schedule(host)
        if not self.leading:
            return
        self._given.pop(host, None)
        record = self.state.hosts.get(host)
        verdict: Verdict | None = None
        reason = "heartbeat"
        if record is None or not record.first_seen_wall or not record.boot_id:
            verdict = Verdict.ALIVE
        elif record.boot_id != beat.boot_id:
            verdict, reason = Verdict.REBOOTED, f"its boot id changed from {record.boot_id[:8]} to {beat.boot_id[:8]}"
        elif record.suspect_since is not None:
            verdict = Verdict.ALIVE
        if verdict is not None:
            self._apply(
                VerdictGiven(
                    host=host,
                    verdict=verdict,
                    reason=reason,
                    boot_id=beat.boot_id,
                    last_seen_at=beat.at,
                    new_id=self.random.uuid(),
                )
            )
        if host in self._open_hosts or beat.waiting_gate:
            self._apply(
                Beat(
                    host=host,
                    boot_id=beat.boot_id,
                    waiting_gate=beat.waiting_gate,
                    nova_compute=beat.nova_compute,
                    new_id=self.random.uuid(),
                )
            )

    def _schedule(self, host: str) -> None:
        """A look at the host when its silence would begin to mean something."""
        at = witness.next_look(self.views[host], self._detection(host), self.clock.now())
        self._look_at[host] = at
        heapq.heappush(self._looks, (at, host))

    def _look_due(self, now: float) -> None:
        while self._looks and self._looks[0][0] <= now:
            at, host = heapq.heappop(self._looks)
            if host in self.views and self._look_at.get(host) == at:
                self._look(host, now)

    def _look(self, host: str, now: float) -> None:
        """One silent host: suspect it, ask, judge."""
        detection = self._detection(host)
        view = self.views[host]
        ctx = witness.Context(now_s=now, detection=detection)
        became = witness.silent(view, ctx)
        if became is not view:
            view = self.views[host] = became
            self._silent.add(host)
            self._effects.append(ReadBmc(host=host))
            self._give(view, view.verdict, view.reason, None)
        if view.suspect_at is not None:
            ctx = witness.Context(now_s=now, detection=detection, doubt=self._doubt(view))
            verdict = witness.judge(view, ctx)
            if verdict is not None:
                rounds = [r for r in (view.round, view.judged) if r is not None and r.complete(now, detection)]
                view = msgspec.structs.replace(view, verdict=verdict[0], reason=verdict[1])
                self.views[host] = view
                self._give(view, verdict[0], verdict[1], rounds[0] if rounds else None)
            if witness.wants_round(view, ctx):
                eligible, mute = self._eligible(view, now), witness.could_not_say(view)
                asked = tuple(w for w in eligible if w not in mute)
                if len(asked) < detection.witnesses_min:
                    asked = eligible
                view = witness.begin_round(view, self.random.nonce(), asked, now)
                assert view.round is not None
                for w in asked:
                    self._effects.append(
                        AskWitness(witness=w, target=host, nonce=view.round.nonce, deadline_s=detection.probe_timeout_s)
                    )
                self._effects.append(ReadNova(host=host))
        self.views[host] = view
        at = witness.next_look(view, detection, now)
        self._look_at[host] = max(at, now + 0.05)
        heapq.heappush(self._looks, (self._look_at[host], host))

    def _give(self, view: witness.View, verdict: Verdict, reason: str, asked: witness.Round | None) -> None:
        """Tell `decide`, once per round and change."""
        nonce = asked.nonce if asked is not None else ""
        signed = asked is not None and Answer.SIGNED in asked.answers.values()
        if not self.leading or self._given.get(view.host) == (verdict, nonce):
            return
        self._given[view.host] = (verdict, nonce)
        together = self._together(view)
        domain = self.policy.hosts[view.host].domain
        self._apply(
            VerdictGiven(
                host=view.host,
                verdict=verdict,
                reason=reason,
                boot_id=view.boot_id,
                last_seen_at=view.heard_at,
                silent=len(together),
                silent_domain=sum(self.policy.hosts[h].domain == domain for h in together),
                signed_at=asked.at if asked is not None and signed else None,
                new_id=self.random.uuid(),
            )
        )

    def _together(self, view: witness.View) -> list[str]:
        """Hosts that fell silent at about the same time, and are not dealt with yet."""
        if view.suspect_at is None:
            return [view.host]
        span = 2 * self.policy.detection.down_after_s
        settled = {i.host for i in self.state.incidents.values() if i.phase is Phase.OPEN and i.settled}
        return [
            h
            for h in sorted(self._silent)
            if h == view.host
            or (
                self.views[h].seen
                and self.views[h].verdict in SILENT_VERDICTS
                and abs((self.views[h].suspect_at or 0.0) - view.suspect_at) <= span
                and h not in settled
                and not self._maintenance(h)
            )
        ]

    def _maintenance(self, host: str) -> bool:
        record = self.state.hosts.get(host)
        return record is not None and bool(record.maintenance)

    def _doubt(self, view: witness.View) -> str:
        known = sum(v.seen for v in self.views.values())
        return witness.doubt(len(self._together(view)), known, self.policy.detection)

    def _eligible(self, view: witness.View, now: float) -> tuple[str, ...]:
        domains = {h: self.policy.hosts[h].domain for h in self.reached.get(view.host, {}) if h in self.policy.hosts}
        domains[view.host] = self.policy.hosts[view.host].domain
        return witness.eligible(
            view, self.views, self.reached.get(view.host, {}), domains, self._detection(view.host), now
        )

    def _probe_due(self, now: float) -> None:
        """Hosts reach each other in quiet times too: only who reached a host before may deny it later."""
        while self._probes and self._probes[0][0] <= now:
            _, host = heapq.heappop(self._probes)
            view = self.views.get(host)
            if view is None:
                continue
            detection = self._detection(host)
            pause = detection.witness_fresh_s / 3
            if view.suspect_at is None and view.heard_at is not None:
                self._note_witnesses(host, now - detection.witness_fresh_s)
                asked = self._volunteers(host, detection.probes)
                for w in asked:
                    self._effects.append(
                        AskWitness(
                            witness=w, target=host, nonce=self.random.nonce(), deadline_s=detection.probe_timeout_s
                        )
                    )
                enough = len(self.reached.get(host, {})) >= min(detection.probes, max(1, len(self._ring) - 1))
                pause = pause if enough else min(pause, 2.0)
            else:
                pause = min(pause, 1.0)
            heapq.heappush(self._probes, (now + pause * self.random.uniform(0.8, 1.0), host))

    def _note_first_witnesses(self, host: str) -> None:
        """The first few are kept at once: a crash right after them must not leave a host of which nobody may speak."""
        record, detection = self.state.hosts.get(host), self._detection(host)
        if record is not None and len(record.witnesses) < detection.witnesses_min:
            self._note_witnesses(host, self.clock.now() - detection.witness_fresh_s)

    def _note_witnesses(self, host: str, since: float) -> None:
        """Kept over restarts: a controller that finds a host dead can no longer see who reached it before."""
        record = self.state.hosts.get(host)
        if not self.leading or record is None:
            return
        names = tuple(sorted(w for w, at in self.reached.get(host, {}).items() if at >= since))
        if names and names != record.witnesses:
            self._apply(WitnessesSeen(host=host, witnesses=names))

    def _volunteers(self, target: str, count: int) -> Sequence[str]:
        """Fresh hosts that follow the target in the ring, other failure domains first."""
        at = self._index[target]
        ring = [self._ring[(at + i) % len(self._ring)] for i in range(1, min(len(self._ring), 8 * count + 1))]
        home = self.policy.hosts[target].domain
        alive = [h for h in ring if self.views[h].suspect_at is None and self.views[h].heard_at is not None]
        alive.sort(key=lambda h: self.policy.hosts[h].domain == home)
        return alive[:count]

    def _paused(self, gap: float) -> None:
        """S8: after a pause of our own every host gets one full window again."""
        now = self.clock.now()
        for host, view in self.views.items():
            if view.suspect_at is None:
                self.views[host] = msgspec.structs.replace(view, window_at=max(view.window_at, now))
            else:
                # a suspicion that began before the pause is judged by a round that begins after it
                self.views[host] = msgspec.structs.replace(
                    view, window_at=now, suspect_at=None, round=None, judged=None, direct_tcp_at=None
                )
                self._silent.discard(host)
            self._schedule(host)
        self._given.clear()
        if self.leading:
            if now >= self.lease_until:
                self._lease_at = now  # looked at before anything else
            self._apply(Paused(gap_s=gap))
