"""ports.Monitor: a link to every host's remote. What they see goes to one callback; no work here grows with the number of hosts
but for what arrives from them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from ha_agent.errors import DriverError, UsageError
from ha_agent.heartbeat.channel import Channel
from ha_agent.heartbeat.counters import Counters
from ha_agent.heartbeat.credentials import Change, Credentials
from ha_agent.heartbeat.expiry import Note, Reminder, Thresholds, authority_days, days_left, notes, own_days, stale
from ha_agent.heartbeat.link import Endpoint, Link, MonitorOptions, Shared, Word, judged
from ha_agent.heartbeat.reach import reach
from ha_agent.model import Answer, Presence
from ha_agent.ports import Clock, Observer, ProbeAnswered, Random

log = logging.getLogger(__name__)

SPREAD_S = 0.002  # the first dials are spread over this much per host: a TLS handshake costs about a millisecond of CPU
MAX_OWN_PROBES = 256
REMIND_S = 600.0
LOOKS = 20  # at certificates, in a round


class Monitor:
    """The heartbeats of one controller. `directory`: its PKI files; its name is the one in its certificate, `controller`."""

    def __init__(
        self,
        directory: Path,
        hosts: Mapping[str, Endpoint],
        observe: Observer,
        clock: Clock,
        random: Random,
        options: MonitorOptions | None = None,
        counters: Counters | None = None,
    ) -> None:
        """Raises UsageError where the PKI files cannot be used, or are a host's."""
        self.credentials = Credentials(directory)
        self.name = self.credentials.name
        if self.credentials.role != "controller":
            raise UsageError(
                f"{directory / 'cert.pem'} is a host's", "issue one with `ha-agent pki issue controller NAME`"
            )
        self.counters = counters if counters is not None else Counters()
        self._hosts = dict(hosts)
        self._shared = Shared(
            name=self.name,
            observe=observe,
            clock=clock,
            random=random,
            options=options if options is not None else MonitorOptions(),
            credentials=self.credentials,
            counters=self.counters,
        )
        self._links: dict[str, Link] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._own: set[asyncio.Task[None]] = set()
        self._beside: list[asyncio.Task[None]] = []
        self._started = False

    @property
    def expiry(self) -> Thresholds:
        """From when on the end of a certificate is told."""
        return self._shared.options.expiry

    async def start(self) -> None:
        """Dials every host."""
        self._started = True
        watch = self.credentials.watch(self._shared.options.pki_poll_s, self._reconsider)
        loop = asyncio.get_running_loop()
        self._beside = [loop.create_task(each) for each in (watch, self._remind(), self._look_again())]
        self.set_hosts(self._hosts)

    async def stop(self) -> None:
        """Ends every connection. Nothing is observed any more when it returns."""
        self._started = False
        for host in list(self._links):
            self._remove(host)
        own = [*self._own, *self._beside]
        for task in own:
            task.cancel()
        await asyncio.gather(*self._ending, *own, return_exceptions=True)
        self.credentials.close()

    def set_hosts(self, hosts: Mapping[str, Endpoint]) -> None:
        """The hosts from now on. Links to hosts that stay where they are stay as they are."""
        self._hosts = dict(hosts)
        if not self._started:
            return
        for host, link in list(self._links.items()):
            known = self._hosts.get(host)
            if known is None or (known.address, known.port) != (link.endpoint.address, link.endpoint.port):
                self._remove(host)
        missing = [host for host in self._hosts if host not in self._links]
        for host in missing:
            link = self._links[host] = Link(host, self._hosts[host], self._shared)
            wait_s = self._shared.random.uniform(0.0, SPREAD_S * len(missing))
            self._runs[host] = asyncio.get_running_loop().create_task(self._run(link, wait_s))

    def set_claim(self, store_id: str, epoch: int) -> None:
        """What this controller claims: its store, and the epoch that it leads in; 0 while it does not lead."""
        if (store_id, epoch) != (self._shared.store_id, self._shared.epoch):
            self._shared.store_id, self._shared.epoch = store_id, epoch
            for link in self._links.values():
                link.claim()

    def connected(self) -> frozenset[str]:
        """The hosts whose remote is connected now."""
        return frozenset(host for host, link in self._links.items() if link.connected)

    def probe(self, witness: str, target: str, nonce: str, deadline_s: float) -> None:
        """Asks `witness` (a host, or this controller by its own name: a fresh dial) to reach `target`. A ProbeAnswered always
        follows, never before this returns."""
        endpoint = self._hosts.get(target)
        link = self._links.get(witness)
        if endpoint is not None and link is not None:
            link.probe(target, endpoint, nonce, deadline_s)
        elif endpoint is not None and witness == self.name and len(self._own) < MAX_OWN_PROBES:
            task = asyncio.get_running_loop().create_task(self._reach(target, endpoint, nonce, deadline_s))
            self._own.add(task)
            task.add_done_callback(self._own.discard)
        else:
            asyncio.get_running_loop().call_soon(self._answer, witness, target, nonce, Word(answer=Answer.FAILED))

    async def open_gate(self, host: str, boot_id: str, deadline_s: float) -> None:
        """As ports.Monitor says. Unanswered where the acknowledgement was lost: it can be asked again without harm."""
        await self._link(host).open_gate(boot_id, deadline_s)

    async def domain(self, host: str, server: str, deadline_s: float) -> Presence:
        """As ports.Monitor says. Raises DriverError where the remote is not connected, Unanswered where it does not answer."""
        return await self._link(host).domain(server, deadline_s)

    def acknowledge(self, host: str, report: str) -> None:
        """As ports.Monitor says."""
        link = self._links.get(host)
        if link is not None:
            link.acknowledge(report)

    def _link(self, host: str) -> Link:
        link = self._links.get(host)
        if link is None:
            raise DriverError(f"{host} is no known host")
        return link

    def certificate_days(self) -> Mapping[str, float]:
        """Per host: until the newest certificate ends that it has shown, at a connection or to a witness."""
        wall = self._shared.clock.wall()
        return {host: days_left(peer.not_after, wall) for host, peer in self._shared.peers.items()}

    def pki_days(self) -> Mapping[str, float]:
        """Until our own certificate and the last authority that we trust end."""
        wall = self._shared.clock.wall()
        days = {"certificate_days": own_days, "authority_days": authority_days}
        return {name: of(self.credentials, wall) for name, of in days.items()}

    def notes(self) -> list[Note]:
        """Certificates and PKI files that somebody should see to."""
        shared = self._shared
        return notes(self.credentials, shared.peers.values(), shared.clock.wall(), shared.options.expiry)

    async def _look_again(self) -> None:
        """Of whose certificate somebody is told shows us in a connection of its own whether it has another one by now."""
        shared, options = self._shared, self._shared.options
        looked: dict[str, float] = {}
        while True:
            await asyncio.sleep(options.look_s)
            old = stale(self.credentials, shared.peers.values(), shared.clock.wall(), options.expiry)
            names = sorted(
                (peer.name for peer in old if peer.name in self._hosts), key=lambda name: looked.get(name, 0.0)
            )
            looked = {name: looked[name] for name in names if name in looked}
            for name in names[:LOOKS]:
                looked[name] = asyncio.get_running_loop().time()
                await self._reached(name, self._hosts[name], shared.random.nonce(), options.dial_s)

    async def _remind(self) -> None:
        reminder = Reminder()
        while True:
            await asyncio.sleep(REMIND_S)
            reminder.remind(self.notes(), self._shared.clock.now())

    def _reconsider(self, change: Change) -> None:
        """After a change of the credentials. Who is revoked leaves at once. Where an authority was removed, all that it vouched for come
        back with another certificate: they are spread, as after a start."""
        revoked: list[tuple[Channel, str]] = []
        distrusted: list[tuple[Channel, str]] = []
        for link in self._links.values():
            channel = link.channel
            if channel is not None and (why := self.credentials.outlived(channel.peer, change)):
                (revoked if self.credentials.revoked(channel.peer) else distrusted).append((channel, why))
        self.counters.closed_revoked += len(revoked) + len(distrusted)
        for channel, why in revoked:
            log.warning("a connection ends: %s", why)
            channel.abort(why)
        if distrusted:
            log.warning("%d connections end and are dialled again: %s", len(distrusted), distrusted[0][1])
        for channel, why in distrusted:
            wait_s = self._shared.random.uniform(0.0, SPREAD_S * len(distrusted))
            asyncio.get_running_loop().call_later(wait_s, channel.abort, why)

    def _remove(self, host: str) -> None:
        del self._links[host]
        self._shared.peers.pop(host, None)
        task = self._runs.pop(host)
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _run(self, link: Link, wait_s: float) -> None:
        """A link must never end by itself: an error of our own in it is logged, and it is started again."""
        while True:
            try:
                await link.run(wait_s)
            except Exception:
                log.exception("the link to %s failed; it is started again", link.host)
                wait_s = self._shared.options.retry_max_s

    async def _reach(self, target: str, endpoint: Endpoint, nonce: str, deadline_s: float) -> None:
        word = await self._reached(target, endpoint, nonce, deadline_s)
        self._answer(self.name, target, nonce, word)

    async def _reached(self, target: str, endpoint: Endpoint, nonce: str, deadline_s: float) -> Word:
        result = await reach(endpoint.probe(target, nonce, deadline_s), self.credentials, self._shared.clock)
        return judged(result, self._shared)

    def _answer(self, witness: str, target: str, nonce: str, word: Word) -> None:
        self._shared.observe(
            ProbeAnswered(
                host=target,
                at=self._shared.clock.now(),
                witness=witness,
                nonce=nonce,
                answer=word.answer,
                boot_id=word.boot_id,
                over=word.over,
            )
        )
