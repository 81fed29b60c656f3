"""A walk through `decide`: a tape of bytes says what happens next, books are kept of it, and every step is judged.

The judgement is told in other words than the guards: it knows the rules, the walk's own books and the stored state only.
"""

from __future__ import annotations

import msgspec

from ha_agent.controller import journal
from ha_agent.decide import Decision, decide, next_wake
from ha_agent.errors import UsageError
from ha_agent.model import (
    DESTRUCTIVE,
    AnyEvent,
    Beat,
    Command,
    CommandKind,
    EvidenceKind,
    Finished,
    GuestFault,
    Health,
    Incident,
    Kind,
    MachineSeen,
    Migration,
    Mode,
    Now,
    Operator,
    Order,
    Outcome,
    Paused,
    Phase,
    Power,
    PowerRead,
    Presence,
    Reading,
    Resumed,
    Server,
    State,
    Status,
    Step,
    Survey,
    Tick,
    Verdict,
    VerdictGiven,
    WitnessesSeen,
)
from ha_agent.notify.objects import build
from ha_agent.policy import Fencing, HostPolicy, Policy, Recovery, Select, Storm
from ha_agent.store.memory import MemoryStore

EVERYTHING = Recovery(select=Select(all=True), settle_after_s=300.0)
POLICY = Policy(
    hosts={
        "c1": HostPolicy(name="c1", fencing=Fencing(levels=(("bmc",), ("plug-a", "plug-b"))), recovery=EVERYTHING),
        "c2": HostPolicy(name="c2", domain="r", recovery=msgspec.structs.replace(EVERYTHING, mode=Mode.NOTIFY)),
        "c3": HostPolicy(name="c3", domain="r", fencing=Fencing(trusted_levels=(0,)), recovery=EVERYTHING),
        "c4": HostPolicy(name="c4", fencing=Fencing(levels=()), recovery=EVERYTHING),
    },
    storm=Storm(max_hosts=3, max_share=1.0),
    guest_mode="auto",
    history_max=30,
)
WITHOUT_C3 = msgspec.structs.replace(POLICY, hosts={h: p for h, p in POLICY.hosts.items() if h != "c3"})
DEATHS = (Verdict.DOWN, Verdict.OFF, Verdict.HUNG)
ON_THE_WAY = ("accepted", "pre-migrating", "migrating")


