"""What the watcher says about a connection to libvirt, here a small one of our own."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from ha_agent.guests.lines import Ask, Domain, Happened, Line
from ha_agent.guests.watcher import Away, Watcher


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return 0.0

    def boot_id(self) -> str:
        return "boot-1"


class Small:
    """watcher.Connection over a few domains. `away`: it cannot be asked."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.all = [Domain(server="a", start="1.1", state=1, reason=1), Domain(server="b", state=5, reason=1)]
        self.away = ""

    def domains(self) -> Sequence[Domain]:
        self._asked()
        return self.all

    def look(self, server: str) -> Domain | None:
        self._asked()
        return next((domain for domain in self.all if domain.server == server), None)

    def _asked(self) -> None:
        self.clock.at += 1.0  # libvirt takes its time
        if self.away:
            raise Away(self.away)


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.libvirt = Small(self.clock)
        self.said: list[Line] = []
        self.watcher = Watcher(self.libvirt, self.said.append, self.clock)

    def ask(self, server: str) -> Line:
        self.watcher.asked(msgspec.json.encode(Ask(number=7, server=server)))
        return self.said[-1]


def test_it_begins_with_all_domains_and_the_time_before_it_asked() -> None:
    bench = Bench()
    bench.watcher.begin()
    *domains, end = bench.said
    assert [line.domain for line in domains] == bench.libvirt.all
    assert end == Line(kind="listed", at=100.0)


def test_it_passes_events_on_and_shows_that_libvirt_answers() -> None:
    bench = Bench()
    event = Happened(server="a", at=1.0, what="watchdog", first=1, start="1.1")
    bench.watcher.heard(event)
    bench.libvirt.all = []
    bench.watcher.again()
    assert bench.said == [Line(kind="event", event=event), Line(kind="alive", at=100.0)]


def test_what_changed_without_an_event_is_told_once_it_was_seen_twice() -> None:
    bench = Bench()
    bench.watcher.begin()
    bench.said.clear()
    paused = Domain(server="a", start="1.1", state=3, reason=6)
    bench.libvirt.all = [paused, bench.libvirt.all[1]]
    for _ in range(4):
        bench.watcher.again()
    settled = Line(kind="settled", domain=paused, at=100.0)  # as it was asked for when it was last seen otherwise
    alive = [Line(kind="alive", at=at) for at in (101.0, 102.0, 103.0, 104.0)]
    assert bench.said == [alive[0], settled, *alive[1:]]
    bench.said.clear()
    bench.libvirt.all = [Domain(server="a", start="2.2", state=1, reason=1), Domain(server="c", start="3.3", state=1)]
    bench.watcher.again()
    bench.libvirt.all[0] = paused  # it has not settled yet
    bench.watcher.again()
    bench.watcher.again()
    found = [(line.domain, line.at) for line in bench.said if line.kind == "settled"]
    assert found == [(bench.libvirt.all[1], 104.0), (paused, 105.0)]


def test_a_libvirt_that_is_away_is_never_taken_for_an_answer() -> None:
    bench = Bench()
    bench.libvirt.away = "no libvirtd"
    for call in (bench.watcher.begin, bench.watcher.again):
        with pytest.raises(Away):
            call()
    assert bench.said == []
    assert bench.ask("a") == Line(kind="answer", number=7, unsure=True)


def test_questions() -> None:
    bench = Bench()
    assert bench.ask("a") == Line(kind="answer", number=7, domain=bench.libvirt.all[0])
    assert bench.ask("c") == Line(kind="answer", number=7)
    with pytest.raises(BrokenPipeError):
        bench.watcher.asked(b'{"number": "7"}')
