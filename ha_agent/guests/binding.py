"""libvirt-python behind watcher.Connection: the only module that knows it. One thread does everything, libvirt's event loop included."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import libvirt

from ha_agent.guests.lines import LINE_MAX, Domain, Happened
from ha_agent.guests.watcher import Away, Watcher

LIST_MS = 2000
KEEPALIVE_S, KEEPALIVE_COUNT = 3, 2
READ_MAX = 4096


def _line(error: libvirt.libvirtError) -> str:
    """What libvirt says, in one line."""
    return " ".join((error.get_error_message() or str(error)).split())


class LibvirtConnection:
    """See watcher.Connection. `heard` gets every event; `closed` is why the connection ended, empty while it stands."""

    def __init__(self, uri: str, run_directory: Path) -> None:
        """Raises Away."""
        self.closed = ""
        self._run = run_directory
        self._starts: dict[str, tuple[int, str]] = {}  # by uuid, of what runs: (libvirt's id, start)
        self._heard: Callable[[Happened], None] = lambda event: None
        try:
            self._libvirt = libvirt.openReadOnly(uri)
            self._libvirt.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
            self._libvirt.registerCloseCallback(self._close_heard, None)
        except libvirt.libvirtError as error:
            raise Away(_line(error)) from None

    def listen(self, heard: Callable[[Happened], None]) -> None:
        """Registers for everything that may be a fault of a guest. Raises Away."""
        self._heard = heard
        register = self._libvirt.domainEventRegisterAny
        try:
            register(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
            register(None, libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG, self._watchdog, None)
            register(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._reboot, None)
            register(None, libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR, self._io_error, None)
            register(None, libvirt.VIR_DOMAIN_EVENT_ID_CONTROL_ERROR, self._control_error, None)
        except libvirt.libvirtError as error:
            raise Away(_line(error)) from None

    def domains(self) -> Sequence[Domain]:
        """One call for all of them. Raises Away."""
        try:
            rows = self._libvirt.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
        except libvirt.libvirtError as error:
            raise Away(_line(error)) from None
        listed = [self._domain(row, stats["state.state"], stats["state.reason"]) for row, stats in rows]
        self._starts = {each.server: self._starts[each.server] for each in listed if each.start}
        return listed

    def look(self, server: str) -> Domain | None:
        """One domain. Raises Away."""
        try:
            row = self._libvirt.lookupByUUIDString(server)
            state, reason = row.state(0)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise Away(_line(error)) from None
        return self._domain(row, state, reason)

    # --- which start of a domain ---

    def _domain(self, row: Any, state: int, reason: int) -> Domain:
        return Domain(server=row.UUIDString(), start=self._start(row), state=state, reason=reason)

    def _start(self, row: Any) -> str:
        """libvirt's id of a domain grows with each start, but begins anew with libvirtd; with the moment in which its pid file was made
        it is the name of one start. Nobody but root sees the process itself."""
        number, server = row.ID(), row.UUIDString()
        if number < 0:
            self._starts.pop(server, None)
            return ""
        known = self._starts.get(server)
        if known is None or known[0] != number:
            try:
                made = (self._run / f"{row.name()}.pid").stat().st_mtime_ns
            except OSError:
                made = 0
            known = self._starts[server] = (number, f"{number}.{made}")
        return known[1]

    # --- callbacks ---

    def _tell(self, row: Any, what: Any, first: int = 0, second: int = 0, device: str = "") -> None:
        server = row.UUIDString()
        ended = self._starts.get(server)  # of the start that a "stopped" ends
        start = self._start(row) or (ended[1] if ended is not None else "")
        at = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._heard(
            Happened(server=server, at=at, what=what, first=first, second=second, start=start, device=device[:64])
        )

    def _lifecycle(self, _: Any, row: Any, event: int, detail: int, __: Any) -> None:
        self._tell(row, "lifecycle", event, detail)

    def _watchdog(self, _: Any, row: Any, action: int, __: Any) -> None:
        self._tell(row, "watchdog", action)

    def _reboot(self, _: Any, row: Any, __: Any) -> None:
        self._tell(row, "reboot")

    def _io_error(self, _: Any, row: Any, path: str, alias: str, action: int, __: Any) -> None:
        del path
        self._tell(row, "io_error", action, device=alias or "")

    def _control_error(self, _: Any, row: Any, __: Any) -> None:
        self._tell(row, "control_error")

    def _close_heard(self, _: Any, reason: int, __: Any) -> None:
        words = ("an error", "end of file", "it did not answer", "we closed it")
        self.closed = f"the connection to libvirt ended: {words[reason] if reason < len(words) else reason}"


class _Guard:
    """What is called from libvirt's loop must not raise: libvirt prints it and goes on. The first failure is kept, and ends the loop."""

    def __init__(self) -> None:
        self.failure: Exception | None = None

    def __call__(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:
            self.failure = self.failure or error


class _Questions:
    """What the remote asks on stdin."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._unread = b""

    def read(self) -> None:
        """Raises BrokenPipeError where the remote is gone, or speaks no lines."""
        more = os.read(0, READ_MAX)
        *lines, self._unread = (self._unread + more).split(b"\n")
        for line in lines:
            self._watcher.asked(line)
        if not more or len(self._unread) > LINE_MAX:
            raise BrokenPipeError


def serve(uri: str, run_directory: Path, watcher: Callable[[LibvirtConnection], Watcher]) -> None:
    """Until the connection, or the remote, ends. Raises Away, BrokenPipeError."""
    libvirt.virEventRegisterDefaultImpl()
    libvirt.registerErrorHandler(lambda *_: None, None)  # libvirt prints every error by itself
    connection, guard = LibvirtConnection(uri, run_directory), _Guard()
    watching = watcher(connection)
    connection.listen(lambda event: guard(watching.heard, event))
    watching.begin()
    questions = _Questions(watching)
    readable = libvirt.VIR_EVENT_HANDLE_READABLE | libvirt.VIR_EVENT_HANDLE_HANGUP | libvirt.VIR_EVENT_HANDLE_ERROR
    libvirt.virEventAddHandle(0, readable, lambda *_: guard(questions.read), None)
    libvirt.virEventAddTimeout(LIST_MS, lambda *_: guard(watching.again), None)
    while guard.failure is None and not connection.closed:
        libvirt.virEventRunDefaultImpl()
    raise Away(connection.closed) if guard.failure is None else guard.failure