class Tape:
    """Bytes as choices; at its end the walk ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def ended(self) -> bool:
        return self._at >= len(self._data)

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        self._at += 1
        return (self._data[self._at - 1] if self._at <= len(self._data) else 0) % n


# A report only writes a line.
KINDS_OF_ORDER = tuple(order for order in Order if order is not Order.REPORT)


class Walk:
    """The world around `decide`, as far as it is needed to answer its commands."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.policy = POLICY
        self.store = MemoryStore()
        self.state = State()
        self.now = 1000.0
        self.ids = 0
        self.sent: set[str] = set()
        self.kinds: set[CommandKind] = set()
        self.steps: set[Step] = set()
        self.told: set[str] = set()
        self.verdicts: dict[str, tuple[Verdict, float]] = {}
        self.boots = dict.fromkeys(POLICY.hosts, 1)
        self.records: list[Migration] = []
        self.last: list[str] = []  # what happened, for the one who reads a failure

    # --- what happens ---

    def start(self) -> None:
        """A controller leads, is armed, and has heard every host."""
        self.apply(Resumed(epoch=1))
        self.apply(Operator(order=Order.ARM, actor="me"))
        for host in self.policy.hosts:
            self.verdict(host, Verdict.ALIVE)

    def run(self) -> None:
        """To the end of the tape."""
        self.start()
        while not self.tape.ended:
            self.step()

    def step(self) -> None:
        """One thing happens."""
        choice = self.tape.below(100)
        pending = [c for i in self.state.incidents.values() if i.phase is Phase.OPEN for c in i.pending]
        if choice < 45 and pending:
            self.finish(pending[self.tape.below(len(pending))])
        elif choice < 60:
            wake = next_wake(self.state)
            self.now = max(self.now, wake) if wake is not None else self.now + 1
            self.confirm_verdicts()
            self.apply(Tick())
        elif choice < 66:
            self.now += (0.5, 4.0, 40.0, 400.0)[self.tape.below(4)]
            self.apply(Tick())
        elif choice < 76:
            self.verdict(self.host(), DEATHS[self.tape.below(3)])
        elif choice < 80:
            self.verdict(self.host(), tuple(Verdict)[self.tape.below(len(Verdict))])
        elif choice < 86:
            self.beat(self.host())
        elif choice < 93:
            self.order()
        else:
            self.rarely(choice - 93)

    def host(self) -> str:
        return tuple(POLICY.hosts)[(0, 0, 0, 1, 1, 2, 2, 3)[self.tape.below(8)]]

    def new_id(self) -> str:
        self.ids += 1
        return f"i{self.ids:04d}"

    def boot(self, host: str) -> str:
        return f"{host}-boot-{self.boots[host]}"

    def verdict(self, host: str, verdict: Verdict) -> None:
        if verdict is not Verdict.SUSPECT:  # that is no verdict yet
            self.verdicts[host] = (verdict, self.now)
        signed = self.now - 1 if self.tape.below(8) == 0 else None
        self.apply(
            VerdictGiven(
                host=host,
                verdict=verdict,
                reason="so it is seen",
                boot_id=self.boot(host),
                last_seen_at=self.now - 10,
                silent=1 + (self.tape.below(8) == 0) * 3,
                signed_at=signed,
                new_id=self.new_id(),
            )
        )

    def confirm_verdicts(self) -> None:
        """While an incident is open the witness repeats what it believes."""
        for host, (verdict, _) in list(self.verdicts.items()):
            if verdict in DEATHS and self.tape.below(4):
                self.verdict(host, verdict)

    def beat(self, host: str) -> None:
        self.boots[host] += self.tape.below(3) == 0
        if self.tape.below(2):
            self.verdict(host, Verdict.ALIVE if self.tape.below(2) else Verdict.REBOOTED)
        self.apply(
            Beat(
                host=host,
                boot_id=self.boot(host),
                waiting_gate=bool(self.tape.below(2)),
                nova_compute=tuple(Health)[self.tape.below(3)],
                new_id=self.new_id(),
            )
        )

    def order(self) -> None:
        # mostly orders that let it go on
        choices = (
            Order.ARM,
            Order.ARM,
            Order.UNPAUSE,
            Order.MAINTENANCE_OFF,
            Order.RELEASE,
            Order.FENCE,
            *KINDS_OF_ORDER,
        )
        self.apply(
            Operator(
                order=choices[self.tape.below(len(choices))],
                actor="me",
                host=(self.host(), "nobody")[self.tape.below(8) == 0],
                reason=("", "because")[self.tape.below(2)],
                incident=("", "i0001")[self.tape.below(8) == 0],
                new_id=self.new_id(),
            )
        )

    def rarely(self, which: int) -> None:
        host = self.host()
        match which:
            case 0:
                self.take_over()
            case 1:
                self.apply(Paused(gap_s=5.0))
                self.verdicts.clear()
            case 2:
                self.apply(GuestFault(host=host, server=f"{host}-s1", fault="watchdog", new_id=self.new_id()))
            case 3:
                power = tuple(Power)[self.tape.below(3)]
                self.apply(PowerRead(host=host, readings=(Reading(device="bmc", power=power, at=self.now),)))
            case 4:
                self.apply(MachineSeen(host=host, device="bmc", machine=f"m{self.tape.below(3)}"))
                self.apply(WitnessesSeen(witnesses={host: ("c2", "c4")[: self.tape.below(3)]}))
            case 5:
                self.policy = WITHOUT_C3 if self.tape.below(2) else POLICY
            case _:
                self.apply(Finished(outcome=Outcome(command="nobody asked", status=Status.OK)))

    def take_over(self) -> None:
        """Another controller reads the store; sometimes on another machine, where our times mean nothing."""
        boot = ("boot", "other")[self.tape.below(2)]
        self.state, writes = journal.take_over(self.store, self.policy, self.now, boot)
        self.store.commit(None, [*writes, journal.clock_document("boot")])
        self.verdicts.clear()
        self.apply(Resumed(epoch=self.state.fleet.epoch + 1))

    # --- what comes of a command ---

    def finish(self, command: Command) -> None:
        status = (Status.OK, Status.OK, Status.OK, Status.OK, Status.FAILED, Status.LOST)[self.tape.below(6)]
        if status is Status.OK or command.kind is CommandKind.EVACUATE:
            outcome = self.outcome(command, status)
        else:
            error = ("it went wrong", "not sent: it was forbidden", "")[self.tape.below(3)]
            outcome = Outcome(command=command.id, status=status, error=error)
        self.apply(Finished(outcome=outcome))

    def outcome(self, command: Command, status: Status) -> Outcome:
        host = command.host
        match command.kind:
            case CommandKind.FENCE | CommandKind.READ_POWER | CommandKind.POWER_ON:
                return Outcome(command=command.id, status=status, readings=self.readings(command))
            case CommandKind.SURVEY | CommandKind.LIST_SERVERS | CommandKind.FOLLOW:
                if self.tape.below(10) == 0:
                    return Outcome(command=command.id, status=status)
                self.nova_moves_on()
                hosts = command.hosts or (host,)
                return Outcome(
                    command=command.id,
                    status=status,
                    survey=Survey(servers=self.servers(command, hosts), migrations=tuple(self.records)),
                )
            case CommandKind.CHECK_ABSENT:
                present = (False, False, True, None)[self.tape.below(4)]
                return Outcome(command=command.id, status=status, presence=Presence(present=present))
            case CommandKind.LAST_REBOOT:
                return Outcome(
                    command=command.id, status=status, last_reboot=("", "req-1", "req-2")[self.tape.below(3)]
                )
            case CommandKind.EVACUATE:
                if status is Status.OK or (status is Status.LOST and self.tape.below(2)):
                    self.record(command.subject, "evacuation", host)
                return Outcome(command=command.id, status=status)
            case _:
                return Outcome(command=command.id, status=status)

    def readings(self, command: Command) -> tuple[Reading, ...]:
        levels = POLICY.hosts[command.host].fencing.levels
        devices = levels[command.level] if command.level < len(levels) else ()
        wanted = Power.ON if command.kind is CommandKind.POWER_ON else Power.OFF
        read = []
        for device in devices:
            for back in (0.4, 0.0):
                odd = self.tape.below(12) == 0
                power = tuple(Power)[self.tape.below(3)] if odd else wanted
                read.append(Reading(device=device, power=power, at=self.now - back))
        return tuple(read)

    def record(self, server: str, kind: str, host: str) -> None:
        dest = tuple(h for h in POLICY.hosts if h != host)[self.tape.below(3)]
        number = len(self.records) + 1
        self.records.append(Migration(id=number, server=server, kind=kind, status="accepted", source=host, dest=dest))

    def nova_moves_on(self) -> None:
        for n, record in enumerate(self.records):
            if record.status in ON_THE_WAY and (record.kind == "evacuation" or self.tape.below(4) == 0):
                status = ("done", "done", "done", "failed", "migrating", "error")[self.tape.below(6)]
                self.records[n] = msgspec.structs.replace(record, status=status)
        if self.tape.below(6) == 0:
            self.record("c1-s2", "live-migration", "c1")

    def servers(self, command: Command, hosts: tuple[str, ...]) -> tuple[Server, ...]:
        if command.kind is CommandKind.FOLLOW:
            return ()
        found = []
        for home in POLICY.hosts:
            for n in (1, 2, 3):
                server = f"{home}-s{n}"
                landed = [m.dest for m in self.records if m.server == server and m.status == "done"]
                where = landed[-1] if landed else home
                if where in hosts and self.tape.below(16):
                    status = ("ACTIVE", "ACTIVE", "SHUTOFF", "SHUTOFF", "ERROR", "PAUSED")[self.tape.below(6)]
                    found.append(Server(id=server, name=server, host=where, status=status, local_disk=False))
        return tuple(found)

    # --- the judgement ---

    def apply(self, event: AnyEvent) -> None:
        """`decide` is asked, what it answers is judged, and kept."""
        self.last = [*self.last[-11:], f"{self.now:.1f} {event}"]
        now = Now(at=self.now, wall=self.now)
        before = self.state
        look = len(self.sent) % 16 == 0
        frozen = msgspec.json.encode(before) if look else b""
        try:
            decision = decide(before, event, self.policy, now)
        except UsageError:
            assert isinstance(event, Operator), self.last
            decision = Decision(state=before)
        assert not look or msgspec.json.encode(before) == frozen, "the state was changed in place"
        for told in decision.told:
            build(told.event_type, "id", self.now, told.data)
            self.told.add(told.event_type)
        for command in decision.commands:
            self.judge(command, decision)
        self.judge_state(before, decision.state)
        self.judge_changed(before, decision)
        self.state = journal.trimmed(decision.state)
        self.judge_journal(before)

    def judge_changed(self, before: State, decision: Decision) -> None:
        """What is not named as changed is the very same, so nobody needs to compare it."""
        if decision.changed is None:
            return
        after = decision.state
        hosts = {h for h, record in after.hosts.items() if before.hosts.get(h) is not record}
        incidents = {k for k, incident in after.incidents.items() if before.incidents.get(k) is not incident}
        assert hosts <= decision.changed.hosts <= after.hosts.keys(), self.last
        assert incidents <= decision.changed.incidents <= after.incidents.keys(), self.last
        trimmed = journal.trimmed(after)
        named, compared = (journal.changes(before, trimmed, c) for c in (decision.changed, None))
        assert sorted(named, key=repr) == sorted(compared, key=repr), self.last

    def judge(self, command: Command, decision: Decision) -> None:
        """One command that is to be sent."""
        assert command.id not in self.sent, (command, self.last)
        self.sent.add(command.id)
        self.kinds.add(command.kind)
        incident = decision.state.incidents[command.incident]
        assert command in incident.pending, (command, self.last)
        self.steps.add(command.step)
        fleet = decision.state.fleet
        record = decision.state.hosts.get(command.host)
        if command.kind in DESTRUCTIVE and command.kind is not CommandKind.OPEN_GATE:
            assert fleet.armed, (command, self.last)
            assert not fleet.paused, (command, self.last)
            assert not fleet.foreign, (command, self.last)
            assert command.host in self.policy.hosts, (command, self.last)
            assert record is None or not record.maintenance, (command, self.last)
        if command.kind in (CommandKind.EVACUATE, CommandKind.FORCE_DOWN):
            self.judge_evidence(incident)
        if command.kind is CommandKind.EVACUATE:
            assert not incident.settled, (command, self.last)
            assert incident.committed_at is not None, "committed in the same transaction"
            running = [m for m in self.records if m.server == command.subject and m.status in ON_THE_WAY]
            assert all(m.kind != "evacuation" for m in running) or command.judged, (command, running, self.last)
        if command.kind is CommandKind.FENCE and not incident.ordered_by and incident.committed_at is None:
            verdict, at = self.verdicts[command.host]
            assert verdict in DEATHS, (command, self.last)
            assert self.now - at <= 5, (command, self.last)
        if command.kind is CommandKind.POWER_ON:
            assert incident.settled, (command, self.last)

    def judge_evidence(self, incident: Incident) -> None:
        """S2: two offs of every device of a level, young, from this incident; or a person's word."""
        evidence = incident.evidence
        assert evidence is not None, self.last
        if evidence.kind is EvidenceKind.CONFIRMATION:
            assert evidence.by == "me"
            return
        fencing = self.policy.hosts[incident.host].fencing
        assert evidence.level in fencing.trusted_levels or self.now < evidence.at + 30, self.last
        for device in fencing.levels[evidence.level]:
            mine = [r for r in evidence.readings if r.device == device]
            assert len(mine) >= 2, self.last
            assert all(r.power is Power.OFF and r.at >= incident.opened_at for r in mine), self.last

    def judge_state(self, before: State, after: State) -> None:
        """What holds of every state."""
        opened = [i.host for i in after.incidents.values() if i.phase is Phase.OPEN and i.kind is Kind.HOST]
        assert len(opened) == len(set(opened)), ("two open incidents of one host", self.last)
        for key, incident in after.incidents.items():
            assert key == incident.id
            assert incident.position < len(incident.plan)
            assert len(incident.history) <= self.policy.history_max
            asked = [c.id for c in incident.pending]
            assert len(asked) == len(set(asked))
            if incident.phase is Phase.CLOSED:
                assert not incident.pending
                assert key in after.closed
                known = before.incidents.get(key)
                assert known is None or known.phase is Phase.OPEN or known == incident, ("history changed", self.last)

    def judge_journal(self, before: State) -> None:
        """S7: a controller that takes over now knows all that this one knows."""
        writes = journal.changes(before, self.state)
        if not writes:
            assert lasting(before) == lasting(self.state), ("a change is not written", self.last)
            return
        self.store.commit(None, [*writes, journal.clock_document("boot")])
        loaded = journal.load(self.store, self.policy, self.now, "boot")
        assert lasting(loaded) == lasting(self.state), self.last
        assert set(loaded.closed) == set(self.state.closed)


def lasting(state: State) -> State:
    """Without what is not worth a write of its own."""
    incidents = {k: msgspec.structs.replace(i, **journal.VOLATILE) for k, i in state.incidents.items()}
    return msgspec.structs.replace(state, incidents=incidents, closed=())
