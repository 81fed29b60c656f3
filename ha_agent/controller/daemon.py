"""The controller: the engine, its drivers and the loop that turns it. The composition itself is in `compose`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from ha_agent import logs, selfdoubt
from ha_agent.api.facade import DeviceHealth, DeviceLook, EventLine, FencingPlan, HostViewSummary, LeaderInfo
from ha_agent.api.fencing_tests import Asked, FencingTest
from ha_agent.api.measured import Measured
from ha_agent.api.readiness import Readiness
from ha_agent.api.recent import Recent
from ha_agent.api.views import by_host
from ha_agent.controller import fencing_view, readiness
from ha_agent.controller.devices import Devices
from ha_agent.controller.engine import TICK_S, Engine
from ha_agent.controller.executor import Executor
from ha_agent.controller.fencing_tests import FencingTests
from ha_agent.controller.fencing_view import FencingView
from ha_agent.controller.measures import Measures
from ha_agent.controller.nova_calls import survey
from ha_agent.controller.ownhost import LOOKS_EVERY_S, OwnNetwork
from ha_agent.controller.quiet_nova import QuietNova
from ha_agent.controller.summaries import numbers, summaries, summary
from ha_agent.controller.timed_store import TimedStore
from ha_agent.errors import DriverError, StoreError, UsageError
from ha_agent.heartbeat.expiry import Note, Thresholds
from ha_agent.model import Answer, Finished, Incident, Operator, Order, Phase, ServerProgress, State
from ha_agent.notify.deliveries import Deliveries, waits
from ha_agent.planes import listed
from ha_agent.policy import Policy
from ha_agent.ports import (
    AnyObservation,
    Clock,
    Cloud,
    Delivery,
    Fencer,
    ForeignClaim,
    Heartbeat,
    Monitor,
    ProbeAnswered,
    Random,
    Store,
)
from ha_agent.recovery import select

EVENTS_KEPT = 2000
SLOW_LOOP_S = 0.5
LAG_EVERY_S = 0.25
DRAIN_S = 2.0  # how long a stop waits for notifications that are on their way

log = logging.getLogger("ha_agent")

Observe = Callable[[AnyObservation], None]


class Controller:
    """Implements api.facade.Facade. Drivers are given; `run` turns the loop until `stop`."""

    def __init__(
        self,
        *,
        name: str,
        policy: Policy,
        store: Store,
        clock: Clock,
        random: Random,
        cloud: Cloud,
        monitor: Callable[[Observe], Monitor],
        fencer: Callable[[Callable[[str, str], str | None]], Fencer],
        outboxes: Deliveries | None,
        drivers: dict[tuple[str, str], str] | None = None,
        on_line: Callable[[str], None] = lambda line: None,
        own_network: OwnNetwork | None = None,
    ) -> None:
        self.policy = policy
        self._measures = Measures()
        self.store = TimedStore(store, self._measures, clock.now)
        self.clock = clock
        self._cloud = cloud
        self.outboxes = outboxes
        self._on_line = on_line
        self._events: deque[EventLine] = deque(maxlen=EVENTS_KEPT)
        self._seq = 0
        self.engine = Engine(
            name=name, policy=policy, store=self.store, clock=clock, random=random, log=self._line, on_bug=self._bug
        )
        self.devices_health = Devices(self.engine, clock, drivers or {})
        self.monitor = monitor(self.observe)
        self.fencer = fencer(self.devices_health.expected)
        self.executor = Executor(
            permit=self.engine.permit,
            feed=self.feed,
            observe=self.observe,
            policy=policy,
            clock=clock,
            cloud=cloud,
            fencer=self.fencer,
            monitor=self.monitor,
        )
        self.nova = QuietNova(
            services=cloud.services,
            servers=cloud.servers,
            look=self.executor.look,
            policy=lambda: self.policy,
            leads=lambda: self.engine.leading,
            now=clock.now,
            say=self._line,
        )
        self._fencing = FencingView(self.fencer, self.devices_health, clock)
        self._tests = FencingTests(
            self.engine,
            fencer=self.fencer,
            view=self._fencing,
            clock=clock,
            look=lambda host: self.executor.look(lambda: survey(cloud, host)),
            drivers=lambda: self.devices_health.drivers,
            line=self._line,
        )
        self._wake = asyncio.Event()
        self.turning = asyncio.Event()  # set once the loop has turned: everything it needs at the start was there
        self._stopping = False
        self._turned_at = self._felt_at = clock.now()
        self._worst_lag_s = 0.0  # since it was last felt
        self._lag_s = 0.0  # what is remembered of it
        self._own_network = own_network if own_network is not None else OwnNetwork()
        self.turns = 0
        self._told = 0
        self._publishing: asyncio.Task[None] | None = None
        self._claim: tuple[str, int] | None = None
        self._views = Recent(lambda: summaries(self.engine, self._certificate_days()), clock.now)
        self._devices = Recent(self.devices_health.all, clock.now)
        self._tallies = {
            "probes_answered": 0,
            "witness_denials": 0,
            "foreign_claims": 0,
            "outcomes": 0,
            "bugs": 0,
        }

    # --- running ---

    async def run(self) -> None:
        """Turn the loop until `stop`. Raises StoreError when the store cannot be read at the start."""
        self.engine.start()
        await self.monitor.start()
        beside = [asyncio.create_task(each) for each in (self._look_at_itself(), self._measure_lag())]
        try:
            while not self._stopping:
                self._turn()
                wait_s = self._wait_s()
                due = self.clock.now() + wait_s
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
                self._wake.clear()
                self._late(due)
        finally:
            for each in beside:
                each.cancel()
            await self._shut()

    async def _look_at_itself(self) -> None:
        """Its own network, now and then, in a thread."""
        while True:
            await asyncio.to_thread(self._own_network.look, self.clock.now())
            await asyncio.sleep(LOOKS_EVERY_S)

    async def _measure_lag(self) -> None:
        """How late the loop comes to what is due."""
        while True:
            due = self.clock.now() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._measures.loop_lag.add(self._late(due))

    def _late(self, due: float) -> float:
        """How late, in seconds, something comes now that was due then. The worst is kept until it is felt: after it the loop runs well."""
        lag_s = max(0.0, self.clock.now() - due)
        self._worst_lag_s = max(self._worst_lag_s, lag_s)
        return lag_s

    def stop(self) -> None:
        """End `run`, with a clean hand-over: what is under way is journalled, the lease is released."""
        self._stopping = True
        self._wake.set()

    def set_policy(
        self,
        policy: Policy,
        hosts: Mapping[str, object],
        devices: object,
        drivers: dict[tuple[str, str], str],
    ) -> None:
        """A new inventory, while everything runs. Open incidents go on."""
        self.policy = policy
        self._views.forget()
        self._devices.forget()
        self.engine.set_policy(policy)
        self.executor.policy = policy
        self.devices_health.drivers = drivers
        for driver, method, argument in ((self.monitor, "set_hosts", hosts), (self.fencer, "set_topology", devices)):
            change = getattr(driver, method, None)
            if change is not None:
                change(argument)
        self._wake.set()

    def _turn(self) -> None:
        self._feel()
        self.engine.tick()
        self.executor.carry_out(self.engine.effects())
        if self.engine.told != self._told and self.outboxes is not None:
            self.outboxes.wake(self.engine.told - self._told)
        self._told = self.engine.told
        self._measures.stages.follow(self.engine.state)
        self._publish()
        # epoch 0 claims nothing: a standby only wants to hear of foreign stores
        claim = (self.store.store_id, self.engine.epoch if self.engine.leading else 0)
        if claim != self._claim:
            self._claim = claim
            set_claim = getattr(self.monitor, "set_claim", None)
            if set_claim is not None:
                set_claim(*claim)
        self._turned_at = self.clock.now()
        self.turns += 1
        self.turning.set()

    def _feel(self) -> None:
        """How well it is itself: a loop that ran late heard its hosts late."""
        now = self.clock.now()
        self._lag_s = selfdoubt.remembered(self._worst_lag_s, self._lag_s, now - self._felt_at)
        self._felt_at, self._worst_lag_s = now, 0.0
        network = self._own_network
        own = selfdoubt.Own(lag_s=self._lag_s, no_carrier=network.no_carrier, gateway_lost_at=network.gateway_lost_at)
        self.engine.lookout.feel(own)

    def _publish(self) -> None:
        """Only the leader tells anybody."""
        if self.outboxes is None:
            return
        if self.engine.leading and self._publishing is None:
            self._publishing = asyncio.create_task(self.outboxes.run())
        elif not self.engine.leading and self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None

    def _wait_s(self) -> float:
        wait = self.engine.next_at() - self.clock.now()
        return min(max(wait, 0.0), TICK_S / 2)

    async def _shut(self) -> None:
        """No attempt is alive before the lease is given away (S4)."""
        await self._tests.stop()
        await self.executor.stop()
        if self._publishing is not None and self.outboxes is not None:
            await self.outboxes.drained(DRAIN_S)
            self._publishing.cancel()
            await asyncio.gather(self._publishing, return_exceptions=True)
        self.engine.release()
        await self.monitor.stop()
        self.store.close()

    async def check_devices(self, interval_s: float, deadline_s: float) -> None:
        """Look at every fencing device, for ever. A task beside `run`."""
        loop = getattr(self.fencer, "check_loop", None)
        while loop is not None:
            try:
                await loop(interval_s, deadline_s, self.devices_health.result)
            except Exception:
                log.exception("the periodic look at the fencing devices failed; it begins again")
            await asyncio.sleep(DRAIN_S)

    # --- what the drivers bring ---

    def observe(self, obs: AnyObservation) -> None:
        """From the monitor and the executor, on the event loop."""
        if self._stopping:
            return
        match obs:
            case Heartbeat():
                self._measures.beats.take(obs, self.engine.views.get(obs.host), self.policy)
            case ProbeAnswered(answer=answer):
                self._tallies["probes_answered"] += 1
                self._tallies["witness_denials"] += answer is Answer.SILENT
            case ForeignClaim():
                self._tallies["foreign_claims"] += 1
            case _:
                pass
        self.engine.observe(obs)
        self._wake.set()

    def feed(self, finished: Finished) -> None:
        """The outcome of a command."""
        self._tallies["outcomes"] += 1
        self.engine.feed(finished)
        self._wake.set()

    def _bug(self, error: Exception) -> None:
        self._tallies["bugs"] += 1
        log.error("an event was dropped, a bug: %s", error, exc_info=error)

    def _line(self, text: str) -> None:
        self._seq += 1
        word, _, rest = text.partition(" ")
        host = word.rstrip(":") if word.rstrip(":") in self.policy.hosts else ""
        incident = self.engine.open_of(host)
        step = rest[1:].partition("]")[0] if rest.startswith("[") else ""
        if step and (found := self._incident_of(word)):
            host, incident = found.host, found.id
        self._events.append(EventLine(seq=self._seq, wall=self.clock.wall(), text=text, host=host, incident=incident))
        log.info("%s", text, extra=logs.about(host=host, incident=incident, step=step))
        self._on_line(text)

    def _incident_of(self, subject: str) -> Incident | None:
        """Of a host or a server: the open one, else the last; the line that closes it is about it, too."""
        state = self.engine.state
        opened = (i for i in state.incidents.values() if i.phase is Phase.OPEN)
        closed = (state.incidents[key] for key in reversed(state.closed) if key in state.incidents)
        return next((i for i in chain(opened, closed) if i.subject == subject), None)

    # --- the facade ---

    def now(self) -> float:
        """See Facade."""
        return self.clock.now()

    def state(self) -> State:
        """See Facade."""
        self.engine.flush()  # an answer says nothing that is not written
        return self.engine.state

    def views(self) -> Mapping[str, HostViewSummary]:
        """See Facade."""
        return self._views()

    def view(self, host: str) -> HostViewSummary | None:
        """See Facade."""
        return summary(self.engine, host, self._certificate_days().get(host)) if host in self.engine.views else None

    def devices(self) -> Sequence[DeviceHealth]:
        """See Facade."""
        return self._devices()

    def leader(self) -> LeaderInfo:
        """See Facade."""
        engine = self.engine
        if engine.leading:
            until = max(0.0, engine.lease_until - self.clock.now())
            return LeaderInfo(name=engine.name, epoch=engine.epoch, leading=True, until_s=until)
        try:
            lease = self.store.read_lease()
        except StoreError:
            lease = None
        if lease is None or lease.released:
            return LeaderInfo(epoch=lease.epoch if lease else 0)
        return LeaderInfo(name=lease.owner, epoch=lease.epoch)

    def ready(self) -> Sequence[str]:
        """See Facade."""
        engine = self.engine
        reasons = [] if engine.leading else ["this controller does not lead"]
        reasons += self._own_reasons()
        reasons += [f"{h.host}: {h.contradiction}" for h in engine.state.hosts.values() if h.contradiction]
        reasons += [
            f"{d.host}: {d.device}: {d.error}" for d in self.devices() if not d.ok and d.checked_age_s is not None
        ]
        for host, view in self.views().items():
            least = self.policy.hosts[host].detection.witnesses_min if host in self.policy.hosts else 0
            if view.last_seen_age_s is not None and view.witnesses < least:
                reasons.append(f"{host} has {view.witnesses} of at least {least} witnesses")
        reasons += [note.text for note in self._pki_notes() if note.urgent]
        return reasons

    def _own_reasons(self) -> list[str]:
        """Why it would not act in time whatever happens, but for the lease."""
        engine = self.engine
        reasons = []
        if not engine.state.fleet.armed:
            reasons.append("the controller is disarmed; release it with: ha-agent arm")
        if engine.state.fleet.paused:
            reasons.append(f"paused: {engine.state.fleet.paused}")
        if self.nova.error:
            reasons.append(self.nova.error)
        if engine.store_error:
            reasons.append(f"the store failed: {engine.store_error}")
        if trouble := engine.lookout.spells.trouble(self.clock.now()):
            reasons.append(trouble)
        return reasons

    def readiness(self) -> Readiness:
        """See Facade."""
        leader, devices = self.leader(), by_host(self.devices())
        limits = getattr(self.monitor, "expiry", Thresholds())
        return readiness.whole(
            self._own_reasons() + ([] if leader.name else ["no controller leads"]),
            "" if leader.leading else leader.name,
            (
                readiness.judge(
                    self.policy.hosts[host],
                    view,
                    self.engine.state.hosts.get(host),
                    devices=devices.get(host, ()),
                    services=self.nova.services,
                    servers=self.nova.protection(host),
                    limits=limits,
                )
                for host, view in sorted(self.views().items())
                if host in self.policy.hosts
            ),
            self.engine.lookout.spells.notes(self.clock.now()),
        )

    def notes(self) -> Sequence[str]:
        """See Facade."""
        notes = [note.text for note in self._pki_notes() if not note.urgent]
        notes += self.engine.lookout.spells.notes(self.clock.now())
        lost = ((host, view.planes_lost) for host, view in self.views().items() if view.planes_lost)
        notes += [f"no other host reaches {host} over {listed(planes)}" for host, planes in lost]
        return [*notes, *(note for each in self.deliveries() if (note := waits(each)))]

    def _pki_notes(self) -> Sequence[Note]:
        notes = getattr(self.monitor, "notes", None)
        return notes() if notes is not None else ()

    def _certificate_days(self) -> Mapping[str, float]:
        days = getattr(self.monitor, "certificate_days", None)
        return days() if days is not None else {}

    def alive(self) -> bool:
        """See Facade."""
        return self.clock.now() - self._turned_at < 10 * SLOW_LOOP_S

    def counters(self) -> Mapping[str, float]:
        """See Facade."""
        found: dict[str, float] = {**self._tallies, **self._measures.beats.numbers(), **numbers(self.engine)}
        found["loop_turns"] = float(self.turns)
        found["nova_readable"] = float(not self.nova.error)
        found["api_calls"] = float(getattr(self._cloud, "calls", 0))
        found.update(getattr(self.monitor, "pki_days", dict)())
        wire = getattr(self.monitor, "counters", None)
        for name in getattr(wire, "__dataclass_fields__", ()):
            found[f"wire_{name}"] = float(getattr(wire, name))
        return found

    def measures(self) -> Sequence[Measured]:
        """See Facade."""
        return self._measures.all()

    def deliveries(self) -> Sequence[Delivery]:
        """See Facade."""
        return [] if self.outboxes is None else self.outboxes.figures()

    def events(self, after: int, limit: int) -> Sequence[EventLine]:
        """See Facade."""
        return [e for e in self._events if e.seq > after][: max(0, limit)]

    async def order(self, order: Operator) -> str:
        """See Facade."""
        tester = self._tests.running(order.host)
        if tester and order.order in (Order.FENCE, Order.CONFIRM_FENCED):
            raise UsageError(
                f"{tester} tests the fencing of {order.host}: it is being switched off and on; nothing was changed",
                f"wait until it has ended: ha-agent fencing test {order.host} --follow",
            )
        self.engine.order(order)
        self._wake.set()
        said = _said(order)
        incident = next(
            (i for i in self.engine.state.incidents.values() if i.host == order.host and i.phase is Phase.OPEN), None
        )
        if order.order is Order.FENCE and incident is not None and incident.blocked:
            return f"the fence of {order.host} is noted, but blocked: {incident.blocked}; release it with: {incident.release}"
        return said

    async def dry_run(self, host: str) -> Sequence[ServerProgress]:
        """See Facade."""
        policy = self.policy.hosts.get(host)
        if policy is None:
            raise UsageError(f"{host} is not in the inventory", "see: ha-agent status")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(policy.recovery.api_max_s):
                found = await loop.run_in_executor(None, survey, self._cloud, host)
        except TimeoutError:
            raise DriverError("Nova did not answer in time") from None
        return select.plan(found, host, policy.recovery)

    async def look_at_devices(self, host: str) -> Sequence[DeviceLook]:
        """See Facade."""
        found = await self._fencing.look(self.policy, host)
        self._devices.forget()
        return found

    def fencing_plan(self, host: str) -> FencingPlan:
        """See Facade."""
        return fencing_view.plan(self.policy, self.engine.state, self.devices_health.all(), host)

    async def test_fencing(self, host: str, asked: Asked, actor: str) -> FencingTest:
        """See Facade."""
        return await self._tests.begin(host, asked, actor)

    def fencing_test(self, host: str) -> FencingTest:
        """See Facade."""
        return self._tests.last(host)


def _said(order: Operator) -> str:
    """One sentence for whoever ordered."""
    host = order.host
    return {
        Order.ARM: "armed",
        Order.DISARM: "disarmed: nothing destructive is done from now on",
        Order.PAUSE: "paused: nothing destructive is done until unpause",
        Order.UNPAUSE: "no longer paused",
        Order.MAINTENANCE_ON: f"{host} is in maintenance: nothing is done about it",
        Order.MAINTENANCE_OFF: f"{host} is no longer in maintenance",
        Order.FENCE: f"{host} is being fenced; follow it with: ha-agent explain {host}",
        Order.CONFIRM_FENCED: f"{host} counts as off for its open incident",
        Order.RELEASE: f"{host} is released",
        Order.ACK: f"the incident of {host} is acknowledged",
        Order.REPORT: f"{host} is looked at as a suspect; follow it with: ha-agent explain {host}",
        Order.FOREIGN: "disarmed",
    }[order.order]
