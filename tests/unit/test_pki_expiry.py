"""Certificates that end soon: who is told, in which words, how often."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ha_agent.heartbeat.credentials import Credentials
from ha_agent.heartbeat.expiry import DAY_S, Note, Reminder, Thresholds, authority_days, ends, notes, stale
from ha_agent.heartbeat.peer import Peer
from ha_agent.heartbeat.pki import Pki

NOW = datetime.datetime.now(datetime.UTC)
WALL = NOW.timestamp()
LIMITS = Thresholds(warn_days=30, urgent_days=7)
PEER = Peer(role="host", name="h", serial=1, issuer=b"", issuer_key=b"", not_after=WALL + 400 * DAY_S, digest=b"")


def ago(days: float) -> Callable[[], datetime.datetime]:
    return lambda: NOW - datetime.timedelta(days=days)


def credentials(directory: Path, *, ca_age: float = 0, age: float = 0) -> Credentials:
    """Own certificate and authority of these ages in days; they live for 730 and 3650."""
    Pki(directory, ago(ca_age)).init()
    return Credentials(Pki(directory, ago(age)).issue("controller", "c"))


def ending(name: str, days: float) -> Peer:
    return msgspec.structs.replace(PEER, name=name, not_after=WALL + days * DAY_S)


@pytest.mark.parametrize(("left", "said"), [(31, []), (29, [False]), (8, [False]), (6, [True]), (-2, [True])])
def test_our_own_certificate(tmp_path: Path, left: float, said: list[bool]) -> None:
    found = notes(credentials(tmp_path, ca_age=800, age=730 - left), [PEER], WALL, LIMITS)
    assert [note.urgent for note in found] == said
    for note in found:
        assert "`" not in note.text
        assert note.text.endswith("ha-agent pki renew controller c")


@pytest.mark.parametrize(("left", "said"), [(31, []), (20, [False, False]), (3, [True, True])])
def test_the_authority_ends_and_what_it_issued_ends_with_it(tmp_path: Path, left: float, said: list[bool]) -> None:
    found = notes(credentials(tmp_path, ca_age=3650 - left, age=1), [], WALL, LIMITS)
    assert [note.urgent for note in found] == said


def test_an_old_authority_beside_its_successor_is_no_news(tmp_path: Path) -> None:
    Pki(tmp_path, ago(3645)).init()
    now = Pki(tmp_path)
    now.rotate_start()
    now.rotate_switch()
    mine = Credentials(now.issue("controller", "c"))
    assert authority_days(mine, WALL) > 3600
    assert notes(mine, [msgspec.structs.replace(PEER, issuer=mine.now.own.issuer.public_bytes())], WALL, LIMITS) == []


def test_many_hosts_are_one_sentence(tmp_path: Path) -> None:
    peers = [ending(f"h{number}", 20 - number / 10) for number in range(100)] + [ending("late", -1), ending("far", 90)]
    found = notes(credentials(tmp_path), peers, WALL, LIMITS)
    assert [(note.urgent, note.text) for note in found] == [
        (
            True,
            "certificates to be renewed: host late expired 1 day ago; where the authority is: "
            "ha-agent pki renew host NAME, or --all",
        ),
        (
            False,
            "certificates to be renewed: host h99 expires in 10 days, host h98 expires in 10 days, "
            "host h97 expires in 10 days, host h96 expires in 10 days, host h95 expires in 10 days and 95 more; "
            "where the authority is: ha-agent pki renew host NAME, or --all",
        ),
    ]


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (-1.2, "expired 1 day ago"),
        (0.5, "expires in 12 hours"),
        (1.9, "expires in 46 hours"),
        (2.0, "expires in 2 days"),
    ],
)
def test_words(days: float, text: str) -> None:
    assert ends(days) == text


def test_a_note_is_logged_once_a_day_and_when_it_becomes_urgent(caplog: pytest.LogCaptureFixture) -> None:
    reminder = Reminder()
    note, urgent = Note(key="own", text="soon", urgent=False), Note(key="own", text="now", urgent=True)
    steps = [(note, 0.0), (note, 10.0), (urgent, 20.0), (urgent, 30.0), (urgent, DAY_S + 19), (urgent, DAY_S + 20)]
    with caplog.at_level(logging.WARNING):
        for said, at in steps:
            reminder.remind([said], at)
        assert [record.getMessage() for record in caplog.records] == ["soon", "now", "now"]
        reminder.remind([], DAY_S + 21)
        reminder.remind([note], DAY_S + 22)  # gone, and there again
    assert [record.getMessage() for record in caplog.records] == ["soon", "now", "now", "soon"]


def test_each_whose_certificate_somebody_is_told_of_is_looked_at_once(tmp_path: Path) -> None:
    """Those that end first, then those of another authority."""
    Pki(tmp_path).init()
    now = Pki(tmp_path)
    now.rotate_start()
    mine = Credentials(now.issue("controller", "c"))
    of_ours = mine.now.own.issuer.public_bytes()
    well = msgspec.structs.replace(ending("well", 500), issuer=of_ours)
    both, other = ending("both", 1), ending("other", 500)
    assert stale(mine, [other, well, both], WALL, LIMITS) == [both, other]


def test_of_thousands_too(tmp_path: Path) -> None:
    """Compared each with each they would hold the loop for half a second."""

    class Counted(Peer, frozen=True, kw_only=True):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return self is other

        __hash__ = Peer.__hash__

    Pki(tmp_path).init()
    now = Pki(tmp_path)
    now.rotate_start()
    mine = Credentials(now.issue("controller", "c"))
    peers = [Counted(**msgspec.structs.asdict(ending(f"h{n}", 1))) for n in range(500)]
    assert len(stale(mine, peers, WALL, LIMITS)) == 500
    assert Counted.compared < 1000
