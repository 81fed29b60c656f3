"""Who has been silent for longest."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from ha_agent.controller.silence import Silence


def test_whoever_was_heard_longest_ago_is_due_first() -> None:
    silence = Silence()
    assert silence.next_at() == math.inf
    silence.began("h1", 100.0, 4.0)
    silence.began("h2", 101.0, 4.0)
    silence.began("h3", 100.0, 9.0)
    assert silence.next_at() == 104.0
    silence.began("h1", 102.0, 4.0)
    assert silence.next_at() == 105.0
    assert silence.due(104.9) == []
    assert silence.due(105.0) == ["h2"]
    assert silence.due(105.0) == [], "it is taken out"
    assert silence.next_at() == 106.0
    silence.over("h1")
    assert silence.next_at() == 109.0
    assert silence.due(109.0) == ["h3"]
    assert silence.next_at() == math.inf


def test_a_host_has_one_patience() -> None:
    silence = Silence()
    silence.began("h1", 100.0, 4.0)
    silence.began("h1", 101.0, 9.0)
    assert silence.next_at() == 110.0
    silence.over("h1")
    silence.over("h1")
    assert silence.next_at() == math.inf


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from((2.0, 5.0)), st.floats(0.0, 3.0)), max_size=40))
def test_it_is_as_if_every_host_were_looked_at(steps: list[tuple[str, float, float]]) -> None:
    silence, naive, now = Silence(), dict[str, float](), 0.0
    for host, patience_s, later_s in steps:
        now += later_s
        assert silence.next_at() == min(naive.values(), default=math.inf)
        due = sorted(h for h, at in naive.items() if at - 1e-9 <= now)
        assert sorted(silence.due(now + 1e-9)) == due
        naive = {h: at for h, at in naive.items() if h not in due}
        silence.began(host, now, patience_s)
        naive[host] = now + patience_s
