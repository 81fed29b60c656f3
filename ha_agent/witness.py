"""The witness: from what detectors saw to what is believed of a host. Pure; one frozen view per host, so that the silent majority costs nothing.

Silence of `suspect_after_s` makes a suspect: other hosts are asked at once to reach it, its BMC is read, Nova's view is read.
After `down_after_s` the answers of the last round are judged. A host that anybody reaches is not fenced (S5); what cannot be
known is UNKNOWN, which alarms and fences nothing (S9). Rounds go on as long as the host is not heard, so that every verdict
has an exit.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import msgspec

from ha_agent import planes, rhythm
from ha_agent.model import Answer, Health, Power, Reading, Value, Verdict
from ha_agent.planes import MANAGEMENT
from ha_agent.policy import Detection
from ha_agent.ports import Disconnected, Heartbeat, NovaSeen, PowerSeen, ProbeAnswered, Reported
from ha_agent.rhythm import Rhythm

ANSWER_SLACK_S = 0.5  # how much longer than its own time-out a witness's answer may take to arrive
REACHED = frozenset({Answer.SIGNED, Answer.TCP})
REPORT_SLACK_S = 5.0  # beyond two report intervals, after which a sign of life in Nova has aged
READ_AGAIN_S = 15.0  # after which devices that could not be read are read once more
LAST_LOOK_S = 1.0  # before the first verdict Nova is asked once more, or what it heard meanwhile would come too late
LAST_ROUND_SHARE = (
    0.02  # of the full suspicion time: so long the witnesses have for a yes when they are asked at its end
)
LAST_ROUND_MOST_S = 1.0  # beyond it, where the round before takes its time
ROW_AGE_S = 0.5  # of a row when it is told: one listing serves all suspects
LAST_WAIT_S = 0.3  # beyond the verdict's time, for that answer
OURSELVES = "this controller"
DIRECT_FRESH_S = 5.0  # how long our own refused connection says that the kernel answers


class Round(Value, frozen=True, kw_only=True):
    """One round of indirect probes. `asked`: the eligible witnesses; `answers`: by witness. Of a host with several planes: `speakers`, by
    plane, who of `asked` may deny it over that one; `over`, by witness, what came over each plane; `own`, the name of this controller,
    which tries them too: its yes counts, its no does not. `beside`: witnesses that could not say lately; the same holds for them."""

    nonce: str
    at: float
    asked: tuple[str, ...]
    answers: dict[str, Answer] = {}
    speakers: dict[str, tuple[str, ...]] = {}
    over: dict[str, dict[str, Answer]] = {}
    own: str = ""
    beside: tuple[str, ...] = ()

    def everybody(self) -> tuple[str, ...]:
        """All that are asked."""
        return (*self.asked, *self.beside, *([self.own] if self.own else ()))

    def complete(self, now_s: float, detection: Detection) -> bool:
        """Everybody answered, or had time to."""
        late = now_s >= self.at + detection.probe_timeout_s + ANSWER_SLACK_S
        return late or (all(w in self.answers for w in self.asked) and (not self.own or self.own in self.answers))

    def denied(self, plane: str, names: Sequence[str]) -> list[str]:
        """Who of them tried that plane and found nobody."""
        if not self.speakers:
            return sorted(w for w in names if self.answers.get(w) is Answer.SILENT)
        return sorted(w for w in names if self.over.get(w, {}).get(plane) is Answer.SILENT)


class View(Value, frozen=True, kw_only=True):
    """A host as it is seen. `window_at`: silence counts from here (the last heartbeat, or the start of a full window after our own start
    or pause). `seen`: heard at least once, ever. `round`/`judged`: the current and the last complete round of probes.
    `rhythm`: of its heartbeats since this boot. `nova_base`: Nova's `updated_at` as read first after the silence began; `nova_at`: when
    Nova was last readable; `nova_moved_at`: when it was seen to differ from the base; `nova_tried_at`, `row_asked_at`: when it was last tried, and asked; `power_asked_at`: its devices.
    `tcp_at`: when its kernel last answered a witness in this silence. `spoke_at`: when a program there last answered us, though with nothing
    that is trusted. `doubted_at`: until when we doubted ourselves in it. `paused_at`: when our last pause in this silence ended.
    `suspected_at`: when it was first suspected in this silence, whatever became of that in a pause of ours."""

    host: str
    verdict: Verdict
    reason: str = ""
    window_at: float
    heard_at: float | None = None
    seen: bool
    boot_id: str = ""
    nova_compute: Health = Health.UNKNOWN
    libvirt: Health = Health.UNKNOWN
    waiting_gate: bool = False
    rtt_s: float = 0.0
    machine: str = ""
    connected: bool = False
    direct_tcp_at: float | None = None
    suspect_at: float | None = None
    round: Round | None = None
    judged: Round | None = None
    power: tuple[Reading, ...] = ()
    power_asked_at: float | None = None
    nova_base: str | None = None
    nova_base_at: float | None = None
    nova_at: float | None = None
    nova_moved_at: float | None = None
    nova_tried_at: float | None = None
    row_asked_at: float | None = None
    tcp_at: float | None = None
    spoke_at: float | None = None
    doubted_at: float | None = None
    paused_at: float | None = None
    suspected_at: float | None = None
    reported: str = ""
    misses: int = 0
    false_suspicions: int = 0
    rhythm: Rhythm | None = None


class Context(Value, frozen=True, kw_only=True):
    """What is known beside the host itself. `doubt`: why our own network is more likely at fault; empty: it is not. `nova_hears`: whether
    Nova's view of any other host advanced lately: where it hears nobody, its silence about this one says nothing. `planes`: the host's,
    besides the management plane. `elsewhere`: it was heard before, but neither heard nor reached yet where it is said to be now: silence
    there says more of the address than of the host."""

    now_s: float
    detection: Detection
    doubt: str = ""
    nova_hears: bool = True
    planes: tuple[str, ...] = ()
    elsewhere: bool = False


def fresh(host: str, now_s: float, *, seen: bool = False, boot_id: str = "") -> View:
    """A host at our start: it gets one full window before its silence means anything."""
    verdict = Verdict.ALIVE if seen else Verdict.NEVER_SEEN
    return View(host=host, window_at=now_s, seen=seen, boot_id=boot_id, verdict=verdict)


def anew(view: View, now_s: float) -> View:
    """One full window again: what was asked before says nothing of the host any more."""
    return msgspec.structs.replace(
        view,
        window_at=now_s,
        suspect_at=None,
        round=None,
        judged=None,
        direct_tcp_at=None,
        power_asked_at=None,
        paused_at=None,
        suspected_at=None,
    )


def paused(view: View, ran_until_s: float, now_s: float, detection: Detection) -> View:
    """After a pause of our own (S8): one full window again. A further pause in the same silence takes nothing away from it: the silence that
    we watched before still counts, the pause itself does not, and after it we look anew before we believe anything (see `look_s`)."""
    watched_s = (
        0.0 if view.paused_at is None else min(ran_until_s - view.window_at, detection.down_after_s - look_s(detection))
    )
    began_at = max(view.window_at, now_s - max(0.0, watched_s))
    return msgspec.structs.replace(anew(view, began_at), paused_at=now_s, suspected_at=view.suspected_at)


def look_s(detection: Detection) -> float:
    """The least that is watched after a pause of our own, however often we pause: two heartbeats that do not come, and a round of probes."""
    return 2 * detection.heartbeat_interval_s + detection.probe_timeout_s + ANSWER_SLACK_S


def heard(view: View, beat: Heartbeat) -> View:
    """A heartbeat ends every suspicion."""
    false_alarm = view.suspected_at is not None and view.boot_id in ("", beat.boot_id)
    return msgspec.structs.replace(
        view,
        verdict=Verdict.ALIVE,
        reason="",
        window_at=beat.at,
        heard_at=beat.at,
        seen=True,
        boot_id=beat.boot_id,
        nova_compute=beat.nova_compute,
        libvirt=beat.libvirt,
        waiting_gate=beat.waiting_gate,
        rtt_s=beat.rtt_s,
        machine=beat.machine or view.machine,
        connected=True,
        direct_tcp_at=None,
        suspect_at=None,
        round=None,
        judged=None,
        power=(),
        power_asked_at=None,
        nova_base=None,
        nova_base_at=None,
        nova_at=None,
        nova_moved_at=None,
        nova_tried_at=None,
        row_asked_at=None,
        tcp_at=None,
        spoke_at=None,
        doubted_at=None,
        paused_at=None,
        suspected_at=None,
        reported="",
        false_suspicions=view.false_suspicions + (1 if false_alarm else 0),
        rhythm=_rhythm(view, beat),
    )


def _rhythm(view: View, beat: Heartbeat) -> Rhythm | None:
    """A new boot begins a new rhythm; a pause of ours, and what follows a suspicion, are not in it."""
    if view.heard_at is None or view.boot_id != beat.boot_id:
        return None
    end = beat.at if view.suspect_at is None else view.suspect_at
    return rhythm.after(view.rhythm, end - view.window_at)


def suspect_after_s(view: View, detection: Detection) -> float:
    """The silence that makes a suspect of this host, which leaves time for a full round of probes before the verdict."""
    most_s = detection.down_after_s - detection.probe_timeout_s - ANSWER_SLACK_S
    return rhythm.suspect_after_s(view.rhythm, detection, most_s)


def patience_s(view: View, detection: Detection) -> float:
    """The silence that makes a suspect now: not at once after a pause of our own, or what waits in our sockets would come too late."""
    usual = suspect_after_s(view, detection)
    if view.paused_at is None:
        return usual
    return max(usual, view.paused_at + 2 * detection.heartbeat_interval_s - view.window_at)


def disconnected(view: View, seen: Disconnected) -> View:
    """Our own connection ended or was refused: whether the kernel answered is worth as much as a witness's word."""
    return msgspec.structs.replace(
        view,
        connected=False,
        misses=view.misses + 1,
        direct_tcp_at=seen.at if seen.answered else None,
        spoke_at=seen.at if seen.spoke else view.spoke_at,
    )


