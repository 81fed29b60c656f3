"""Guest events on their way to controllers: only to one that leads, until it says that they are journalled, and never in the way of beats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ha_agent.heartbeat import wire
from ha_agent.heartbeat.courier import AGAIN_S, WINDOW, Courier
from ha_agent.heartbeat.link import BEATS_AT_ONCE, CLAIMS_AT_ONCE, GUEST_EVENTS_S
from ha_agent.ports import ForeignClaim, GuestEvent, GuestSeen, Heartbeat
from ha_agent.system import SystemClock
from tests.unit.heartbeat_support import (
    DEADLINE_S,
    Seen,
    certificates,
    impostor,
    monitor,
    remote,
    session,
    until,
    welcomed,
)

CONTROLLER = ("controller", "controller-1")


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return 0.0

    def boot_id(self) -> str:
        return "boot-1"


def event(name: str, at: float | None = 99.0) -> GuestEvent:
    return GuestEvent(id=name, server="a", kind="watchdog", action="none", start="1.1", at=at)


class Waiting:
    """ports.GuestWatch over a list."""

    def __init__(self, *events: GuestEvent) -> None:
        self.events = list(events)
        self.lost = 3
        self.more: list[Callable[[], None]] = []

    async def run(self, boot_id: str) -> None:
        del boot_id
        await asyncio.Event().wait()

    def ready(self) -> Sequence[GuestEvent]:
        return tuple(self.events)

    def acknowledge(self, ids: Collection[str]) -> None:
        self.events = [each for each in self.events if each.id not in ids]

    def watch(self, more: Callable[[], None]) -> Callable[[], None]:
        self.more.append(more)
        return lambda: self.more.remove(more)

    def add(self, new: GuestEvent) -> None:
        self.events.append(new)
        for each in self.more:
            each()


class Bench:
    def __init__(self, *events: GuestEvent, leads: bool = True) -> None:
        self.clock = Clock()
        self.waiting = Waiting(*events)
        self.sent: list[wire.GuestEvents] = []
        self.courier = Courier(self.waiting, self.clock, self._send, leads=leads)

    def _send(self, frame: wire.Frame) -> None:
        assert isinstance(frame, wire.GuestEvents)
        self.sent.append(frame)

    def deliver(self) -> list[str]:
        """The ids of the frames that are due now."""
        before = len(self.sent)
        while self.courier._deliver():
            pass
        return [news.id for frame in self.sent[before:] for news in frame.events]


def test_an_event_goes_with_its_age_and_the_count_of_what_was_lost() -> None:
    bench = Bench(event("n1"), event("n2", at=None), event("n3", at=200.0))
    bench.deliver()
    (frame,) = bench.sent
    assert [(news.id, news.age_s) for news in frame.events] == [("n1", 1.0), ("n2", None), ("n3", 0.0)]
    assert frame.lost == 3


def test_it_goes_again_until_it_is_acknowledged() -> None:
    bench = Bench(event("n1"), event("n2"))
    assert bench.deliver() == ["n1", "n2"]
    assert bench.deliver() == []
    bench.courier.acknowledged(["n1"])
    bench.clock.at += AGAIN_S
    assert bench.deliver() == ["n2"]
    bench.courier.acknowledged(["n2"])
    bench.clock.at += AGAIN_S
    assert bench.deliver() == []


def test_who_does_not_lead_is_not_told_and_acknowledges_nothing() -> None:
    bench = Bench(event("n1"), leads=False)
    assert bench.deliver() == []
    bench.courier.acknowledged(["n1"])
    assert len(bench.waiting.events) == 1
    bench.courier.claims(True)
    assert bench.deliver() == ["n1"]
    bench.courier.claims(True)
    assert bench.deliver() == ["n1"], "a new claim: another leader, who has seen nothing"


def test_a_storm_goes_a_window_at_a_time_and_what_is_never_taken_blocks_nothing() -> None:
    bench = Bench(*(event(f"n{n}") for n in range(200)))
    first = bench.deliver()
    assert len(first) == WINDOW
    assert max(len(frame.events) for frame in bench.sent) == wire.MAX_EVENTS
    bench.courier.acknowledged(first[1:])  # n0 is never taken
    assert bench.deliver() == [f"n{n}" for n in range(WINDOW, 2 * WINDOW - 1)]
    told = set()
    for _ in range(10):
        bench.clock.at += AGAIN_S
        lot = bench.deliver()
        told.update(lot)
        bench.courier.acknowledged([name for name in lot if name != "n0"])
    assert told == {"n0", *(f"n{n}" for n in range(WINDOW, 200))}
    assert [each.id for each in bench.waiting.events] == ["n0"]


# --- over a real connection ---


async def test_a_leader_is_told_at_once_and_a_standby_never(tmp_path: Path) -> None:
    watch = Waiting()
    async with (
        remote(tmp_path, watch=watch) as served,
        monitor({"compute-1": served.port}) as (leader, seen),
        monitor({"compute-1": served.port}, name="controller-2") as (_, standby),
    ):
        leader.set_claim("store-1", 4)
        await until(lambda: len(watch.more) == 2)
        await standby.next(Heartbeat)
        watch.add(event("n1", at=SystemClock().now() - 7))
        news = await seen.next(GuestSeen)
        assert news.age_s is not None
        assert 7.0 <= news.age_s < 8.0
        assert (news.host, news.server, news.report, news.fault) == ("compute-1", "a", "n1", "watchdog")
        assert (news.action, news.start, news.lost) == ("none", "1.1", 3)
        leader.acknowledge("compute-1", "n1")
        leader.acknowledge("nobody", "n1")
        await until(lambda: not watch.events)
        assert leader.counters.guest_events == 1
        await standby.next(Heartbeat)
        assert not any(isinstance(each, GuestSeen) for each in standby.ever)


async def test_a_new_connection_and_a_new_leader_are_told_again(tmp_path: Path) -> None:
    watch = Waiting(event("n1"))
    async with remote(tmp_path, watch=watch) as served:
        for epoch, name in ((1, "controller-1"), (1, "controller-1"), (2, "controller-2")):
            async with monitor({"compute-1": served.port}, name=name) as (leader, seen):
                leader.set_claim("store-1", epoch)
                assert (await seen.next(GuestSeen)).report == "n1"
        await until(lambda: not watch.more)


async def test_a_controller_of_the_first_version_is_sent_nothing_that_it_does_not_know(tmp_path: Path) -> None:
    watch = Waiting(event("n1"))
    async with remote(tmp_path, watch=watch) as served:
        channel = await session(
            served.port, certificates(*CONTROLLER), 0.01, versions=[[1, 0]], store_id="store-1", epoch=5
        )
        frames = [await channel.receive(DEADLINE_S) for _ in range(20)]
        assert {type(frame) for frame in frames} == {wire.Welcome, wire.Beat}
        channel.abort()


async def test_a_remote_of_the_first_version_is_served_as_ever(tmp_path: Path) -> None:
    async with impostor(certificates("host", "compute-1"), _old) as port, monitor({"compute-1": port}) as (watch, seen):
        watch.set_claim("store-1", 1)
        assert (await seen.next(Heartbeat)).boot_id == "boot-1"
        assert watch.counters.malformed_frames == 0


async def _old(channel: object) -> None:
    from ha_agent.heartbeat.channel import Channel

    assert isinstance(channel, Channel)
    await welcomed(channel, "compute-1")
    channel.send(wire.Beat(seq=1, boot_id="boot-1", started_s=1.0))
    await channel.receive(DEADLINE_S)
    await asyncio.sleep(DEADLINE_S)


async def test_a_remote_that_floods_us_with_events_is_heard_in_part_and_beats_on(tmp_path: Path) -> None:
    """Each may cost a write of the journal."""
    lots = int(3 * GUEST_EVENTS_S)

    async def flood(channel: object) -> None:
        from ha_agent.heartbeat.channel import Channel

        assert isinstance(channel, Channel)
        await welcomed(channel, "compute-1")
        for n in range(lots):
            news = wire.GuestNews(id=f"n{n}", server="a", kind="watchdog")
            channel.send(wire.GuestEvents(events=(news,)))
        channel.send(wire.Beat(seq=1, boot_id="boot-1", started_s=1.0))
        await channel.receive(DEADLINE_S)
        await asyncio.sleep(DEADLINE_S)

    async with (
        impostor(certificates("host", "compute-1"), flood) as port,
        monitor({"compute-1": port}) as (watch, seen),
    ):
        await seen.next(Heartbeat)
        heard = [each for each in seen.ever if isinstance(each, GuestSeen)]
        assert GUEST_EVENTS_S <= len(heard) < 2 * GUEST_EVENTS_S
        assert watch.counters.refused_guest_events == lots - len(heard)


async def test_a_remote_that_floods_us_with_beats_and_claims_is_heard_in_part(tmp_path: Path) -> None:
    """A beat of another boot costs a write of the journal, and so does a claim."""
    lots = 5 * BEATS_AT_ONCE

    async def flood(channel: object) -> None:
        from ha_agent.heartbeat.channel import Channel

        assert isinstance(channel, Channel)
        await welcomed(channel, "compute-1")
        for n in range(lots):
            channel.send(wire.Beat(seq=n + 1, boot_id=f"boot-{n}", started_s=1.0))
            channel.send(wire.Foreign(controller="nobody", store_id=f"{n}", epoch=n))
        for _ in range(lots):
            await channel.receive(DEADLINE_S)  # each is answered: it is no reason to hang up
        channel.send(wire.GuestEvents(events=(wire.GuestNews(id="last", server="a", kind="watchdog"),)))
        await asyncio.sleep(DEADLINE_S)

    async with (
        impostor(certificates("host", "compute-1"), flood) as port,
        monitor({"compute-1": port}) as (watch, seen),
    ):
        await seen.next(GuestSeen)
        beats = [each for each in seen.ever if isinstance(each, Heartbeat)]
        claims = [each for each in seen.ever if isinstance(each, ForeignClaim)]
        assert BEATS_AT_ONCE <= len(beats) < lots
        assert CLAIMS_AT_ONCE <= len(claims) <= CLAIMS_AT_ONCE + 1
        assert watch.counters.refused_beats == lots - len(beats)
        assert watch.counters.refused_claims == lots - len(claims)


async def test_the_beats_go_on_through_a_storm(tmp_path: Path) -> None:
    watch = Waiting(*(event(f"n{n}") for n in range(1000)))
    async with remote(tmp_path, watch=watch) as served, monitor({"compute-1": served.port}) as (leader, seen):
        leader.set_claim("store-1", 1)
        await _beats(seen, 20)
        events = [each for each in seen.ever if isinstance(each, GuestSeen)]
        assert 0 < len(events) <= WINDOW
        assert leader.counters.malformed_frames == served.counters.malformed_frames == 0


async def _beats(seen: Seen, count: int) -> None:
    for _ in range(count):
        await seen.next(Heartbeat)
