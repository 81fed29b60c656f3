"""The judge of the demo: a clean story is clean, and each planted crime is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ha_agent.model import Notification
from ha_agent.sim.demo_books import Books, Evacuated, Guest
from ha_agent.sim.demo_failures import FAILURES
from ha_agent.sim.demo_judge import judge

DIED, SILENT, OFF, EVIDENCE, FORCED, MOVED = 100.0, 99.5, 109.6, 110.1, 110.2, 110.3


def guest(name: str, host: str, *, runs: bool = True, tagged: bool = True, image_backed: bool = False) -> Guest:
    return Guest(id=f"id-{name}", name=name, host=host, runs=runs, tagged=tagged, image_backed=image_backed)


def note(event_type: str, **data: object) -> Notification:
    body: dict[str, object] = {"ha_agent_object.data": {"host": "dead", **data}}
    return Notification(id="n", event_type=event_type, priority="info", wall=0.0, payload=body)


def story() -> Books:
    """A host died of a power cut, and everything went as it must."""
    guests = [
        guest("db", "dead"),
        guest("spare", "dead", runs=False),
        guest("cache", "dead", image_backed=True),
        guest("scratch", "dead", tagged=False),
        guest("web", "other"),
    ]
    books = Books(host="dead", died_at=DIED, guests={g.id: g for g in guests}, recovered_at=113.0, up_again=True)
    books.switched = [(OFF, "dead", "off"), (115.0, "dead", "on")]
    books.forced = [(FORCED, "dead", True), (119.0, "dead", False)]
    books.evacuated = [Evacuated(at=MOVED, server=s, source="dead", ran=False) for s in ("id-db", "id-spare")]
    books.ends = {
        "id-db": ("ACTIVE", "other", ("other",)),
        "id-spare": ("SHUTOFF", "third", ()),
        "id-cache": ("ACTIVE", "dead", ()),
        "id-scratch": ("ACTIVE", "dead", ()),
        "id-web": ("ACTIVE", "other", ("other",)),
    }
    stayed = [note("server.not_moved", name=name, why="because") for name in ("cache", "scratch")]
    told = [note(event_type) for event_type in FAILURES["power"].order]
    books.notes = [(0.0, n) for n in (*told[:-3], *stayed, *told[-3:])]
    return books


def verdict(books: Books, failure: str = "power", evidence_at: float | None = EVIDENCE) -> list[str]:
    return judge(books, FAILURES[failure], SILENT, evidence_at)


def test_a_clean_story_is_clean() -> None:
    assert verdict(story()) == []


def _end(server: str, status: str, host: str, *runs: str) -> Callable[[Books], None]:
    return lambda books: books.ends.update({server: (status, host, runs)})


CRIMES: dict[str, tuple[Callable[[Books], object], str]] = {
    "another host's BMC is switched off": (
        lambda b: b.switched.append((111.0, "other", "off")),
        "other got a power off, and nothing was wrong with it",
    ),
    "another host's BMC is switched on": (
        lambda b: b.switched.append((111.0, "other", "on")),
        "other got a power on, and nothing was wrong with it",
    ),
    "another host is forced down": (lambda b: b.forced.append((111.0, "other", True)), "told that other is down"),
    "a server ran twice": (lambda b: b.doubles.append("id-db"), "S1: db ran on two hosts"),
    "a server was ruined": (lambda b: b.ruined.append("id-db"), "db was evacuated a second time during the first"),
    "evacuated while it ran": (
        lambda b: b.evacuated.__setitem__(0, replace(b.evacuated[0], ran=True)),
        "S2: db was evacuated while it still ran on dead",
    ),
    "evacuated twice": (lambda b: b.evacuated.append(b.evacuated[0]), "db was evacuated 2 times"),
    "evacuated before forced down": (lambda b: b.forced.__setitem__(0, (MOVED + 1, "dead", True)), "S3: db"),
    "a server of a living host was evacuated": (
        lambda b: b.evacuated.append(Evacuated(at=MOVED, server="id-web", source="other", ran=False)),
        "web was evacuated from other, which did not die",
    ),
    "an untagged server was evacuated": (
        lambda b: b.evacuated.append(Evacuated(at=MOVED, server="id-scratch", source="dead", ran=False)),
        "scratch was evacuated and is not protected",
    ),
    "an image-backed server left": (
        _end("id-cache", "ACTIVE", "other", "other"),
        "cache is not protected and yet left",
    ),
    "an untagged server was started": (lambda b: b.started.append((112.0, "id-scratch")), "scratch is not protected"),
    "a protected server is stopped": (_end("id-db", "SHUTOFF", "other"), "db was ACTIVE before and is SHUTOFF"),
    "a stopped server was started": (_end("id-spare", "ACTIVE", "third", "third"), "spare was SHUTOFF before"),
    "a protected server stayed": (_end("id-db", "ACTIVE", "dead", "dead"), "db is protected and was not moved"),
    "Nova believes that it runs": (_end("id-db", "ACTIVE", "other"), "really runs on no host"),
    "a bystander's server moved": (_end("id-web", "ACTIVE", "third", "third"), "web on other was not concerned"),
    "a server is gone": (lambda b: b.ends.pop("id-db"), "db was ACTIVE before and is gone"),
    "the host did not return": (lambda b: setattr(b, "up_again", False), "dead is not up in Nova"),
    "a record is not completed": (lambda b: b.unfinished.append("id-db"), "not completed at the end: db"),
    "off came late": (lambda b: b.switched.__setitem__(0, (SILENT + 11.01, "dead", "off")), "L1: off was sent 11.01 s"),
    "off never came": (lambda b: b.switched.clear(), "no power off reached"),
    "evidence came late": (
        lambda b: b.evacuated.append(Evacuated(at=EVIDENCE - 0.1, server="id-db", source="dead", ran=False)),
        "S2: a server was evacuated before there was evidence",
    ),
    "they were not recovered": (lambda b: setattr(b, "recovered_at", None), "never were all in their prior state"),
    "a notification is missing": (
        lambda b: b.notes.__delitem__(next(i for i, (_, n) in enumerate(b.notes) if n.event_type == "host.down")),
        "the notification host.down arrived never",
    ),
    "notifications are out of order": (lambda b: b.notes.reverse(), "arrived too early"),
    "nobody says why it stayed": (
        lambda b: setattr(b, "notes", [n for n in b.notes if n[1].event_type != "server.not_moved"]),
        "cache stayed on dead, and no notification says why",
    ),
    "an error was logged": (lambda b: b.errors.append("asyncio: Task exception"), "an error was logged"),
}


@pytest.mark.parametrize("crime", CRIMES)
def test_a_planted_crime_is_named(crime: str) -> None:
    commit, words = CRIMES[crime]
    books = story()
    commit(books)
    violations = verdict(books)
    assert any(words in violation for violation in violations), violations


def test_evidence_must_lead_to_an_evacuation_at_once() -> None:
    assert "passed from evidence to the first evacuation" in "".join(verdict(story(), evidence_at=MOVED - 1.01))


@pytest.mark.parametrize("failure", ["network", "agent-crash", "reboot"])
def test_a_host_that_lives_may_not_be_touched(failure: str) -> None:
    violations = verdict(story(), failure)
    assert any("got a power off; a failure of this kind calls for none" in v for v in violations)
    assert any("Nova was told that dead is down, and it is not" in v for v in violations)
    assert any("which did not die" in v for v in violations)


def test_a_host_that_rebooted_restarts_its_tagged_servers_in_place() -> None:
    books = story()
    books.switched, books.forced, books.evacuated = [], [], []
    books.notes = [(0.0, note(event_type)) for event_type in FAILURES["reboot"].order]
    books.started = [(112.0, "id-db"), (112.0, "id-cache")]
    for server in ("id-db", "id-cache"):
        books.ends[server] = ("ACTIVE", "dead", ("dead",))
    books.ends["id-spare"] = ("SHUTOFF", "dead", ())
    assert verdict(books, "reboot", None) == []
    books.ends["id-cache"] = ("SHUTOFF", "dead", ())
    assert "cache was ACTIVE before and is SHUTOFF" in verdict(books, "reboot", None)


def test_a_failure_that_was_never_made_proves_nothing() -> None:
    books = story()
    books.died_at = None
    assert verdict(books) == ["nothing was shown: the failure was never made"]