def answered(view: View, answer: ProbeAnswered) -> View:
    """A witness's word, if it belongs to the current round."""
    current, who = view.round, answer.witness
    if current is None or answer.nonce != current.nonce or who not in current.everybody():
        return view
    word, over = answer.answer, current.over
    if current.speakers:
        said = answer.over or {MANAGEMENT: answer.answer}
        word = planes.word(said, [plane for plane, names in current.speakers.items() if who in names])
        over = {**over, who: said}
    tcp_at = answer.at if word is Answer.TCP else view.tcp_at
    following = msgspec.structs.replace(current, answers={**current.answers, who: word}, over=over)
    return msgspec.structs.replace(view, tcp_at=tcp_at, round=following)


def power_seen(view: View, seen: PowerSeen) -> View:
    """The devices as read during the suspicion: a hint, an off command is sent all the same."""
    return view if view.suspect_at is None else msgspec.structs.replace(view, power=seen.readings)


def nova_seen(view: View, seen: NovaSeen) -> View:
    """Nova's row. The first one read after the silence began is the base: a later change is a sign of life."""
    if view.suspect_at is None:
        return view
    view = msgspec.structs.replace(view, nova_tried_at=seen.at)
    if seen.service is None or not seen.service.updated_at:
        return view
    text = seen.service.updated_at
    if view.nova_base is None:
        return msgspec.structs.replace(view, nova_base=text, nova_base_at=seen.at, nova_at=seen.at)
    if text != view.nova_base:
        return msgspec.structs.replace(
            view, nova_base=text, nova_base_at=seen.at, nova_at=seen.at, nova_moved_at=seen.at
        )
    return msgspec.structs.replace(view, nova_at=seen.at)


