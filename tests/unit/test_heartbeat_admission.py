"""Whom a remote lets in, and what it says about those whom it does not: rules without a socket."""

from __future__ import annotations

import logging

import pytest

from ha_agent.heartbeat.admission import MAX_ADDRESSES, Admission, Decision, Limits, network
from ha_agent.heartbeat.complaints import EVERY_S, MAX_KEPT, MAX_LINES, Complaints

PLENTY = Limits(rate_s=1000, burst=10_000, strangers_s=1000, strangers_burst=10_000)
COME_IN = Decision()


def limits(**changes: float) -> Limits:
    return Limits(**{**{name: getattr(PLENTY, name) for name in PLENTY.__dataclass_fields__}, **changes})


def test_greeted_connections_are_bounded_in_all_and_by_address() -> None:
    door = Admission(limits(connections=3, per_address=2), 0.0)
    for number, address in enumerate(["a", "a", "b"]):
        assert door.arrive(number, address, 0.0) == COME_IN
        door.greeted(number)
    assert door.arrive(9, "c", 0.0).refuse == "full"
    door.left(2)
    assert door.arrive(9, "a", 0.0).refuse == "address"
    assert door.arrive(9, "c", 0.0) == COME_IN
    door.left(0)
    assert door.arrive(10, "a", 0.0) == COME_IN


def test_the_oldest_unfinished_handshake_of_an_address_makes_room() -> None:
    door = Admission(limits(handshakes=100, handshakes_per_address=2), 0.0)
    door.arrive(1, "slow", 0.0)
    door.arrive(2, "slow", 0.0)
    assert door.arrive(3, "slow", 0.0).evict == 1
    assert door.arrive(4, "slow", 0.0).evict == 2
    assert door.arrive(5, "honest", 0.0).evict is None


def test_in_all_the_busiest_address_makes_room() -> None:
    door = Admission(limits(handshakes=4, handshakes_per_address=3), 0.0)
    for number, address in ((1, "honest"), (2, "slow"), (3, "slow"), (4, "slow")):
        assert door.arrive(number, address, 0.0) == COME_IN
    assert door.arrive(5, "other", 0.0).evict == 2
    door.greeted(1)
    door.left(3)
    assert door.arrive(6, "other", 0.0) == COME_IN  # 4, 5 and this one


def test_the_rate_of_an_address_is_bounded() -> None:
    door = Admission(limits(rate_s=10, burst=3), 0.0)
    said = [door.arrive(number, "a", 0.0).refuse for number in range(4)]
    assert said == ["", "", "", "rate"]
    assert door.arrive(4, "b", 0.0) == COME_IN
    assert door.arrive(5, "a", 0.09).refuse == "rate"
    assert door.arrive(6, "a", 0.101) == COME_IN


def test_strangers_share_a_rate_and_whoever_was_greeted_is_none() -> None:
    door = Admission(limits(strangers_s=10, strangers_burst=3), 0.0)
    door.arrive(0, "controller", 0.0)
    door.greeted(0)
    door.left(0)
    assert [door.arrive(number, f"10.0.0.{number}", 0.0).refuse for number in range(1, 4)] == ["", "", "rate"]
    assert door.arrive(9, "controller", 0.0) == COME_IN


def test_what_is_remembered_is_bounded() -> None:
    door = Admission(PLENTY, 0.0)
    for number in range(MAX_ADDRESSES + 10):
        door.arrive(number, f"host-{number}", 0.0)
        door.greeted(number) if number not in {0, 1} and number < 200 else door.left(number)
    assert len(door._buckets) == MAX_ADDRESSES
    assert len(door._known) <= MAX_ADDRESSES


@pytest.mark.parametrize(
    ("address", "shares"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_an_ipv6_network_counts_as_one_address(address: str, shares: str) -> None:
    assert network(address) == shares


# --- complaints ---------------------------------------------------------------------------------------------------------


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def complaints() -> tuple[Complaints, list[str], list[float]]:
    log, handler, now = logging.Logger("test"), Lines(), [0.0]
    log.addHandler(handler)
    return Complaints(log, lambda: now[0]), handler.lines, now


def test_a_peer_is_named_once_a_minute_with_how_often() -> None:
    said, lines, now = complaints()
    for _ in range(100):
        said.say("192.0.2.1", "garbage", "no TLS")
    said.say("192.0.2.1", "slow", "too slow")
    assert lines == ["192.0.2.1: no TLS", "192.0.2.1: too slow"]
    now[0] = EVERY_S
    said.say("192.0.2.1", "garbage", "no TLS")
    assert lines[-1] == "192.0.2.1: no TLS (99 more like this since the last line)"


def test_many_peers_do_not_make_many_lines_and_are_not_all_kept() -> None:
    said, lines, now = complaints()
    for number in range(5000):
        said.say(f"peer-{number}", "garbage", "no TLS")
    assert len(lines) == MAX_LINES
    assert len(said._kept) <= MAX_KEPT
    now[0] = EVERY_S
    said.say("one-more", "garbage", "no TLS")
    assert lines[-2] == f"{5000 - MAX_LINES} more connections were refused or ended badly in the last minute"
