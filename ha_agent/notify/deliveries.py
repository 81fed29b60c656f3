"""Who is told: a relay gives every notification to the outbox of each, so that one who is slow or away keeps nobody else waiting.

What is kept for somebody who is not configured any more is dropped, and said.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence

import msgspec

from ha_agent.notify.outbox import LIMITS, Drain, Limits, Outbox
from ha_agent.notify.writer import KIND
from ha_agent.ports import Delete, Delivery, Document, Put, Random, Sink, Store

BUS = "bus"
KNOWN = "destinations"  # kind and key of the document that says for whom something may be kept
FORGET_AT_ONCE = 1000
CLOSE_S = 1.0

log = logging.getLogger(__name__)


class Deliveries:
    """The outboxes of all who are told, and the relay before them. `sinks`: by name."""

    def __init__(self, store: Store, random: Random, sinks: Mapping[str, Sink], limits: Limits = LIMITS) -> None:
        self._store, self._random, self._limits = store, random, limits
        self._changed = asyncio.Event()
        self._relay = Relay(store, random, limits)
        self._outboxes: dict[str, Outbox] = {}
        self._left: list[Sink] = []  # to be closed
        self.set_sinks(sinks)

    def sink(self, name: str) -> Sink:
        """Of somebody who is told. Raises KeyError."""
        return self._outboxes[name].sink

    def set_sinks(self, sinks: Mapping[str, Sink]) -> None:
        """Others are told from now on. Who stays keeps what waits for it."""
        self._left += [o.sink for name, o in self._outboxes.items() if sinks.get(name) is not o.sink]
        for name, sink in sinks.items():
            known = self._outboxes.get(name)
            if known is not None:
                known.sink = sink
                continue
            self._outboxes[name] = Outbox(self._store, sink, self._random, kind_of(name), name, self._limits)
        self._outboxes = {name: self._outboxes[name] for name in sinks}
        self._relay.set_outboxes(self._outboxes)
        self._changed.set()

    def wake(self, added: int = 1) -> None:
        """The journal has committed this many more notifications. Call it on the event loop."""
        self._relay.wake(added)

    async def drained(self, timeout_s: float) -> bool:
        """Waits until nobody is left to be told anything. False: somebody is, after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                for drain in (self._relay, *self._outboxes.values()):
                    await drain.drained(timeout_s)
        except TimeoutError:
            return False
        return all(drain.backlog == 0 for drain in (self._relay, *self._outboxes.values()))

    async def run(self) -> None:
        """Until it is cancelled. Who stays is not interrupted in the middle of what it does when others come or go."""
        tasks: dict[Drain, asyncio.Task[None]] = {}
        try:
            while True:
                self._changed.clear()
                drains = (self._relay, *self._outboxes.values())
                await _ended([tasks.pop(drain) for drain in list(tasks) if drain not in drains])
                tasks.update({drain: asyncio.create_task(drain.run()) for drain in drains if drain not in tasks})
                left, self._left = self._left, []
                await _closed(left)
                await self._changed.wait()
        finally:
            await _ended(list(tasks.values()))
            await _closed([outbox.sink for outbox in self._outboxes.values()])

    def figures(self) -> Sequence[Delivery]:
        """Of everybody. What the relay has not given out yet waits for all."""
        waiting = self._relay.backlog
        return [
            Delivery(
                name=name,
                backlog=outbox.backlog + waiting,
                published=outbox.published,
                failures=outbox.failures,
                rejected=outbox.rejected,
                dropped=outbox.dropped + self._relay.dropped,
                last_error=outbox.last_error,
            )
            for name, outbox in self._outboxes.items()
        ]


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _closed(sinks: Sequence[Sink]) -> None:
    """Or not, where somebody hangs."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await asyncio.gather(*(sink.close() for sink in sinks), return_exceptions=True)


def waits(delivery: Delivery) -> str:
    """What somebody should see to; empty: nothing."""
    if not delivery.backlog or not delivery.last_error:
        return ""
    return f"{delivery.backlog} notifications wait for {delivery.name}: {delivery.last_error}"


class Relay(Drain):
    """Gives what the journal wrote to every outbox, all in one write: none gets it twice or not at all by a crash in between."""

    def __init__(self, store: Store, random: Random, limits: Limits = LIMITS) -> None:
        super().__init__(store, random, KIND, "all who are told", limits)
        self.set_outboxes({})

    def set_outboxes(self, outboxes: Mapping[str, Outbox]) -> None:
        """Others from now on."""
        self._outboxes = dict(outboxes)
        self._told = False  # the store knows of them

    async def _begin(self) -> None:
        """Before anything is given to them, the store knows for whom something may be kept."""
        if self._told:
            return
        names = sorted(self._outboxes)
        document = await self._call(self._store.get, KNOWN, KNOWN)
        known = _names(document)
        for name in sorted(known - set(names)):
            await self._forget(name)
        if known != set(names):
            put = Put(kind=KNOWN, key=KNOWN, body=msgspec.json.encode(names))
            await self._call(self._store.commit, None, [put])
        self._told = True

    async def _forget(self, name: str) -> None:
        kind, dropped = kind_of(name), 0
        while documents := await self._call(self._store.list, kind, FORGET_AT_ONCE):
            await self._call(self._store.commit, None, [Delete(kind=kind, key=d.key) for d in documents])
            dropped += len(documents)
        if dropped:
            log.error("%d notifications for %s were dropped: it is not configured any more", dropped, name)

    async def _take(self, batch: Sequence[Document]) -> str | None:
        """All of them, to everybody."""
        puts = [Put(kind=kind_of(name), key=d.key, body=d.body) for d in batch for name in self._outboxes]
        await self._delete(batch, puts)
        for outbox in self._outboxes.values():
            outbox.wake(len(batch))
        return None


def kind_of(name: str) -> str:
    """Of the documents that wait for one of them."""
    return f"{KIND}.{name}"


def _names(document: Document | None) -> set[str]:
    if document is None:
        return set()
    try:
        return set(msgspec.json.decode(document.body, type=list[str]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        log.error("the store's list of who is told cannot be read; it is written anew")
        return set()
