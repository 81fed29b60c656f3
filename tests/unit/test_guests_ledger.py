"""The ledger: one fault is told once, what happened unheard is found, and nothing grows without end."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from ha_agent.guests import words
from ha_agent.guests.ledger import QUIET_S, STALE_S, Ledger, Saved
from ha_agent.guests.lines import Domain, Happened
from ha_agent.ports import GuestEvent

RUNNING, PAUSED_WATCHDOG, PAUSED_BY_USER, SHUT_OFF, FAILED, DEAD = (1, 1), (3, 6), (3, 1), (5, 1), (5, 6), (5, 3)
SUSPENDED_WATCHDOG, RESUMED, STOPPED_FAILED, STOPPED_CRASHED, STARTED = (3, 3), (4, 0), (5, 5), (5, 2), (2, 0)
PANICKED = (8, 0)


class Book(Ledger):
    """A ledger whose ids are n1, n2, …, with short ways to tell it things."""

    def __init__(self, capacity: int = 1000, boot_id: str = "boot-1") -> None:
        numbers = itertools.count(1)
        super().__init__(boot_id, lambda: f"n{next(numbers)}", capacity)

    def life(self, at: float, event: tuple[int, int], server: str = "a", start: str = "1.1") -> list[str]:
        """A lifecycle event."""
        return told(
            self.happened(
                Happened(server=server, at=at, what="lifecycle", first=event[0], second=event[1], start=start)
            )
        )

    def watchdog(self, at: float, action: int, server: str = "a", start: str = "1.1") -> list[str]:
        return told(self.happened(Happened(server=server, at=at, what="watchdog", first=action, start=start)))

    def reboot(self, at: float) -> list[str]:
        return told(self.happened(Happened(server="a", at=at, what="reboot", start="1.1")))

    def settle(self, since: float, state: tuple[int, int], start: str = "1.1", server: str = "a") -> list[str]:
        """A domain that was listed so twice."""
        return told(self.settled(Domain(server=server, start=start, state=state[0], reason=state[1]), since))

    def list(self, at: float, server: str = "a", state: tuple[int, int] = RUNNING, start: str = "1.1") -> list[str]:
        """A full listing of one domain."""
        return told(self.listed([Domain(server=server, start=start, state=state[0], reason=state[1])], at))


def told(events: object) -> list[str]:
    assert isinstance(events, list)
    return [f"{e.kind}/{e.action}" for e in events]


def again(book: Ledger, boot_id: str = "boot-1") -> Book:
    """The next life, from what is on disk."""
    next_life = Book(boot_id=boot_id)
    next_life.load(msgspec.json.decode(msgspec.json.encode(book.saved()), type=Saved))
    return next_life


# --- what is heard ---


@pytest.mark.parametrize(
    ("number", "action"),
    [*enumerate(("none", "pause", "reset", "poweroff", "shutdown", "debug", "inject-nmi")), (9, "number 9")],
)
def test_every_action_of_a_watchdog_is_told_with_its_name(number: int, action: str) -> None:
    assert Book().watchdog(10.0, number) == [f"watchdog/{action}"]


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        (SUSPENDED_WATCHDOG, ["watchdog/pause"]),
        ((3, 2), ["io_error/pause"]),
        (PANICKED, ["crashed/panicked"]),
        ((8, 1), ["crashed/crashloaded"]),
        (STOPPED_FAILED, ["failed/"]),
        (STOPPED_CRASHED, ["crashed/"]),
        ((5, 0), []),  # shut down
        ((5, 1), []),  # destroyed
        ((5, 3), []),  # migrated away
        ((3, 0), []),  # paused by somebody
        (STARTED, []),
        (RESUMED, []),
        ((99, 99), []),
    ],
)
def test_of_the_lifecycle_only_faults_are_told(event: tuple[int, int], fault: list[str]) -> None:
    assert Book().life(10.0, event) == fault


@pytest.mark.parametrize(
    ("what", "first", "fault"),
    [
        ("io_error", 1, ["io_error/pause"]),
        ("io_error", 2, ["io_error/report"]),
        ("control_error", 0, ["control_error/"]),
        ("reboot", 0, ["reboot/"]),
    ],
)
def test_the_other_events(what: str, first: int, fault: list[str]) -> None:
    event = msgspec.convert({"server": "a", "at": 1.0, "what": what, "first": first, "device": "vda"}, Happened)
    book = Book()
    assert told(book.happened(event)) == fault
    assert book.events[0].device == "vda"


def test_a_pause_by_the_watchdog_is_one_event_in_whatever_order_libvirt_tells_it() -> None:
    book = Book()
    assert book.watchdog(10.0, 1) + book.life(10.01, SUSPENDED_WATCHDOG) == ["watchdog/pause"]
    book = Book()
    assert book.life(10.0, SUSPENDED_WATCHDOG) + book.watchdog(10.01, 1) == ["watchdog/pause"]
    assert book.life(10.0 + 2 * QUIET_S, SUSPENDED_WATCHDOG) == [], "it stands still since then"
    book.life(50.0, RESUMED)
    assert book.watchdog(60.0, 1) == ["watchdog/pause"], "it ran in between"


def test_what_follows_by_itself_is_not_told_again() -> None:
    book = Book()
    assert book.watchdog(10.0, 3) + book.life(11.8, STOPPED_FAILED) == ["watchdog/poweroff"]
    book = Book()
    assert book.life(10.0, PANICKED) + book.life(10.1, STOPPED_CRASHED) == ["crashed/panicked"]
    book = Book()
    assert book.watchdog(10.0, 2) + book.reboot(10.1) + book.reboot(10.2) == ["watchdog/reset"]
    assert book.reboot(10.0 + QUIET_S + 1) == ["reboot/"], "that one it did itself"


def test_the_same_fault_again_is_an_event_again_after_a_while_and_in_another_start() -> None:
    book = Book()
    assert [book.watchdog(10.0 + n, 0) for n in range(3)] == [["watchdog/none"], [], []]
    assert book.watchdog(10.0 + QUIET_S, 0) == ["watchdog/none"]
    assert book.watchdog(10.1 + QUIET_S, 0, start="2.9") == ["watchdog/none"]
    assert book.watchdog(10.1 + QUIET_S, 0, server="b") == ["watchdog/none"]


def test_an_event_carries_the_start_of_its_domain() -> None:
    book = Book()
    book.life(1.0, STARTED, start="4.7")
    book.life(9.0, STOPPED_FAILED, start="")
    (event,) = book.events
    assert event == GuestEvent(id="n1", server="a", kind="failed", start="4.7", at=9.0)


def test_what_a_libvirt_that_stood_still_tells_counts_as_old_as_it_may_be() -> None:
    book = Book()
    book.alive(10.0)
    book.watchdog(10.0 + STALE_S, 0, server="a")
    book.watchdog(10.1 + STALE_S, 0, server="b")
    assert [event.at for event in book.events] == [10.0 + STALE_S, 10.0]


# --- what is found ---


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        (PAUSED_WATCHDOG, ["watchdog/pause"]),
        ((3, 5), ["io_error/pause"]),
        ((3, 10), ["crashed/panicked"]),
        ((6, 1), ["crashed/panicked"]),
        (RUNNING, []),
        (PAUSED_BY_USER, []),
    ],
)
def test_a_state_that_shows_a_fault_is_told_once(state: tuple[int, int], fault: list[str]) -> None:
    book = Book()
    book.list(10.0)
    assert book.list(70.0, state=state) == fault
    assert book.list(80.0, state=state) == []
    for event in book.events:
        assert (event.found, event.at) == (True, 10.0), "at any time after it was last seen"


@pytest.mark.parametrize(("state", "fault"), [(FAILED, ["failed/"]), (DEAD, ["crashed/"]), (SHUT_OFF, [])])
def test_one_that_ran_and_has_failed_unheard_is_told_once(state: tuple[int, int], fault: list[str]) -> None:
    book = Book()
    book.list(10.0)
    assert book.list(70.0, state=state, start="") == fault
    assert [event.start for event in book.events] == ["1.1"] * len(fault)
    assert book.list(80.0, state=state, start="") == []


def test_the_first_listing_ever_tells_what_stands_and_nothing_of_the_past() -> None:
    book = Book()
    assert book.list(10.0, state=FAILED, start="") == []
    book = Book()
    assert book.list(10.0, state=PAUSED_WATCHDOG) == ["watchdog/pause"]
    assert book.events[0].at is None, "nobody knows since when"


def test_what_was_heard_is_not_found_again() -> None:
    book = Book()
    book.list(1.0)
    book.watchdog(10.0, 1)
    assert book.list(70.0, state=PAUSED_WATCHDOG) == []
    book = Book()
    book.list(1.0)
    book.watchdog(10.0, 3)
    assert book.list(70.0, state=DEAD, start="") == [], "the QEMU that its watchdog ended"
    book = Book()
    book.list(70.0, state=PAUSED_WATCHDOG)
    assert book.life(70.1, SUSPENDED_WATCHDOG) == [], "heard a moment after it was found"


def test_a_guest_that_was_resumed_or_started_anew_meanwhile_can_fail_again() -> None:
    book = Book()
    book.watchdog(10.0, 1)
    book.list(20.0, state=RUNNING)
    assert book.list(30.0, state=PAUSED_WATCHDOG) == ["watchdog/pause"]
    assert book.list(40.0, state=PAUSED_WATCHDOG, start="2.2") == ["watchdog/pause"]


def test_a_domain_that_is_gone_is_forgotten() -> None:
    book = Book()
    book.list(10.0)
    assert told(book.listed([], 20.0)) == []
    assert book.saved().domains == {}


# --- what is kept ---


def test_the_next_life_goes_on_where_the_last_ended() -> None:
    book = Book()
    book.list(5.0)
    book.watchdog(10.0, 1)
    book.watchdog(11.0, 0, server="b")
    book.acknowledge(["n2", "never heard of"])
    next_life = again(book)
    assert [event.id for event in next_life.events] == ["n1"]
    assert next_life.events == book.events
    assert next_life.list(70.0, state=PAUSED_WATCHDOG) == []


def test_after_a_reboot_of_the_host_nobody_knows_how_old_an_event_is() -> None:
    book = Book()
    book.list(5.0)
    book.watchdog(10.0, 1)
    next_life = again(book, boot_id="boot-2")
    assert [(event.id, event.at) for event in next_life.events] == [("n1", None)]
    assert next_life.known_at is None
    assert next_life.saved().domains == {}, "its domains are gone"


def test_a_full_ledger_drops_the_oldest_of_the_same_guest_and_counts() -> None:
    book = Book(capacity=4)
    for n, server in enumerate("abab"):
        book.watchdog(100.0 * n, 0, server=server)
    book.watchdog(900.0, 0, server="b")
    assert ([e.id for e in book.events], book.lost) == (["n1", "n3", "n4", "n5"], 1)
    book.watchdog(1000.0, 0, server="c")  # it has none here: who has the most loses its oldest
    assert ([e.id for e in book.events], book.lost) == (["n3", "n4", "n5", "n6"], 2)
    assert again(book).lost == 2


def test_a_storm_stays_within_bounds() -> None:
    book = Book(capacity=50)
    for n in range(5000):
        book.watchdog(n / 100, n % 7, server=f"s{n % 300}", start=f"{n}.1")
    assert len(book.events) == 50
    assert book.lost == 5000 - 50
    assert len(book._last) <= 300 + 100 * QUIET_S


def test_the_version_grows_with_everything_worth_keeping() -> None:
    book = Book()
    seen = [book.version]
    for change in (
        lambda: book.list(1.0),
        lambda: book.watchdog(2.0, 0),
        lambda: book.life(3.0, RESUMED),
        lambda: book.acknowledge(["n1"]),
        lambda: book.list(4.0, start="2.2"),
    ):
        change()
        seen.append(book.version)
    assert seen == sorted(set(seen))
    book.alive(5.0)
    book.list(6.0, start="2.2")
    book.acknowledge(["n1"])
    assert book.version == seen[-1], "and with nothing else"


def test_every_standing_fault_can_also_be_heard() -> None:
    """Otherwise one that is heard would be found again under another name."""
    heard = set(words.LIFECYCLE.values()) | {("io_error", "pause"), ("watchdog", "pause")}
    assert set(words.STANDING.values()) <= heard


# --- what changed while somebody listened, and had no event ---


def test_a_fault_without_an_event_is_told_once() -> None:
    book = Book()
    book.list(10.0)
    assert book.settle(12.0, PAUSED_WATCHDOG) == ["watchdog/pause"]
    [event] = book.events
    assert (event.at, event.start, event.found) == (12.0, "1.1", True)
    assert book.settle(12.0, PAUSED_WATCHDOG) == []
    assert book.life(14.0, SUSPENDED_WATCHDOG) == []
    assert again(book).list(20.0, state=PAUSED_WATCHDOG) == []


def test_a_qemu_that_died_without_an_event_is_told_of_with_the_start_that_ended() -> None:
    book = Book()
    book.list(10.0)
    assert book.settle(12.0, DEAD, start="") == ["crashed/"]
    assert [event.start for event in book.events] == ["1.1"]
    assert book.settle(12.0, FAILED, start="", server="b") == [], "it was never seen to run"


def test_what_an_event_has_told_is_not_told_again_when_it_settles() -> None:
    book = Book()
    book.list(10.0)
    assert book.life(11.0, SUSPENDED_WATCHDOG) == ["watchdog/pause"]
    assert book.settle(10.0, PAUSED_WATCHDOG) == []
    assert book.life(12.0, RESUMED) == []
    assert book.settle(11.0, RUNNING) == []
    assert book.watchdog(13.0, 3) == ["watchdog/poweroff"]
    assert book.settle(12.0, FAILED, start="") == [], "it follows from the watchdog"


def test_one_that_goes_on_without_an_event_can_stand_still_again() -> None:
    book = Book()
    book.list(10.0, state=PAUSED_WATCHDOG)
    assert book.settle(40.0, RUNNING) == []
    assert book.life(50.0, SUSPENDED_WATCHDOG) == ["watchdog/pause"]


def test_one_that_settles_forgets_no_fault_that_leaves_no_trace() -> None:
    book = Book()
    book.list(10.0)
    assert book.watchdog(11.0, 2) == ["watchdog/reset"]
    assert book.settle(10.5, RUNNING) == []
    assert book.reboot(11.1) == [], "it follows from the watchdog"


def test_a_start_without_an_event_is_known_once_it_settles() -> None:
    book = Book()
    book.list(10.0)
    assert book.settle(12.0, RUNNING, start="2.2") == []
    assert book.settle(14.0, DEAD, start="") == ["crashed/"]
    assert [event.start for event in book.events] == ["2.2"]
