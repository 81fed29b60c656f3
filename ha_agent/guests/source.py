"""The remote's side of the watcher: starts it, kills it when it says nothing, keeps the ledger, and answers from it.

No call to libvirt and none to the disk is made here, so nothing that hangs there can delay a heartbeat: libvirt is asked by a process of
its own (see `watcher`), and the disk is written in a thread that nobody waits for.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from ha_agent.aside import Aside
from ha_agent.guests import words
from ha_agent.guests.child import Child
from ha_agent.guests.keeper import Keeper
from ha_agent.guests.ledger import MAX_DOMAINS, Ledger, Saved
from ha_agent.guests.lines import LINE_MAX, Ask, Domain, Line
from ha_agent.model import Health, Presence, Value
from ha_agent.ports import Clock, GuestEvent, Random

ROOT = str(Path(__file__).resolve().parents[2])  # where the watcher finds our own package, installed or not
MAX_QUESTIONS = 256
WATCHER = (sys.executable, "-P", "-m", "ha_agent.guests")  # -P: nothing of the directory that somebody started it in

log = logging.getLogger(__name__)


class Timing(Value, frozen=True, kw_only=True):
    """Seconds. `silent_s`: a watcher that says nothing for so long hangs, and is killed; it speaks every 2 s while libvirt answers.
    `retry_min_s` to `retry_max_s`: before another is started. `answer_s`: how long a question may take. `unkept_s`: an event that is not on
    disk by then is told all the same."""

    silent_s: float = 10.0
    retry_min_s: float = 0.5
    retry_max_s: float = 10.0
    answer_s: float = 4.0
    unkept_s: float = 0.25


class LibvirtGuests:
    """ports.GuestSource and ports.GuestWatch. `read` and `write`: of what is kept; they block, and raise OSError (FileNotFoundError where
    nothing is kept). `run_directory`: where libvirt's QEMU driver keeps the pid files of its domains. `watcher`: the program."""

    def __init__(
        self,
        uri: str,
        *,
        read: Callable[[], bytes],
        write: Callable[[bytes], None],
        clock: Clock,
        random: Random,
        timing: Timing | None = None,
        run_directory: Path = Path("/run/libvirt/qemu"),
        watcher: Sequence[str] = WATCHER,
    ) -> None:
        self.timing = timing if timing is not None else Timing()
        self._uri = uri
        self._read = read
        self._write = write
        self._clock = clock
        self._random = random
        self._run_directory = run_directory
        self._watcher = watcher
        self._ledger = Ledger("", random.uuid)
        self._loaded = False
        self._version = 0  # that the keeper was told of
        self._keeper: Keeper | None = None
        self._watchers: list[Callable[[], None]] = []
        self._unkept: dict[str, int] = {}  # events that are on their way to the disk: the version that holds them
        self._child = Child(self._start, LINE_MAX)
        self._listing: list[Domain] = []
        self._connected = False
        self._numbers = itertools.count(1)
        self._questions: dict[int, asyncio.Future[Presence]] = {}
        self._trouble = ""

    @property
    def pid(self) -> int | None:
        """Of the watcher that runs now."""
        return self._child.pid

    # --- ports.GuestWatch ---

    async def run(self, boot_id: str) -> None:
        """See ports.GuestWatch."""
        await self._load(boot_id)
        keeper = self._keeper = Keeper(self._write, self._newest)
        keeping = asyncio.create_task(keeper.run(self._kept))
        wait_s = self.timing.retry_min_s
        try:
            while True:
                heard = False
                try:
                    heard = await self._watch()
                except Exception:  # a bug here must not end the watch over the guests
                    log.exception("the watch over the guests failed; it begins again")
                wait_s = self.timing.retry_min_s if heard else min(self.timing.retry_max_s, 2 * wait_s)
                await asyncio.sleep(self._random.uniform(wait_s / 2, wait_s))
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    def ready(self) -> Sequence[GuestEvent]:
        """On disk, or too long on the way there to wait for. Empty until what was kept before is read."""
        if not self._loaded:
            return ()
        return tuple(event for event in self._ledger.events if event.id not in self._unkept)

    def acknowledge(self, ids: Collection[str]) -> None:
        """See ports.GuestWatch."""
        self._ledger.acknowledge(ids)
        self._changed(())

    def watch(self, more: Callable[[], None]) -> Callable[[], None]:
        """See ports.GuestWatch."""
        self._watchers.append(more)
        return lambda: self._watchers.remove(more)

    @property
    def lost(self) -> int:
        """See ports.GuestWatch."""
        return self._ledger.lost

    # --- ports.GuestSource ---

    async def look(self, server: str) -> Presence:
        """Asks libvirt now. Only its own word that there is no such domain counts as absent."""
        if not self._connected or len(self._questions) >= MAX_QUESTIONS:
            return Presence(present=None)
        number = next(self._numbers)
        answer: asyncio.Future[Presence] = asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        try:
            self._child.write(msgspec.json.encode(Ask(number=number, server=server[:64])) + b"\n")
            async with asyncio.timeout(self.timing.answer_s):
                return await answer
        except TimeoutError:
            return Presence(present=None)
        finally:
            self._questions.pop(number, None)

    def health(self) -> Health:
        """UP while libvirt answers the watcher."""
        return Health.UP if self._connected else Health.DOWN if self._trouble else Health.UNKNOWN

    # --- what is kept ---

    async def _load(self, boot_id: str) -> None:
        """What an earlier life has kept. What cannot be read is said, and overwritten."""
        self._ledger = Ledger(boot_id, self._random.uuid)
        try:
            self._ledger.load(msgspec.json.decode(await Aside("guests").run(self._read, None), type=Saved))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError) as error:  # msgspec.DecodeError is a ValueError
            log.error("guest events of an earlier life cannot be read and are lost: %s", error)
        self._loaded = True
        self._tell()

    def _newest(self) -> tuple[int, bytes]:
        return self._ledger.version, msgspec.json.encode(self._ledger.saved())

    def _changed(self, added: Sequence[GuestEvent]) -> None:
        version = self._ledger.version
        if version != self._version and self._keeper is not None:
            self._version = version
            self._keeper.changed()
        self._unkept.update({event.id: version for event in added})
        if added:  # a disk that hangs delays them a little, and holds none back
            asyncio.get_running_loop().call_later(self.timing.unkept_s, self._release, version)

    def _kept(self) -> None:
        assert self._keeper is not None
        self._release(self._keeper.stored)

    def _release(self, version: int) -> None:
        if self._unkept:
            self._unkept = {key: needs for key, needs in self._unkept.items() if needs > version}
            self._tell()

    def _tell(self) -> None:
        for more in list(self._watchers):
            more()

    # --- the watcher ---

    async def _watch(self) -> bool:
        """One life of a watcher, from start to death. Whether libvirt listed its domains in it."""
        if self._child.busy:
            return False  # not even a kill ends it, or a disk that hangs has not let it start yet
        heard = False
        self._listing = []
        try:
            said = await self._child.start(self.timing.silent_s)
            while True:
                async with asyncio.timeout(self.timing.silent_s):
                    body = await said.readline()
                if not body:
                    self._say(self._trouble or "the process that asks libvirt ended without a word")
                    return heard
                line = msgspec.json.decode(body, type=Line)
                heard = heard or line.kind == "listed"
                self._take(line)
        except TimeoutError:
            self._say(f"libvirt at {self._uri} has not answered for {self.timing.silent_s:g} s")
        except OSError as error:
            self._say(f"the process that asks libvirt cannot be started: {error.strerror or error}")
        except (ValueError, RecursionError):  # of msgspec, and of asyncio about a line that is too long
            self._say("the process that asks libvirt speaks no sense")
        finally:
            self._connected = False
            for answer in self._questions.values():
                if not answer.done():
                    answer.set_result(Presence(present=None))
            await self._child.end()
        return heard

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(
            filter(None, (ROOT, os.environ.get("PYTHONPATH")))
        )  # it finds what this process has found
        return subprocess.Popen(  # noqa: S603 -- no shell, and the program is ours
            [*self._watcher, self._uri, str(self._run_directory), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # a group of its own: what the terminal sends to us is not for it
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONPATH": path},
        )

    def _take(self, line: Line) -> None:
        added: Sequence[GuestEvent] = ()
        match line:
            case Line(kind="domain", domain=Domain() as domain) if len(self._listing) < MAX_DOMAINS:
                self._listing.append(domain)
            case Line(kind="listed", at=at):
                added = self._ledger.listed(self._listing, at)
                self._say("")
                self._connected, self._listing = True, []
            case Line(kind="event", event=event) if event is not None:
                added = self._ledger.happened(event)
            case Line(kind="settled", domain=Domain() as domain, at=at):
                added = self._ledger.settled(domain, at)
            case Line(kind="alive", at=at):
                self._ledger.alive(at)
            case Line(kind="answer", number=number):
                answer = self._questions.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(_presence(line))
            case Line(kind="end", text=text):
                self._say(text)
        self._changed(added)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("guests are not watched: %s", trouble)
        elif not trouble and not self._connected:
            log.info("guests are watched through %s", self._uri)
        self._trouble = trouble


def _presence(line: Line) -> Presence:
    domain = line.domain
    if line.unsure or domain is None:
        return Presence(present=None if line.unsure else False)
    fault = words.standing(domain.state, domain.reason)
    return Presence(
        present=True,
        start=domain.start,
        state=words.state_name(domain.state),
        fault=fault[0] if fault is not None else "",
    )
