"""What the matrix still wants to try, given what counted, what did not, and what is under way."""

from __future__ import annotations

from collections import Counter

from ha_agent.sim.matrix import Tally
from ha_agent.sim.stage import QUICK, STORIES, TURN, story_of
from ha_agent.sim.strikes import Strike

PAIR = ("fence", "host death")
NAMES = [story.name for story in STORIES]


def strikes(count: int, *, story: int = 0, changed: bool = True) -> list[Strike]:
    return [Strike(story, *PAIR, changed, [], []) for _ in range(count)]


def tally(each: int = 2, stories: int = 1) -> Tally:
    return Tally(each, {name: frozenset({PAIR[0]}) for name in NAMES[:stories]})


def wants(subject: Tally, story: int = 0) -> bool:
    return PAIR[1] in subject.wanted(NAMES[story]).get(PAIR[0], ())


def test_a_pair_is_wanted_until_it_has_counted_often_enough() -> None:
    subject = tally()
    for strike in strikes(1) + strikes(3, changed=False):
        subject.add(strike)
    assert wants(subject)
    subject.add(strikes(1)[0])
    assert not wants(subject)


def test_what_is_under_way_is_not_tried_twice_and_what_did_not_come_is_tried_again() -> None:
    subject = tally()
    wanted = {PAIR[0]: [PAIR[1]]}
    subject.begins(wanted)
    assert wants(subject), "one is under way, two are wanted"
    subject.begins(wanted)
    assert not wants(subject)
    subject.ends(wanted, [])  # its stage did not come to the step
    assert wants(subject)
    subject.ends(wanted, strikes(1))
    assert wants(subject)


def test_a_pair_is_left_out_of_a_story_in_which_it_rarely_counts() -> None:
    subject = tally(each=50, stories=2)
    for strike in strikes(9, story=0) + strikes(9, story=1, changed=False):
        subject.add(strike)
    assert wants(subject, 0)
    assert not wants(subject, 1)


def test_a_story_that_does_not_come_to_the_step_is_not_asked() -> None:
    subject = Tally(1, {NAMES[0]: frozenset()})
    assert subject.wanted(NAMES[0]) == {}


def test_what_is_told_quickly_is_told_twice_as_often() -> None:
    told = Counter(story_of(seed).name for seed in range(10 * len(TURN)))
    assert told == {name: 20 if name in QUICK else 10 for name in NAMES}
