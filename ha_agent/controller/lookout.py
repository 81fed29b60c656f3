"""The lookout: one view per host, the rounds of probes, and the verdicts that `decide` is told. Its judgement is `witness`'s; here is what
has to be remembered and when it is looked at again. No work here grows with the number of hosts that are heard."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import islice

import msgspec

from ha_agent import selfdoubt, witness
from ha_agent.controller.effects import AnyEffect, AskWitness, ReadBmc, ReadNova
from ha_agent.controller.overplanes import OverPlanes
from ha_agent.controller.rows import Rows
from ha_agent.controller.silence import Silence
from ha_agent.controller.spells import Spells
from ha_agent.controller.together import Together
from ha_agent.model import (
    Answer,
    AnyEvent,
    Beat,
    HostRecord,
    Phase,
    Power,
    PowerRead,
    State,
    Verdict,
    VerdictGiven,
    WitnessesSeen,
)
from ha_agent.planes import MANAGEMENT
from ha_agent.policy import Detection, Policy
from ha_agent.ports import (
    AnyObservation,
    Clock,
    Disconnected,
    Heartbeat,
    NovaSeen,
    PowerSeen,
    ProbeAnswered,
    Random,
    Reported,
)

COUNT_EVERY_S = 0.2  # who is silent together is counted anew after this, and whenever a silence begins or ends
FIRST_PROBES_PER_S = 2000.0
NOVA_LATELY_S = 15.0  # so old may be what we know of whether Nova answers
DIAL_MOST_S = (
    0.2  # a dial with its handshake costs milliseconds of CPU, on a busy machine many: thousands take their time
)
DIALS_FREE_S = 20.0  # which the pace of our dials makes sure of anyway
NOTE_AFTER_S = 0.5  # witnesses of many hosts are noted together; of a few at once
NOTE_PER_HOST_S = 0.001
STRAY_S = 5.0  # beyond its time-out, after which an answer to a question that was asked before a reload has come or never will
LOOKS_PER_VOLUNTEER = 8
ROWS_BESIDE = 2  # hosts that are heard, whose rows are read beside that of one which may hang
MUTE_ASKED = 4  # times as many as witnesses: so many of those that could not say are asked again, and not forgotten
SILENT_VERDICTS = frozenset({Verdict.SUSPECT, Verdict.DOWN, Verdict.OFF, Verdict.HUNG, Verdict.UNKNOWN})


class Lookout:
    """See the module. `name`: of this controller. `state`, `leading` and `open_hosts` are the engine's; `tell` takes events for `decide`, `want` takes effects."""

    def __init__(
        self,
        *,
        name: str,
        policy: Policy,
        clock: Clock,
        random: Random,
        state: Callable[[], State],
        leading: Callable[[], bool],
        open_hosts: Callable[[], Container[str]],
        tell: Callable[[AnyEvent], None],
        want: Callable[[AnyEffect], None],
    ) -> None:
        self.name = name
        self.policy = policy
        self.clock = clock
        self.random = random
        self.views: dict[str, witness.View] = {}
        self.reached: dict[str, dict[str, float]] = {}  # over the management plane
        self.over = OverPlanes()
        self.suspicions = 0
        self.spells = Spells()
        self._state = state
        self._leading = leading
        self._open_hosts = open_hosts
        self._tell = tell
        self._want = want
        self._silence = Silence()  # of hosts that are not suspected
        self._looks: list[tuple[float, str]] = []  # at those that are
        self._look_at: dict[str, float] = {}
        self._probes: list[tuple[float, str]] = []
        self._probe_at: dict[str, float] = {}  # of hosts that are heard: nobody is asked to reach another one
        self._to_note: set[str] = set()
        self._note_at = 0.0
        self._remembered: dict[str, float] = {}  # hosts whose witnesses the journal knew, and when that was read
        self._denied: dict[str, set[str]] = {}  # by hosts: who did not reach them since they were last heard
        self._disproved: dict[str, set[str]] = {}  # by hosts: whose denial a heartbeat has disproved
        self._quiet_at: dict[str, float] = {}  # when others were last asked to reach them while they were heard
        self._places: dict[str, str] = {}  # of every host, as the inventory says
        self._elsewhere: set[str] = set()  # heard before, but not where they are now
        self._here_from: dict[
            str, float
        ] = {}  # hosts that moved or left: from when on what comes is from where they are now
        self._given: dict[str, tuple[Verdict, str]] = {}
        self._silent: set[str] = set()
        self._undialled: set[str] = set()
        self.own = selfdoubt.Own()
        self.sickness = 0
        self._factor = 1.0
        self._patient: dict[Detection, Detection] = {}
        self._answers = selfdoubt.Beside()
        self._beside_at: float | None = None
        self._nova_read_at = self._nova_failed_at = -math.inf
        self._seen: set[str] = set()  # heard at least once, ever
        self._counted: Together | None = None
        self._counted_at = 0.0
        self._ran_until: float | None = None
        self._domains: list[list[str]] = []  # the hosts of each failure domain
        self._seats: dict[str, tuple[int, int]] = {}  # by host: which of the domains, and its place there
        self._rows = Rows()

    def remember(self) -> None:
        """What the journal knows of hosts that nobody can reach any more: who may deny them, and that they were heard."""
        now = self.clock.now()
        for host, record in self._state().hosts.items():
            if self._recall(host) and host in self._probe_at:
                self._probe_after(host, self._first_probe_s(host, 0.8, 1.0))
            view = self.views.get(host)
            if view is not None and record.first_seen_wall and not view.seen:
                self.views[host] = msgspec.structs.replace(
                    view,
                    seen=True,
                    boot_id=record.boot_id,
                    verdict=Verdict.ALIVE,
                    window_at=max(now, view.window_at),
                    suspect_at=None,
                )
                self._seen.add(host)
                self._silent.discard(host)
        self._counted = None
        self._given.clear()

    def _recall(self, host: str) -> bool:
        """Takes from the journal who reached the host where it is now, and whether anybody ever did; who reached it at another place may
        not speak of this one (S5). Whether witnesses were learned so."""
        record, view, now = self._noted(host), self.views.get(host), self.clock.now()
        if record is None:
            return False  # the journal does not know it
        if record.place == self._place(host):
            self._elsewhere.discard(host)
        elif record.first_seen_wall and view is not None and view.heard_at is None and not self.reached.get(host):
            self._elsewhere.add(host)
        self.over.remember(host, record.witnesses_over, now)
        if not record.witnesses or self.reached.get(host):
            return False
        self.reached[host] = dict.fromkeys(record.witnesses, now)
        self._remembered[host] = now
        return True

    def _place(self, host: str) -> str:
        policy = self.policy.hosts.get(host)
        return policy.place if policy is not None else ""

    def _noted(self, host: str) -> HostRecord | None:
        """What the journal knows of the host, but for who reached it at another place."""
        record = self._state().hosts.get(host)
        if record is None or record.place == self._place(host):
            return record
        return msgspec.structs.replace(record, witnesses=(), witnesses_over={})

    def _forget(self, host: str) -> None:
        """Who reached it, and what they may still answer: it is somewhere else now, or nowhere."""
        self.reached.pop(host, None)
        self._remembered.pop(host, None)
        self._denied.pop(host, None)
        self._disproved.pop(host, None)
        self._quiet_at.pop(host, None)
        self.over.forget(host)
        self._elsewhere.discard(host)
        self._here_from[host] = self.clock.now() + self._detection(host).probe_timeout_s + STRAY_S

    def _move(self, host: str, dialled_at: float) -> None:
        """Its address has changed: it gets one full window there, and who reached it before has no say."""
        self._forget(host)
        self._silent.discard(host)
        self._given.pop(host, None)
        self._counted = None
        view = self.views[host]
        self.views[host] = witness.anew(view, dialled_at)
        if view.seen:
            self._elsewhere.add(host)
        self._recall(host)
        if host in self._probe_at:
            self._probe_after(host, self._here_from[host] - self.clock.now() + self._first_probe_s(host, 0.5, 2.0))

    def set_policy(self, policy: Policy) -> None:
        """A new inventory: known hosts keep their view, but for those that are somewhere else now; new ones get a full window, from when
        they were dialled for the first time, or at the latest from when all of them must have been."""
        self.policy = policy
        moved = [h for h in policy.hosts if h in self.views and self._places[h] != self._place(h)]
        new = [host for host in policy.hosts if host not in self.views]
        dialled_at = self.clock.now() + max(0.0, (len(new) + len(moved)) * DIAL_MOST_S - DIALS_FREE_S)
        self._undialled.update(new, moved)
        for host in new:
            record = self._state().hosts.get(host)
            seen = record is not None and bool(record.first_seen_wall)
            self.views[host] = witness.fresh(host, dialled_at, seen=seen, boot_id=record.boot_id if record else "")
            if seen:
                self._seen.add(host)
            self._recall(host)
            self._probe_after(host, self._first_probe_s(host, 0.5, 2.0))
        for host in [h for h in self.views if h not in policy.hosts]:
            del self.views[host]
            self._silence.over(host)
            self._look_at.pop(host, None)
            self._rows.forget(host)
            self._forget(host)
            self._probe_at.pop(host, None)
            self._seen.discard(host)
            self._silent.discard(host)
            self._undialled.discard(host)
            self._counted = None
        for host in moved:
            self._move(host, dialled_at)
        self._places = {host: each.place for host, each in policy.hosts.items()}
        for view in sorted(self.views.values(), key=lambda v: v.window_at):
            if view.suspect_at is None:
                self._wait_for(view.host)
        by_domain: dict[str, list[str]] = {}
        for host in sorted(policy.hosts):
            by_domain.setdefault(policy.hosts[host].domain, []).append(host)
        self._domains = [hosts for _, hosts in sorted(by_domain.items())]
        self._seats = {host: (d, seat) for d, hosts in enumerate(self._domains) for seat, host in enumerate(hosts)}

    def next_at(self) -> float:
        """Boottime seconds at which `tick` has something to do."""
        at = self._silence.next_at()
        if self._looks:
            at = min(at, self._looks[0][0])
        if self._to_note:
            at = min(at, self._note_at)
        return min(at, self._probes[0][0]) if self._probes else at

    def tick(self, now: float) -> None:
        """Look at who has been silent for too long, and let hosts reach each other."""
        self._ran_until = now
        self._look_due(now)
        self._probe_due(now)
        self._note_due(now)

    def observe(self, obs: AnyObservation) -> None:
        """What a detector saw of a known host."""
        view = self.views[obs.host]
        match obs:
            case Heartbeat():
                self.heard(view, obs)
                return
            case Disconnected():
                self.views[obs.host] = witness.disconnected(view, obs)
                self._dialled(obs.host)
            case ProbeAnswered():
                if obs.witness != self.name:
                    self._note_reached(obs)
                self.views[obs.host] = witness.answered(view, obs)
            case PowerSeen():
                self.views[obs.host] = witness.power_seen(view, obs)
                if self._leading() and obs.host in self._open_hosts():
                    self._tell(PowerRead(host=obs.host, readings=obs.readings))
            case NovaSeen():
                self._note_row(obs)
                if obs.service is None and not obs.no_such_row:
                    self._nova_failed_at = obs.at
                else:
                    self._nova_read_at = obs.at
                self.views[obs.host] = witness.nova_seen(view, obs)
            case Reported():
                self.views[obs.host] = witness.reported(view, obs, self._detection(obs.host))
        if view.suspect_at is not None or isinstance(obs, Reported):
            self._look_soon(obs.host, self.clock.now())

    def _look_soon(self, host: str, now: float) -> None:
        """At once; but what waited in our sockets while we stood still says nothing before the pause was noticed, in the next turn (S8)."""
        if self._ran_until is None or now - self._ran_until <= self.policy.detection.pause_s:
            self._look(host, now)
            return
        self._look_at[host] = now
        heapq.heappush(self._looks, (now, host))

    def _dialled(self, host: str) -> None:
        """In vain, for the first time: silence counts from now."""
        if host in self._undialled:
            self._undialled.discard(host)
            view, now = self.views[host], self.clock.now()
            if view.suspect_at is None and view.window_at > now:
                self.views[host] = msgspec.structs.replace(view, window_at=now)
                self._wait_for(host)

    def witnesses(self, host: str) -> int:
        """How many hosts may speak of this one now."""
        view = self.views.get(host)
        return 0 if view is None else len(self._eligible(view, self.clock.now()))

    def planes_lost(self, host: str) -> tuple[str, ...]:
        """The planes over which nobody reached the host lately, but for the management plane, over which it is heard or not."""
        planes, view = self.policy.hosts[host].planes, self.views[host]
        if view.heard_at is None:
            return ()
        lately = self.over.since(host, planes, witness.lately(view, self._detection(host), self.clock.now()))
        return tuple(plane for plane in planes if plane not in lately)

    def _detection(self, host: str) -> Detection:
        policy = self.policy.hosts.get(host)
        detection = policy.detection if policy else self.policy.detection
        if self._factor == 1.0:
            return detection
        if detection not in self._patient:
            self._patient[detection] = selfdoubt.patient(detection, self._factor)
        return self._patient[detection]

    def heard(self, view: witness.View, beat: Heartbeat) -> None:
        """A heartbeat. `decide` is told only where the journal does not know what it says."""
        host = beat.host
        if view.suspected_at is not None and view.boot_id == beat.boot_id:
            self.suspicions += 1
        self.views[host] = witness.heard(view, beat)
        self._found(host, beat.at)
        self._disprove(host)
        self._undialled.discard(host)
        self._seen.add(host)
        if view.suspect_at is not None:
            self._silent.discard(host)
            self._counted = None
        self._wait_for(host)
        if host not in self._probe_at:
            self._probe_after(host, self._first_probe_s(host, 0.8, 1.0))
        if not self._leading():
            return
        self._given.pop(host, None)
        record = self._state().hosts.get(host)
        if record is not None and record.place != self._place(host):
            self._note_witnesses(host)
        verdict: Verdict | None = None
        reason = "heartbeat"
        if record is None or not record.first_seen_wall or not record.boot_id:
            verdict = Verdict.ALIVE
        elif record.boot_id != beat.boot_id:
            verdict, reason = Verdict.REBOOTED, f"its boot id changed from {record.boot_id[:8]} to {beat.boot_id[:8]}"
        elif record.suspect_since is not None:
            verdict = Verdict.ALIVE
        if verdict is not None:
            self._tell(
                VerdictGiven(
                    host=host,
                    verdict=verdict,
                    reason=reason,
                    boot_id=beat.boot_id,
                    last_seen_at=beat.at,
                    new_id=self.random.uuid(),
                )
            )
        if host in self._open_hosts() or beat.waiting_gate:
            self._tell(
                Beat(
                    host=host,
                    boot_id=beat.boot_id,
                    waiting_gate=beat.waiting_gate,
                    nova_compute=beat.nova_compute,
                    new_id=self.random.uuid(),
                )
            )

    def _found(self, host: str, at: float) -> bool:
        """It was heard or reached. Whether that was where it is now."""
        if at < self._here_from.get(host, -math.inf):
            return False
        self._elsewhere.discard(host)
        return True

    def _wait_for(self, host: str) -> None:
        """A look at the host when its silence begins to mean something."""
        self._look_at.pop(host, None)
        view = self.views[host]
        patience_s = witness.patience_s(view, self._detection(host))
        late_s = view.window_at - self.clock.now()
        if late_s <= 0.0:
            self._silence.began(host, view.window_at, patience_s)
        else:  # a window that begins later is a longer patience from now on, in steps, for each is a queue of its own
            self._silence.began(host, view.window_at - late_s, patience_s + math.ceil(late_s))

    def _look_due(self, now: float) -> None:
        for host in self._silence.due(now):
            self._look(host, now)
        while self._looks and self._looks[0][0] <= now:
            at, host = heapq.heappop(self._looks)
            if self._look_at.get(host) == at:
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
            self._counted = None
            self._denied.pop(host, None)  # they may well be right
            self._give(view, view.verdict, view.reason, None)
        if view.suspect_at is not None:
            asked_last = witness.ripe(view, now, detection)
            if asked_last is not None:
                ctx = witness.Context(
                    now_s=now,
                    detection=detection,
                    doubt=self._doubt(view),
                    nova_hears=self._nova_hears(host, now),
                    planes=self.policy.hosts[host].planes,
                    elsewhere=host in self._elsewhere,
                )
                if ctx.doubt:
                    view = self.views[host] = msgspec.structs.replace(view, doubted_at=now)
                verdict = witness.judge(view, ctx)
                if verdict is not None:
                    view = msgspec.structs.replace(view, verdict=verdict[0], reason=verdict[1])
                    self.views[host] = view
                    self._give(view, verdict[0], verdict[1], asked_last)
            asks_again = witness.wants_round(view, ctx)
            if witness.wants_power(view, now, detection):
                view = msgspec.structs.replace(view, power_asked_at=now)
                self._want(ReadBmc(host=host))
            if asks_again or witness.wants_row(view, now, detection):
                view = msgspec.structs.replace(view, row_asked_at=now)
                self._want(ReadNova(host=host))
            if asks_again:
                view = self._begin_round(view, now)
                assert view.round is not None
                for w in view.round.everybody():
                    self._want(
                        AskWitness(witness=w, target=host, nonce=view.round.nonce, deadline_s=detection.probe_timeout_s)
                    )
                if witness.answers_tcp(view, now):
                    for other in self._volunteers(host, ROWS_BESIDE):
                        self._want(ReadNova(host=other))
        self.views[host] = view
        if view.suspect_at is None:
            self._wait_for(host)
            return
        self._silence.over(host)
        at = witness.next_look(view, detection, now)
        self._look_at[host] = max(at, now + 0.05)
        heapq.heappush(self._looks, (self._look_at[host], host))

    def _begin_round(self, view: witness.View, now: float) -> witness.View:
        host, detection, nonce = view.host, self._detection(view.host), self.random.nonce()
        mute = witness.could_not_say(view)
        # their yes is heard all the same (S5)
        beside = sorted(w for w in mute if self._is_heard(w))[: MUTE_ASKED * detection.probes]
        if not self.policy.hosts[host].planes:
            return witness.begin_round(view, nonce, self._eligible(view, now, but=mute), now, beside)
        # a plane over which nobody reached it lately does not count; the one of management always does
        counted = self.over.since(host, self.policy.hosts[host].planes, witness.lately(view, detection, now))
        by_plane = {
            plane: self._eligible(view, now, plane, witness.mute_over(view, plane)) for plane in (MANAGEMENT, *counted)
        }
        return witness.begin_round_over(view, nonce, by_plane, self.name, now, detection, beside)

    def _note_row(self, seen: NovaSeen) -> None:
        if seen.service is not None and seen.service.updated_at:
            lasts_s = witness.reports_last_s(self._detection(seen.host))
            self._rows.note(seen.host, seen.service.updated_at, seen.at, lasts_s)

    def _nova_hears(self, host: str, now: float) -> bool:
        """Whether any other host has reported to Nova lately."""
        return self._rows.hears(now - witness.reports_last_s(self._detection(host)), but=host)

    def _give(self, view: witness.View, verdict: Verdict, reason: str, asked: witness.Round | None) -> None:
        """Tell `decide`, once per round and change."""
        nonce = asked.nonce if asked is not None else ""
        signed = asked is not None and Answer.SIGNED in asked.answers.values()
        if not self._leading() or self._given.get(view.host) == (verdict, nonce):
            return
        self._given[view.host] = (verdict, nonce)
        # a suspicion counts nobody: only what follows from it asks how many there are
        silent, in_domain = (1, 1) if verdict is Verdict.SUSPECT else self._together(view)
        self._tell(
            VerdictGiven(
                host=view.host,
                verdict=verdict,
                reason=reason,
                boot_id=view.boot_id,
                last_seen_at=view.heard_at,
                silent=silent,
                silent_domain=in_domain,
                signed_at=asked.at if asked is not None and signed else None,
                new_id=self.random.uuid(),
            )
        )

    def _together(self, view: witness.View) -> tuple[int, int]:
        """How many hosts fell silent at about the same time and are not dealt with yet: everywhere, and in the host's failure domain."""
        assert view.suspect_at is not None
        now = self.clock.now()
        if self._counted is None or now > self._counted_at + COUNT_EVERY_S:
            settled = {i.host for i in self._state().incidents.values() if i.phase is Phase.OPEN and i.settled}
            self._counted = Together(
                (h, self.policy.hosts[h].domain, v.suspect_at)
                for h, v in ((h, self.views[h]) for h in self._silent)
                if v.suspect_at is not None
                and v.seen
                and v.verdict in SILENT_VERDICTS
                and h not in settled
                and not self._maintenance(h)
            )
            self._counted_at = now
        span_s = 2 * self.policy.detection.down_after_s
        return self._counted.with_host(view.host, self.policy.hosts[view.host].domain, view.suspect_at, span_s)

    def _maintenance(self, host: str) -> bool:
        record = self._state().hosts.get(host)
        return record is not None and bool(record.maintenance)

    def _doubt(self, view: witness.View) -> str:
        now, silent = self.clock.now(), self._together(view)[0]
        beside = self._beside(now) if silent >= selfdoubt.SEVERAL else selfdoubt.UNASKED
        return selfdoubt.doubt(silent, len(self._seen), self.policy.detection, self.own, beside, now)

    def feel(self, own: selfdoubt.Own) -> None:
        """What this controller knows of itself now. Its sickness lengthens its patience with everybody."""
        self.own, now = own, self.clock.now()
        self.sickness = selfdoubt.sickness(own, self._beside(now) if self._silent else selfdoubt.UNASKED, now)
        self.spells.felt(self.sickness, now)
        factor = selfdoubt.patience(self.sickness)
        if factor != self._factor:
            self._factor = factor
            self._patient.clear()

    def _beside(self, now: float) -> selfdoubt.Beside:
        """What answers beside the hosts: the devices of those that are silent, and Nova."""
        if self._beside_at is None or now > self._beside_at + COUNT_EVERY_S:
            read = [self.views[h].power for h in self._silent if self.views[h].power]
            mute = sum(all(r.power is Power.UNKNOWN for r in readings) for readings in read)
            lately = now - NOVA_LATELY_S
            nova = None if max(self._nova_read_at, self._nova_failed_at) < lately else self._nova_read_at >= lately
            self._answers = selfdoubt.Beside(bmcs=len(read) - mute, bmcs_mute=mute, nova=nova)
            self._beside_at = now
        return self._answers

    def _eligible(
        self, view: witness.View, now: float, plane: str = MANAGEMENT, but: Container[str] = ()
    ) -> tuple[str, ...]:
        reached = self.reached.get(view.host, {}) if plane == MANAGEMENT else self.over.over(view.host, plane)
        domains = {h: self.policy.hosts[h].domain for h in reached if h in self.policy.hosts}
        domains[view.host] = self.policy.hosts[view.host].domain
        return witness.eligible(view, self.views, reached, domains, self._detection(view.host), now, but)

    def _probe_due(self, now: float) -> None:
        """Hosts reach each other in quiet times too: only who reached a host before may deny it later."""
        while self._probes and self._probes[0][0] <= now:
            at, host = heapq.heappop(self._probes)
            if self._probe_at.get(host) != at:
                continue
            view = self.views[host]
            if view.suspect_at is not None or view.heard_at is None:
                del self._probe_at[host]  # from when it is heard on
                continue
            detection = self._detection(host)
            self._note_witnesses(host)
            self._quiet_at[host] = now
            for w in self._volunteers(host, detection.probes):
                self._want(
                    AskWitness(witness=w, target=host, nonce=self.random.nonce(), deadline_s=detection.probe_timeout_s)
                )
            pause = detection.witness_fresh_s / 3
            enough = len(self.reached.get(host, {})) >= min(detection.probes, max(1, len(self._seats) - 1))
            self._probe_after(host, (pause if enough else min(pause, 2.0)) * self.random.uniform(0.8, 1.0))

    def _first_probe_s(self, host: str, low_s: float, high_s: float) -> float:
        """After which others are asked to reach it, at random, for thousands come back together after a restart of ours. Where the journal
        says who reached it, over each of its planes, that has time."""
        detection = self._detection(host)
        pause_s = detection.witness_fresh_s / 3
        if (
            len(self.reached.get(host, ())) >= max(1, detection.witnesses_min)
            and self.clock.now() - self._remembered.get(host, -math.inf) < pause_s
            and all(self.over.over(host, plane) for plane in self.policy.hosts[host].planes)
        ):
            return self.random.uniform(low_s, pause_s)
        return self.random.uniform(low_s, max(high_s, len(self.policy.hosts) * detection.probes / FIRST_PROBES_PER_S))

    def _probe_after(self, host: str, pause_s: float) -> None:
        at = self.clock.now() + pause_s
        self._probe_at[host] = at
        heapq.heappush(self._probes, (at, host))

    def _note_reached(self, obs: ProbeAnswered) -> None:
        """Who got a signed answer may deny the host later, over the planes over which it came."""
        if obs.over.get(MANAGEMENT, obs.answer) is Answer.SILENT and self._asked_in_quiet(obs):
            self._denied.setdefault(obs.host, set()).add(obs.witness)
        if Answer.SIGNED not in (obs.answer, *obs.over.values()) or not self._found(obs.host, obs.at):
            return
        if obs.over:
            self.over.note(obs.host, obs.witness, obs.over, obs.at)
            record = self._noted(obs.host)
            noted = record.witnesses_over if record is not None else {}
            if any(a is Answer.SIGNED and p != MANAGEMENT and p not in noted for p, a in obs.over.items()):
                self._note_witnesses(obs.host)
        if obs.over.get(MANAGEMENT, obs.answer) is Answer.SIGNED:
            self.reached.setdefault(obs.host, {})[obs.witness] = obs.at
            self._note_first_witnesses(obs.host)

    def _asked_in_quiet(self, obs: ProbeAnswered) -> bool:
        """Whether it answers a question of times in which the host was heard; one from the silence before is answered late."""
        lasts_s = self._detection(obs.host).probe_timeout_s + witness.ANSWER_SLACK_S
        return self._is_heard(obs.host) and obs.at - self._quiet_at.get(obs.host, -math.inf) <= lasts_s

    def _only_remembered(self, host: str, who: str) -> bool:
        """Whether the journal alone says that it reached the host: nobody knows how long ago that was."""
        at = self.reached.get(host, {}).get(who)
        return at is not None and at == self._remembered.get(host)

    def _disprove(self, host: str) -> None:
        """A heartbeat after a denial: who gave it twice, and reached the host before our start alone, may not deny it later (S5). All are asked
        again soon: one lost packet is a denial, too, and a host that stands still for a moment is denied by all, who may be right the next time."""
        once = self._disproved.setdefault(host, set())
        for who in self._denied.pop(host, ()):
            if not self._only_remembered(host, who):
                continue
            if who in once:
                del self.reached[host][who]
            once.add(who)
            if host in self._probe_at:
                self._probe_after(host, 2.0)

    def _note_first_witnesses(self, host: str) -> None:
        """The first few are kept at once: a crash soon after them must not leave a host of which nobody may speak."""
        record = self._noted(host)
        if record is not None and len(record.witnesses) < self._detection(host).witnesses_min:
            self._note_witnesses(host)

    def _note_witnesses(self, host: str) -> None:
        """Kept over restarts: a controller that finds a host dead can no longer see who reached it before. Thousands of hosts are noted with
        a few writes."""
        if self._unnoted(host, self.clock.now()) == (None, None):
            return
        if not self._to_note:
            self._note_at = self.clock.now() + min(NOTE_AFTER_S, NOTE_PER_HOST_S * len(self.policy.hosts))
        self._to_note.add(host)

    def _unnoted(self, host: str, now: float) -> tuple[tuple[str, ...] | None, dict[str, tuple[str, ...]] | None]:
        """Who reached the host lately, and over which plane, where the journal says otherwise; None: it says the same. Where it has the host
        at another place than it was found at, even that nobody did."""
        record, since = self._noted(host), now - self._detection(host).witness_fresh_s
        if record is None:
            return None, None
        moved = record.place != self._place(host) and host not in self._elsewhere
        names = tuple(sorted(w for w, at in self.reached.get(host, {}).items() if at >= since))
        policy = self.policy.hosts.get(host)
        over = self.over.since(host, policy.planes if policy else (), since)
        told = moved or (names and names != record.witnesses)
        return names if told else None, over if over != record.witnesses_over else None

    def _note_due(self, now: float) -> None:
        if not self._to_note or now < self._note_at:
            return
        hosts, self._to_note = sorted(self._to_note), set()
        if not self._leading():
            return
        changed: dict[str, tuple[str, ...]] = {}
        changed_over: dict[str, dict[str, tuple[str, ...]]] = {}
        for host in hosts:
            names, over = self._unnoted(host, now)
            if names is not None:
                changed[host] = names
            if over is not None:
                changed_over[host] = over
        if changed or changed_over:
            self._tell(WitnessesSeen(witnesses=changed, over=changed_over))

    def _volunteers(self, target: str, count: int) -> Sequence[str]:
        """Hosts that are heard: of other failure domains by turns, from the target's seat in its own one on, so that all hosts of domains of
        one size are asked alike; then of its own."""
        alive = (h for h in self._neighbours(target, LOOKS_PER_VOLUNTEER * count) if self._is_heard(h))
        return list(islice(alive, count))

    def _is_heard(self, host: str) -> bool:
        """A host that has left the inventory is not."""
        view = self.views.get(host)
        return view is not None and view.suspect_at is None and view.heard_at is not None

    def _neighbours(self, target: str, most: int) -> Iterator[str]:
        """At most so many of other domains, and as many of its own."""
        home, seat = self._seats[target]
        others = [self._domains[(home + n) % len(self._domains)] for n in range(1, min(len(self._domains), most + 1))]
        longest = max(map(len, others), default=0)
        turns = (hosts[(seat + n) % len(hosts)] for n in range(longest) for hosts in others if n < len(hosts))
        yield from islice(turns, most)
        own = self._domains[home]
        yield from islice((own[(seat + n) % len(own)] for n in range(1, len(own))), most)

    def paused(self) -> None:
        """S8: after a pause of our own every host gets one full window again; after one pause too many, what is left of it. A suspicion
        that began before is judged by a round that begins after it."""
        now = self.clock.now()
        self.spells.paused(now)
        ran_until = now if self._ran_until is None else self._ran_until
        for host, view in self.views.items():
            self.views[host] = witness.paused(view, ran_until, now, self._detection(host))
        for view in sorted(self.views.values(), key=lambda v: v.window_at):
            self._wait_for(view.host)
        self._silent.clear()
        self._counted = None
        self._given.clear()
