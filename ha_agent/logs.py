"""Log lines on their way out, without waiting for whoever takes them: a journal that hangs must not stop a heartbeat, nor who listens to them.

journald reads stderr of a daemon through a socket. When its disk hangs, the socket fills, and whoever writes to it waits.
Where python-systemd is installed and stderr is the journal, a line goes there with its fields: `journalctl HA_AGENT_HOST=compute-1`.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TextIO

WAITING = 1000  # lines
FORMAT = "%(levelname)s %(name)s: %(message)s"
FIELDS = "ha_agent_fields"  # of a LogRecord
# syslog(3)
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

Write = Callable[[logging.LogRecord], None]


class Patient(logging.Handler):
    """Hands lines to a thread that writes them. Those that find WAITING others before them are dropped, and counted in the log."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self._to = write
        self._lines: queue.Queue[logging.LogRecord] = queue.Queue(WAITING)
        self._dropped = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits."""
        record = copy.copy(record)  # others handle it, too
        record.msg, record.args = record.getMessage(), None  # now: what it is about may change until it is written
        try:
            self._lines.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def drain(self, deadline_s: float) -> None:
        """Waits until all lines are written, or the deadline has passed: before the process ends."""
        end = time.monotonic() + deadline_s
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.005)

    def _write(self) -> None:
        while True:
            record = self._lines.get()
            dropped, self._dropped = self._dropped, 0
            with contextlib.suppress(Exception):  # nobody listens any more, or it has no text: the next one may
                self._to(record)
                if dropped:
                    self._to(_lost(dropped))
            self._lines.task_done()


def _lost(count: int) -> logging.LogRecord:
    text = f"{count} lines were lost: nobody took them from us"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)


def about(host: str = "", incident: str = "", step: str = "") -> dict[str, object]:
    """For `extra=` of a log call: what the line is about, as fields of the journal. What is empty is left out."""
    said = {"HA_AGENT_HOST": host, "HA_AGENT_INCIDENT": incident, "HA_AGENT_STEP": step}
    return {FIELDS: {name: value for name, value in said.items() if value}}


def plain(stream: TextIO) -> Write:
    """Lines of text."""
    formatter = logging.Formatter(FORMAT)

    def write(record: logging.LogRecord) -> None:
        stream.write(formatter.format(record) + "\n")
        stream.flush()

    return write


def journal(send: Callable[..., object]) -> Write:
    """Entries of the journal. `send`: systemd.journal.send."""
    formatter = logging.Formatter("%(message)s")

    def write(record: logging.LogRecord) -> None:
        send(
            formatter.format(record),
            PRIORITY=next((number for level, number in PRIORITIES if record.levelno >= level), 7),
            SYSLOG_IDENTIFIER="ha-agent",
            LOGGER=record.name,
            CODE_FILE=record.pathname,
            CODE_LINE=record.lineno,
            CODE_FUNC=record.funcName or "",
            **getattr(record, FIELDS, {}),
        )

    return write


def is_journal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether it leads to journald: $JOURNAL_STREAM, see systemd.exec(5)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def to(stream: TextIO, *, fields: bool = False) -> Patient:
    """All logging of this process goes there. Returns the handler, to be drained at the end. `fields`: with them, where it is the journal and
    python-systemd is installed."""
    write = plain(stream)
    if fields and is_journal(stream):
        with contextlib.suppress(ImportError):
            from systemd.journal import send

            write = journal(send)
    handler = Patient(write)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return handler
