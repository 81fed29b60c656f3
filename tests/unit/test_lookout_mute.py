"""Who is asked where many cannot say, where all once denied a host that stood still, and in which order after a pause."""

from __future__ import annotations

import random

import pytest

from ha_agent.controller.effects import AskWitness, ReadNova
from ha_agent.model import Answer, Verdict
from ha_agent.ports import NovaSeen, ProbeAnswered
from tests.unit.test_lookout import Bench


def denied(bench: Bench, host: str, ask: AskWitness) -> ProbeAnswered:
    return ProbeAnswered(host=host, at=bench.now_s, witness=ask.witness, nonce=ask.nonce, answer=Answer.SILENT)


@pytest.mark.parametrize("mute", [0, 5, 6, 8, 12, 20])
def test_those_who_can_say_are_asked_however_many_cannot(mute: int) -> None:
    """Three can, and two must."""
    bench = Bench(hosts=4 + mute, racks=0, witnesses_min=2)
    others = [h for h in bench.lookout.views if h != "h1"]
    random.Random(1).shuffle(others)
    dumb = set(others[:mute])
    bench.reach("h1", *others)
    verdicts: list[Verdict] = []
    while bench.now_s < 160:
        bench.at(bench.now_s + 0.25)
        for host in others:
            bench.beat(host)
        for effect in list(bench.wanted):
            if isinstance(effect, ReadNova):
                bench.see(NovaSeen(host=effect.host, at=bench.now_s))
            if isinstance(effect, AskWitness) and effect.target == "h1" and effect.witness not in dumb:
                bench.see(denied(bench, "h1", effect))
        verdicts += [v.verdict for v in bench.verdicts()]
    down = verdicts.index(Verdict.DOWN)
    assert verdicts[down:] == [Verdict.DOWN] * len(verdicts[down:]), "and stay found"
    assert down < 6


def test_a_host_that_stands_still_for_a_moment_and_dies_soon_after_is_found() -> None:
    """After a restart, when the journal alone knows who reached it: all denied it, and it was heard once more."""
    bench = Bench(hosts=6, racks=0, heard=False)
    others = [h for h in bench.lookout.views if h != "h1"]
    bench.record("h1", witnesses=tuple(others))
    bench.lookout.remember()
    for host in bench.lookout.views:
        bench.beat(host)
    late: list[tuple[float, AskWitness]] = []
    stalled: float | None = None
    heard_last: float | None = None
    found: list[Verdict] = []
    while bench.now_s < 260:
        bench.at(bench.now_s + 0.25)
        for host in others:
            bench.beat(host)
        asked = [e for e in bench.wanted if isinstance(e, AskWitness) and e.target == "h1"]
        if stalled is None and asked:
            stalled = bench.now_s
        if stalled is None:
            bench.beat("h1")
        elif heard_last is None and bench.now_s >= stalled + 2.0:
            bench.beat("h1")
            heard_last = bench.now_s
        for effect in bench.wanted:
            if isinstance(effect, ReadNova):
                bench.see(NovaSeen(host=effect.host, at=bench.now_s))
        late += [(bench.now_s + 1.5, each) for each in asked]
        for each in [each for each in late if each[0] <= bench.now_s]:
            late.remove(each)
            bench.see(denied(bench, "h1", each[1]))
        found += [v.verdict for v in bench.verdicts() if v.host == "h1"]
    assert heard_last is not None
    assert Verdict.DOWN in found


def test_after_a_pause_the_order_of_names_does_not_tell_who_is_suspected_when() -> None:
    def suspected_after(silent_long: str, silent: str) -> float:
        bench = Bench(hosts=6, suspect_after_s=7.0, down_after_s=12.0)
        rest = [h for h in bench.lookout.views if h not in (silent_long, silent)]

        def pass_to(end: float, *alive: str) -> None:
            while bench.now_s < end:
                bench.at(bench.now_s + 0.25)
                for host in alive:
                    bench.beat(host)

        def pause(until: float) -> None:
            bench.now_s = until
            bench.lookout.paused()
            bench.lookout.tick(until)

        pass_to(100.5, silent, *rest)
        pause(105.0)
        pass_to(109.0, silent, *rest)
        pause(115.0)
        while bench.lookout.views[silent_long].suspect_at is None:
            pass_to(bench.now_s + 0.25, *rest)
        return bench.now_s - 115.0

    assert suspected_after("h1", "h6") == suspected_after("h6", "h1")
