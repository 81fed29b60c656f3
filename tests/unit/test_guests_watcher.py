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

    def ping(self) -> None:
        self._asked()

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
    bench.watcher.ping()
    assert bench.said == [Line(kind="event", event=event), Line(kind="alive", at=100.0)]


def test_a_libvirt_that_is_away_is_never_taken_for_an_answer() -> None:
    bench = Bench()
    bench.libvirt.away = "no libvirtd"
    for call in (bench.watcher.begin, bench.watcher.ping):
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