def reported(view: View, report: Reported, detection: Detection) -> View:
    """Somebody says that it failed: a suspect, if it was not heard since. Never evidence."""
    if view.suspect_at is not None or view.verdict is Verdict.NEVER_SEEN:
        return view
    window = min(view.window_at, report.at - suspect_after_s(view, detection))
    return msgspec.structs.replace(view, reported=f"{report.source}: {report.text}", window_at=window)


def next_look(view: View, detection: Detection, now_s: float) -> float:
    """When the host is to be looked at again if nothing is heard: boottime seconds."""
    if view.suspect_at is None:
        return view.window_at + patience_s(view, detection)
    current = view.round
    if current is None:
        return view.suspect_at
    end = current.at + detection.probe_timeout_s + ANSWER_SLACK_S
    down = view.window_at + detection.down_after_s
    following = max(current.at + detection.probe_interval_s, end)
    yes = min(max(current.at, down) + last_round_s(detection), down + LAST_ROUND_MOST_S)
    times = (down - LAST_LOOK_S, down, yes, down + LAST_WAIT_S, end, following)
    return min((t for t in times if t > now_s), default=following)


def wants_row(view: View, now_s: float, detection: Detection) -> bool:
    """Whether Nova is to be asked for the host's row once more, shortly before the first verdict."""
    last_look = view.window_at + detection.down_after_s - LAST_LOOK_S
    return view.suspect_at is not None and now_s >= last_look and (view.row_asked_at or 0.0) < last_look


