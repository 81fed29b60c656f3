"""`python -m ha_agent.guests URI RUN_DIRECTORY PARENT_PID`: the process that talks to libvirt for a remote. It dies with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

import msgspec

from ha_agent.guests.lines import Line
from ha_agent.guests.watcher import Away, Watcher
from ha_agent.system import SystemClock

PR_SET_PDEATHSIG = 1


def say(line: Line) -> None:
    """Writes a line; the parent always reads."""
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    """Serves the remote that started it, and says why it ends. Returns the exit code."""
    uri, run_directory, parent = sys.argv[1:]
    # safety: no watcher outlives its remote, whatever it hangs in
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        return 1
    try:
        try:
            from ha_agent.guests import binding

            binding.serve(uri, Path(run_directory), lambda connection: Watcher(connection, say, SystemClock()))
        except ImportError as error:
            say(Line(kind="end", text=f"libvirt-python cannot be loaded: {error}"[:255]))
        except Away as error:
            say(Line(kind="end", text=str(error)[:255]))
    except BrokenPipeError:
        pass  # nobody is there any more, or nobody we know
    return 0


if __name__ == "__main__":
    sys.exit(main())
