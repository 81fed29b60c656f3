"""The courier: brings the events of a host's guests to one controller, again and again until it has acknowledged them.

Only a controller that claims to lead is told: another one could not journal them. A few events go in a frame and a few frames in a second,
so that a storm of events can never crowd out the beats, which share the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from ha_agent.heartbeat import wire
from ha_agent.ports import Clock, GuestEvent, GuestWatch

WINDOW = 64  # events sent lately and not acknowledged
PAUSE_S = 0.2  # between two frames
AGAIN_S = 5.0  # what is not acknowledged is sent again


class Courier:
    """See the module. `leads`: whether the controller claims to."""

    def __init__(
        self,
        watch: GuestWatch,
        clock: Clock,
        send: Callable[[wire.Frame], None],
        *,
        leads: bool = False,
        again_s: float = AGAIN_S,
    ) -> None:
        self._watch = watch
        self._clock = clock
        self._send = send
        self._leads = leads
        self._again_s = again_s
        self._sent: dict[str, float] = {}  # when, by id
        self._more = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises ProtocolError where the controller does not read."""
        unwatch = self._watch.watch(self._more.set)
        try:
            while True:
                if self._deliver():
                    await asyncio.sleep(PAUSE_S)
                    continue
                try:
                    async with asyncio.timeout(self._again_s / 2):
                        await self._more.wait()
                except TimeoutError:
                    pass
                self._more.clear()
        finally:
            unwatch()

    def claims(self, leads: bool) -> None:
        """The controller begins to lead, or leads no more: a new leader has seen nothing yet."""
        self._leads = leads
        self._sent.clear()
        self._more.set()

    def acknowledged(self, ids: Collection[str]) -> None:
        """The controller has journalled these. Who does not lead cannot have."""
        if self._leads:
            self._watch.acknowledge(ids)
            self._more.set()

    def _deliver(self) -> bool:
        """One frame of what is due, if anything is."""
        if not self._leads:
            return False
        now, waiting = self._clock.now(), {event.id: event for event in self._watch.ready()}
        self._sent = {key: at for key, at in self._sent.items() if key in waiting}
        under_way = sum(now - at < self._again_s for at in self._sent.values())
        due = [key for key in waiting if key not in self._sent]
        due += sorted((k for k, at in self._sent.items() if now - at >= self._again_s), key=lambda k: self._sent[k])
        due = due[: min(wire.MAX_EVENTS, WINDOW - under_way)]
        if not due:
            return False
        self._send(wire.GuestEvents(events=tuple(_news(waiting[key], now) for key in due), lost=self._watch.lost))
        self._sent.update(dict.fromkeys(due, now))
        return True


def _news(event: GuestEvent, now: float) -> wire.GuestNews:
    """An event as it goes over the wire: with its age, for no other machine can read our clock."""
    return wire.GuestNews(
        id=event.id,
        server=event.server,
        kind=event.kind,
        action=event.action,
        start=event.start,
        age_s=None if event.at is None else max(0.0, now - event.at),
        device=event.device,
        found=event.found,
    )
