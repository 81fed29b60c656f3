"""Log lines on their way to stderr, without waiting for it: a journal that hangs must not stop a heartbeat, nor who listens to them.

journald reads stderr of a daemon through a socket. When its disk hangs, the socket fills, and whoever writes to it waits.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from typing import TextIO

WAITING = 1000  # lines
FORMAT = "%(levelname)s %(name)s: %(message)s"


class Patient(logging.Handler):
    """Hands lines to a thread that writes them. Those that find WAITING others before them are dropped, and counted in the log."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(FORMAT))
        self._stream = stream
        self._lines: queue.Queue[str] = queue.Queue(WAITING)
        self._dropped = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def drain(self, deadline_s: float) -> None:
        """Waits until all lines are written, or the deadline has passed: before the process ends."""
        end = time.monotonic() + deadline_s
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.005)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            dropped, self._dropped = self._dropped, 0
            if dropped:
                line += f"\nWARNING {__name__}: {dropped} lines were lost: nobody took them from stderr"
            with contextlib.suppress(OSError, ValueError):  # nobody listens any more
                self._stream.write(line + "\n")
                self._stream.flush()
            self._lines.task_done()


def to(stream: TextIO) -> Patient:
    """All logging of this process goes there. Returns the handler, to be drained at the end."""
    handler = Patient(stream)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return handler