def wants_power(view: View, now_s: float, detection: Detection) -> bool:
    """Whether its devices are to be read: when it becomes a suspect, and again where that failed, for as long as a verdict may take."""
    if view.suspect_at is None or view.power_asked_at is None:
        return view.suspect_at is not None
    unread = not view.power or any(r.power is Power.UNKNOWN for r in view.power)
    lasts_s = max(detection.down_after_s, detection.hung_patience_s)
    return unread and view.power_asked_at + READ_AGAIN_S <= now_s <= view.suspect_at + lasts_s


def _row_awaited(view: View, ctx: Context) -> bool:
    """S5: a host that reports to Nova is not down. Its row may have moved since the round before; an answer that is late is not waited for."""
    down = view.window_at + ctx.detection.down_after_s
    return (view.nova_tried_at or 0.0) < down - LAST_LOOK_S - ROW_AGE_S and ctx.now_s < down + LAST_WAIT_S


def last_round_s(detection: Detection) -> float:
    """How long a yes of the last round before the first verdict is waited for. A denial takes far longer, and is not."""
    return LAST_ROUND_SHARE * detection.down_after_s


def _yes_awaited(view: View, ctx: Context) -> bool:
    """S5: a host that comes back in the moment of its verdict is not down. The witnesses are asked once more, and who reaches it says so at
    once; the round from which it is judged may have begun two seconds before."""
    if view.verdict in (Verdict.DOWN, Verdict.OFF) or view.round is None:
        return False
    down = view.window_at + ctx.detection.down_after_s
    asked = view.round.at >= down
    ended = ctx.now_s >= view.round.at + last_round_s(ctx.detection) or view.round.complete(ctx.now_s, ctx.detection)
    return not (asked and ended) and ctx.now_s < down + LAST_ROUND_MOST_S


def wants_round(view: View, ctx: Context) -> bool:
    """Whether the next round of probes is due: after an interval, and at the end of the full suspicion time. One at a time."""
    if view.suspect_at is None:
        return False
    current = view.round
    if current is None:
        return True
    down = view.window_at + ctx.detection.down_after_s
    due = ctx.now_s >= current.at + ctx.detection.probe_interval_s or current.at < down <= ctx.now_s
    return due and current.complete(ctx.now_s, ctx.detection)


