"""What is believed of a silent host, for any answers at any time."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ha_agent import selfdoubt, witness
from ha_agent.model import Answer, Power, Reading, Verdict
from ha_agent.plans import FENCING_VERDICTS
from ha_agent.policy import Detection
from ha_agent.ports import Heartbeat

NAMES = ("w0", "w1", "w2", "w3", "w4", "w5")
LAST_HEARD = 1000.0
DEATH = frozenset({Verdict.DOWN, Verdict.OFF})

seconds = st.floats(0, 200, allow_nan=False).map(lambda s: round(s, 2))
detections = st.builds(
    Detection,
    witnesses_min=st.integers(0, 3),
    down_after_s=st.sampled_from([10.0, 30.0]),
    probes=st.integers(1, 5),
    doubt_min=st.integers(1, 4),
    doubt_share=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
readings = st.lists(
    st.builds(Reading, device=st.sampled_from(["a", "b"]), power=st.sampled_from(Power), at=seconds), max_size=3
).map(tuple)
moments = st.none() | seconds.map(lambda s: LAST_HEARD + s)


@st.composite
def rounds(draw: st.DrawFn) -> witness.Round:
    asked = draw(st.lists(st.sampled_from(NAMES), unique=True))
    answers = {w: draw(st.sampled_from(Answer)) for w in asked if draw(st.booleans())}
    return witness.Round(nonce="n", at=LAST_HEARD + draw(seconds), asked=tuple(asked), answers=answers)


@st.composite
def suspects(draw: st.DrawFn, *, seen: bool = True) -> witness.View:
    return witness.View(
        host="c1",
        verdict=Verdict.SUSPECT,
        window_at=LAST_HEARD,
        suspect_at=LAST_HEARD + 4,
        seen=seen,
        round=draw(st.none() | rounds()),
        judged=draw(st.none() | rounds()),
        direct_tcp_at=draw(moments),
        power=draw(readings),
        nova_base_at=draw(moments),
        nova_at=draw(moments),
        nova_moved_at=draw(moments),
    )


@st.composite
def contexts(draw: st.DrawFn) -> witness.Context:
    return witness.Context(
        now_s=LAST_HEARD + draw(seconds), detection=draw(detections), doubt=draw(st.sampled_from(["", "", "in doubt"]))
    )


def verdict(view: witness.View, ctx: witness.Context) -> Verdict | None:
    judged = witness.judge(view, ctx)
    return None if judged is None else judged[0]


def judged_round(view: witness.View, ctx: witness.Context) -> witness.Round | None:
    """The newest round whose answers count: all of them are there, or one that needs nobody else's word."""
    for each in (view.round, view.judged):
        reached = each is not None and {Answer.SIGNED, Answer.TCP} & set(each.answers.values())
        if each is not None and (reached or each.complete(ctx.now_s, ctx.detection)):
            return each
    return None


@given(suspects(), contexts())
def test_death_is_believed_only_of_a_silence_that_everybody_denies(view: witness.View, ctx: witness.Context) -> None:
    current = judged_round(view, ctx)
    said = verdict(view, ctx)
    if current is None or ctx.now_s - view.window_at < ctx.detection.down_after_s:
        assert said is None
        return
    answers = list(current.answers.values())
    if Answer.SIGNED in answers or ctx.doubt:
        assert said not in FENCING_VERDICTS
    if said in DEATH:
        assert answers.count(Answer.SILENT) == len(current.asked) >= ctx.detection.witnesses_min
        moved_at = view.nova_moved_at
        assert moved_at is None or ctx.now_s - moved_at > witness.reports_last_s(ctx.detection), "a report ages"
    if said is Verdict.OFF:
        assert view.power
        assert {r.power for r in view.power} == {Power.OFF}


@given(suspects(seen=False), contexts())
def test_a_host_that_was_never_heard_is_never_to_be_fenced(view: witness.View, ctx: witness.Context) -> None:
    assert verdict(view, ctx) not in FENCING_VERDICTS


@given(suspects(), contexts(), st.sampled_from([Answer.SILENT, Answer.FAILED]))
def test_one_more_sign_of_life_never_makes_it_dead(view: witness.View, ctx: witness.Context, was: Answer) -> None:
    """Each answer that is less than a denial, changed into a signed one; and Nova's, and a heartbeat's word."""
    for name in ("round", "judged"):
        current: witness.Round | None = getattr(view, name)
        for who in current.asked if current else ():
            assert current is not None
            if current.answers.get(who) is was and current is judged_round(view, ctx):
                alive = msgspec.structs.replace(current, answers={**current.answers, who: Answer.SIGNED})
                assert verdict(msgspec.structs.replace(view, **{name: alive}), ctx) not in FENCING_VERDICTS
    moved = msgspec.structs.replace(view, nova_moved_at=ctx.now_s)
    assert verdict(moved, ctx) not in FENCING_VERDICTS
    beat = witness.heard(view, Heartbeat(host="c1", at=ctx.now_s, boot_id="b"))
    assert verdict(beat, ctx) is None


@given(suspects(), contexts())
def test_one_more_denial_never_ends_a_death(view: witness.View, ctx: witness.Context) -> None:
    current = judged_round(view, ctx)
    if verdict(view, ctx) not in DEATH or current is None:
        return
    more = msgspec.structs.replace(
        current, asked=(*current.asked, "w9"), answers={**current.answers, "w9": Answer.SILENT}
    )
    assert verdict(msgspec.structs.replace(view, round=more, judged=None), ctx) in DEATH


@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)), contexts(), st.data())
def test_who_may_speak(up: set[str], suspect: set[str], ctx: witness.Context, data: st.DataObject) -> None:
    now = ctx.now_s
    views = {n: witness.heard(witness.fresh(n, 0.0), Heartbeat(host=n, at=now, boot_id="b")) for n in up}
    views |= {n: msgspec.structs.replace(views[n], suspect_at=now) for n in up & suspect}
    reached = {n: now - data.draw(seconds) * 3 for n in (*NAMES, "c1")}
    domains = {n: data.draw(st.sampled_from(["", "r1", "r2"])) for n in (*NAMES, "c1")}
    target = witness.View(host="c1", verdict=Verdict.SUSPECT, window_at=now - 4, suspect_at=now, seen=True)
    chosen = witness.eligible(target, views, reached, domains, ctx.detection, now)
    may = {n for n in up - suspect if now - reached[n] <= ctx.detection.witness_fresh_s}
    assert set(chosen) <= may
    assert len(chosen) == min(len(may), ctx.detection.probes)
    assert len(set(chosen)) == len(chosen)
    if any(domains[n] != domains["c1"] for n in may):
        assert domains[chosen[0]] != domains["c1"], "another failure domain is asked first"
    assert chosen == witness.eligible(target, views, dict(reversed(reached.items())), domains, ctx.detection, now)


@given(st.integers(0, 50), st.integers(0, 50), detections)
def test_doubt_only_grows_with_the_silence(silent: int, known: int, detection: Detection) -> None:
    if selfdoubt.doubt(silent, known, detection):
        assert selfdoubt.doubt(silent + 1, known, detection)
    if known >= 2:
        assert selfdoubt.doubt(known, known, detection)
    if silent < min(known, detection.doubt_min):
        assert not selfdoubt.doubt(silent, known, detection), "one host of many casts no doubt"
