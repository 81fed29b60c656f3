"""The gate: nova-compute of a host that failed must not start before a controller says that the host is settled.

Its remote keeps the gate. It is open in the boot for which a controller (or an audited person) has opened it, and only in that one:
a new boot id closes it again, and so does a host that never had one. No time-out opens it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from ha_agent.aside import Aside
from ha_agent.errors import DriverError, HaAgentError, Unanswered, UsageError
from ha_agent.heartbeat import control
from ha_agent.heartbeat.files import append_durably, write_durably
from ha_agent.model import Value
from ha_agent.ports import Clock

STATE = "gate.json"
AUDIT = "gate-audit.jsonl"
STATE_MAX = 64 * 1024
STORE_S = 8.0  # less than a client of the socket waits for its answer


class Cleared(Value, frozen=True, kw_only=True):
    """What gate.json holds: the boot that may run nova-compute, who said so, and when (Unix seconds, display only)."""

    boot_id: str
    by: str
    wall: float
    version: int = 1


class Override(Value, frozen=True, kw_only=True):
    """One line of the audit file."""

    uid: int
    pid: int
    reason: str
    boot_id: str
    wall: float


class Gate:
    """The gate of one host, closed until `recall` has found otherwise. `boot_id`: of this boot. The files are in `directory`; a disk that
    hangs keeps the gate as it is, and stops nothing else. `recalled`: whether the files have been looked at."""

    def __init__(self, directory: Path, boot_id: str, clock: Clock) -> None:
        self.boot_id = boot_id
        self.waiting = 0  # how many starts of nova-compute wait
        self.recalled = False
        self._directory = directory
        self._clock = clock
        self._writing = asyncio.Lock()
        self._opened = asyncio.Event()
        self._aside = Aside("gate")

    @property
    def is_open(self) -> bool:
        """Whether nova-compute may start."""
        return self._opened.is_set()

    async def recall(self) -> None:
        """Reads what is stored, however long that takes; makes the directory where there is none. Raises UsageError where it cannot."""
        try:
            cleared = await self._aside.run(self._read, None)
        except OSError as error:
            raise UsageError(f"{self._directory} cannot be made: {error.strerror or error}") from None
        self.recalled = True
        if cleared is not None and cleared.boot_id == self.boot_id:
            self._opened.set()

    async def wait(self) -> None:
        """Returns when the gate is open, whenever that is."""
        self.waiting += 1
        try:
            await self._opened.wait()
        finally:
            self.waiting -= 1

    async def open(self, boot_id: str, by: str) -> None:
        """Opens it for `boot_id`; on disk when it returns. Raises DriverError: another boot, or it cannot be stored. Raises Unanswered
        where the disk takes too long: whether it will be stored is unknown, and it stays closed."""
        if boot_id != self.boot_id:
            raise DriverError(f"this host is in boot {self.boot_id}, not in {boot_id}")
        cleared = Cleared(boot_id=boot_id, by=by, wall=self._clock.wall())
        async with self._writing:
            if self.is_open:
                return
            state = msgspec.json.encode(cleared)
            try:
                await self._aside.run(lambda: write_durably(self._directory / STATE, state, 0o640), STORE_S)
            except TimeoutError:
                raise Unanswered(f"the gate's state is not stored after {STORE_S:g} s: the disk hangs") from None
            except OSError as error:
                raise DriverError(f"the gate's state cannot be stored: {error.strerror or error}") from None
            self._opened.set()

    async def override(self, uid: int, pid: int, reason: str) -> None:
        """A person opens it. First the audit, then the gate. Raises DriverError where either cannot be stored, Unanswered as `open`."""
        line = msgspec.json.encode(
            Override(uid=uid, pid=pid, reason=reason, boot_id=self.boot_id, wall=self._clock.wall())
        )
        try:
            await self._aside.run(lambda: append_durably(self._directory / AUDIT, line, 0o640), STORE_S)
        except TimeoutError:
            raise Unanswered(f"the override is not audited after {STORE_S:g} s: the disk hangs") from None
        except OSError as error:
            raise DriverError(f"the override cannot be audited: {error.strerror or error}") from None
        await self.open(self.boot_id, f"uid {uid}")

    def _read(self) -> Cleared | None:
        """What is stored, None where a file cannot be read: it opens nothing. Raises OSError where there can be no directory."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        try:
            with (self._directory / STATE).open("rb") as file:
                return msgspec.json.decode(file.read(STATE_MAX), type=Cleared)
        except (OSError, ValueError, RecursionError):  # msgspec.DecodeError is a ValueError
            return None


# --- what `ha-agent remote gate` runs ----------------------------------------------------------------------------------


async def wait(socket_path: Path, say: Callable[[str], None] = print, retry_s: float = 2.0) -> None:
    """Returns when the gate is open, and never otherwise. `say` gets a line each time that what it waits for changes."""
    said = ""
    while True:
        try:
            async for state in control.gate_states(socket_path):
                if state.open:
                    say(f"gate: open for boot {state.boot_id}")
                    return
                text = f"gate: boot {state.boot_id} waits for a controller's word that this host is settled"
                said = _once(say, text, said)
        except (OSError, HaAgentError) as error:
            said = _once(say, f"gate: waits for the remote at {socket_path}: {error}", said)
        await asyncio.sleep(retry_s)


async def override(socket_path: Path, reason: str) -> None:
    """Opens the gate by hand; audited with the caller's uid. Raises UsageError: not allowed, or the remote is not there."""
    try:
        answer = await control.ask(socket_path, control.AskOverride(reason=reason))
    except OSError as error:
        raise UsageError(
            f"the remote does not answer at {socket_path}: {error}", "start ha-agent-remote: it keeps the gate"
        ) from None
    if isinstance(answer, control.Failure):
        raise UsageError(answer.error, answer.hint)


def _once(say: Callable[[str], None], text: str, said: str) -> str:
    if text != said:
        say(text)
    return text