def could_not_say(view: View) -> frozenset[str]:
    """Witnesses that were asked in the last round and denied nothing: their own trouble, others are asked in their place."""
    current = view.round
    if current is None:
        return frozenset()
    asked = (*current.asked, *current.beside)
    return frozenset(w for w in asked if current.answers.get(w, Answer.FAILED) is Answer.FAILED)


def mute_over(view: View, plane: str) -> frozenset[str]:
    """The same for one plane of several."""
    current = view.round
    if current is None:
        return frozenset()
    asked = (*current.speakers.get(plane, ()), *current.beside)
    return frozenset(w for w in asked if current.over.get(w, {}).get(plane) in (None, Answer.FAILED))


def begin_round(view: View, nonce: str, asked: Sequence[str], now_s: float, beside: Sequence[str] = ()) -> View:
    """Ask again. `beside`: who could not say lately, and is asked for a yes alone."""
    following = Round(nonce=nonce, at=now_s, asked=tuple(asked), beside=tuple(w for w in beside if w not in asked))
    return msgspec.structs.replace(view, judged=view.round, round=following)


def begin_round_over(
    view: View,
    nonce: str,
    by_plane: Mapping[str, Sequence[str]],
    own: str,
    now_s: float,
    detection: Detection,
    beside: Sequence[str] = (),
) -> View:
    """Ask again about a host with several planes. `by_plane`: who may speak over each plane that counts, best first."""
    asked = planes.chosen(by_plane, detection.probes, detection.witnesses_min)
    speakers = {plane: tuple(w for w in names if w in asked) for plane, names in by_plane.items()}
    more = tuple(w for w in beside if w not in asked)
    following = Round(nonce=nonce, at=now_s, asked=asked, speakers=speakers, own=own, beside=more)
    return msgspec.structs.replace(view, judged=view.round, round=following)


def silent(view: View, ctx: Context) -> View:
    """Called when the host may have been silent for too long: a suspect, or nothing new."""
    if view.suspect_at is not None or ctx.now_s < view.window_at + patience_s(view, ctx.detection):
        return view
    reason = f"no heartbeat for {ctx.now_s - view.window_at:.1f} s" if not view.reported else view.reported
    verdict = Verdict.SUSPECT if view.seen else Verdict.NEVER_SEEN
    first = ctx.now_s if view.suspected_at is None else view.suspected_at
    return msgspec.structs.replace(view, verdict=verdict, reason=reason, suspect_at=ctx.now_s, suspected_at=first)


def ripe(view: View, now_s: float, detection: Detection) -> Round | None:
    """The round from which the host may be judged: the last complete one, or a later one in which somebody reached it or its kernel, for
    that needs nobody else's word (S5). None while it is too early to say."""
    if view.suspect_at is None or now_s < view.window_at + detection.down_after_s:
        return None
    for each in (view.round, view.judged):
        if each is not None and (each.complete(now_s, detection) or REACHED & set(each.answers.values())):
            return each
    return None


