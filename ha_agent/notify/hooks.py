"""Hooks: programs of the operator, run for every notification, which they read as a CloudEvent on stdin.

Each runs below a helper of its own (see `hook_run`), as the daemon's user, for so long at most; then it and all that it started is killed.
0: done. 75 (EX_TEMPFAIL): tell me again later. Anything else is noted with the end of its output, and not tried again: only the hook
knows what it had done by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from ha_agent.errors import DriverError, Rejected
from ha_agent.model import Notification
from ha_agent.notify import cloudevent
from ha_agent.notify.hook_run import Ended

AGAIN = os.EX_TEMPFAIL
AT_ONCE = 4  # hooks that run at the same time
GRACE_S = 5.0  # for the helper, beyond the hook's own time
END_S = 2.0  # in which the helper, told to end, has ended what is below it
ANSWER_MAX = 65536

log = logging.getLogger(__name__)


class Hook:
    """Implements ports.Sink. `source`: of the events; `timeout_s`: for one run; `slots`: shared by all hooks; `now`: seconds that only
    grow. `last`: how the newest run ended."""

    def __init__(
        self,
        program: Path,
        source: str,
        slots: asyncio.Semaphore,
        now: Callable[[], float],
        *,
        timeout_s: float = 30.0,
        python: str = sys.executable,
    ) -> None:
        self.program = program
        self._source = source
        self._slots = slots
        self._now = now
        self._timeout_s = timeout_s
        self._python = python
        self.last: Ended | None = None

    async def publish(self, notification: Notification) -> None:
        """One run."""
        body = cloudevent.encode(notification, self._source)
        async with self._slots:
            began = self._now()
            ended = self.last = await self._run(body)
            took_s = self._now() - began
        how = ended.problem or f"it ended with {ended.code}"
        if ended.code == 0:
            log.info("hook %s: %s: done in %.1f s", self.program.name, notification.event_type, took_s)
        elif ended.code == AGAIN:
            raise DriverError(f"it asks to be told again ({AGAIN}){_said(ended)}")
        else:
            raise Rejected(f"{how}{_said(ended)}")

    async def close(self) -> None:
        """Nothing is kept."""

    async def _run(self, body: bytes) -> Ended:
        # -P: nothing of the directory that somebody started us in
        command = (self._python, "-P", "-m", "ha_agent.notify.hook_run", str(self.program), str(self._timeout_s))
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=ANSWER_MAX
            )
        except OSError as error:
            raise DriverError(f"it cannot be started: {error.strerror}") from None
        try:
            async with asyncio.timeout(self._timeout_s + GRACE_S):
                out, _ = await process.communicate(body)
        except TimeoutError:
            return Ended(problem=f"it did not end within {self._timeout_s:g} s, nor did its helper")
        finally:
            if process.returncode is None:
                await _end(process)
        try:
            return msgspec.json.decode(out, type=Ended)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise DriverError(f"its helper ended with {process.returncode} and did not say how the hook did") from None


async def _end(process: asyncio.subprocess.Process) -> None:
    """The helper ends what is below it, and itself."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def _said(ended: Ended) -> str:
    return f"; it said: {ended.tail}" if ended.tail else ""