def judge(view: View, ctx: Context) -> tuple[Verdict, str] | None:
    """The verdict after the full suspicion time, from a complete round; None while it is too early to say, where the round is older than
    the end of our doubt in ourselves, or where nothing but Nova's row could still speak for the host and was not looked at again."""
    detection = ctx.detection
    current = ripe(view, ctx.now_s, detection)
    if current is None:
        return None
    silence = f"no heartbeat for {ctx.now_s - view.window_at:.1f} s"
    signed = sorted(w for w, a in current.answers.items() if a is Answer.SIGNED)
    if signed:
        return Verdict.PARTITIONED, f"{silence}, but {_signed(current, signed)}"
    if not view.seen:
        return Verdict.NEVER_SEEN, "it was never heard since it is in the inventory"
    if ctx.elsewhere:  # S5: at an address where it never was, answers and denials are another machine's, or nobody's
        return Verdict.UNKNOWN, f"{silence}, but it was neither heard nor reached at its present address yet"
    if ctx.doubt:
        return Verdict.UNKNOWN, f"{silence}, but {ctx.doubt}"
    if view.doubted_at is not None and current.at <= view.doubted_at:
        return None  # what ended the doubt may have ended the silence too: it is looked anew before anybody is fenced
    tcp = [_called(w, current) for w in sorted(w for w, a in current.answers.items() if a is Answer.TCP)]
    if view.direct_tcp_at is not None and ctx.now_s - view.direct_tcp_at <= DIRECT_FRESH_S + detection.probe_interval_s:
        tcp = [*(name for name in tcp if name != OURSELVES), OURSELVES]
    if tcp:
        return _half_alive(view, ctx, f"{silence}, its kernel answers TCP to {_names(tcp)}")
    if _reports(view, ctx):
        return Verdict.PARTITIONED, f"{silence}, but its nova-compute still reports to Nova"
    deniers: set[str] = set()
    for plane, names in (current.speakers or {"": current.asked}).items():
        denied, over = current.denied(plane, names), f" over {plane}" if plane else ""
        if len(denied) < detection.witnesses_min:
            least = f"{len(denied)} of at least {detection.witnesses_min} witnesses could be asked{over}"
            return Verdict.UNKNOWN, f"{silence}; {least}"
        if len(denied) < len(names):  # all must deny; who could not ask is left out of the next round
            mute = sorted(set(names) - set(denied))
            return Verdict.UNKNOWN, f"{silence}; {_names(mute)} could not say{over}"
        deniers.update(denied)
    if _row_awaited(view, ctx) or _yes_awaited(view, ctx):
        return None
    by = (
        f"{silence}; {_names(sorted(deniers))} cannot reach it either{_lost(current, ctx)}"
        if deniers
        else f"{silence}; no witness is asked for"
    )
    if view.power and all(r.power is Power.OFF for r in view.power):
        return Verdict.OFF, f"{by}; {', '.join(r.device for r in view.power)} reads off"
    if view.tcp_at is not None and not _nova_readable(view, ctx):
        # S9: a remote that stands still for long lets its queue run full, and then its kernel answers nobody any more
        return Verdict.UNKNOWN, f"{by}, but its kernel answered TCP in this silence, and Nova cannot be read"
    return Verdict.DOWN, by


def _signed(current: Round, names: Sequence[str]) -> str:
    """Who got a signed answer, over which planes, and which are lost."""
    over = planes.answering(current.over)
    where = f" over {planes.listed(over)}" if over else ""
    who = _names([_called(w, current) for w in names])
    return f"{who} got a signed answer{where}{planes.lost_text(planes.lost(current.over))}"


def _called(name: str, current: Round) -> str:
    return OURSELVES if name == current.own else name


def _lost(current: Round, ctx: Context) -> str:
    """Of a host that nobody reaches: its planes, where it has several; and those over which nobody reached it before either."""
    if not current.speakers:
        return ""
    idle = [plane for plane in ctx.planes if plane not in current.speakers]
    text = planes.lost_text(tuple(current.speakers))
    return text + (f" (nobody had reached it over {planes.listed(idle)} lately)" if idle else "")


def _nova_readable(view: View, ctx: Context) -> bool:
    """Whether Nova's row of the host was read lately."""
    return view.nova_at is not None and ctx.now_s - view.nova_at <= max(2 * ctx.detection.probe_interval_s, 10.0)


def _reports(view: View, ctx: Context) -> bool:
    """Whether its nova-compute reported after the silence began, and lately: a report ages, or a host that dies after one would never be
    believed dead."""
    moved = view.nova_moved_at
    return moved is not None and ctx.now_s - moved <= reports_last_s(ctx.detection)


def reports_last_s(detection: Detection) -> float:
    """Seconds for which a report to Nova counts."""
    return 2 * detection.nova_report_interval_s + REPORT_SLACK_S


def answers_tcp(view: View, now_s: float) -> bool:
    """Whether its kernel answered in the last round that was judged, or lately to ourselves."""
    answers = view.judged.answers.values() if view.judged is not None else ()
    direct = view.direct_tcp_at
    return Answer.TCP in answers or (direct is not None and now_s - direct <= DIRECT_FRESH_S)


def _half_alive(view: View, ctx: Context, what: str) -> tuple[Verdict, str]:
    """Its kernel answers, its remote does not: only Nova's view can tell a lost agent from a hung host."""
    if _reports(view, ctx):
        return Verdict.AGENT_LOST, f"{what}, and its nova-compute reports to Nova: only its remote is lost"
    if view.spoke_at is not None and ctx.now_s - view.spoke_at <= DIRECT_FRESH_S + ctx.detection.probe_interval_s:
        # S5: a host whose programs speak does not stand still, whatever Nova hears of it
        return Verdict.AGENT_LOST, f"{what}, and a program there answers, but with nothing that is trusted"
    if view.nova_base_at is None or view.nova_at is None:
        return Verdict.UNKNOWN, f"{what}, and Nova cannot be read"
    if not _nova_readable(view, ctx):
        return Verdict.UNKNOWN, f"{what}, and Nova cannot be read any more"
    frozen = view.nova_at - max(view.nova_base_at, view.spoke_at or view.nova_base_at)
    patience = ctx.detection.hung_patience_s
    if frozen >= patience and not ctx.nova_hears:
        return Verdict.UNKNOWN, f"{what}, but Nova hears nothing of other hosts either: its message broker may be down"
    if frozen >= patience:
        return Verdict.HUNG, f"{what}, nothing else moves: Nova heard nothing of it for {frozen:.0f} s"
    return Verdict.UNKNOWN, f"{what}, Nova heard nothing of it for {frozen:.0f} s of {patience:.0f} s"


def eligible(
    target: View,
    views: Mapping[str, View],
    reached: Mapping[str, float],
    domains: Mapping[str, str],
    detection: Detection,
    now_s: float,
    but: Container[str] = (),
) -> tuple[str, ...]:
    """Who may speak of a host: hosts that reached it before, recently as seen from when its silence began, and are fresh themselves;
    at most `probes`, other failure domains first, then by turns. `but`: who cannot say; others come in their place, where that leaves enough."""
    since = lately(target, detection, now_s)
    candidates = [
        w
        for w, at in reached.items()
        if w != target.host and at >= since and w in views and _heard_lately(views[w], detection, now_s)
    ]
    able = [w for w in candidates if w not in but]
    if len(able) >= detection.witnesses_min:
        candidates = able
    home = domains.get(target.host, "")
    by_domain: dict[str, list[str]] = {}
    for w in sorted(candidates):
        by_domain.setdefault(domains.get(w, ""), []).append(w)
    order = sorted(by_domain, key=lambda d: (d == home, d))
    chosen: list[str] = []
    while len(chosen) < detection.probes and any(by_domain[d] for d in order):
        for d in order:
            if by_domain[d] and len(chosen) < detection.probes:
                chosen.append(by_domain[d].pop(0))
    return tuple(chosen)


def lately(target: View, detection: Detection, now_s: float) -> float:
    """Since when a host must have been reached by who may speak of it."""
    return (target.suspected_at if target.suspected_at is not None else now_s) - detection.witness_fresh_s


def _heard_lately(view: View, detection: Detection, now_s: float) -> bool:
    return view.suspect_at is None and view.heard_at is not None and now_s - view.heard_at < detection.suspect_after_s


def _names(names: Sequence[str]) -> str:
    """A few names, and how many more."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
