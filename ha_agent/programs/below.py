"""The processes below one of ours: found by the kernel's own books and killed, whatever they did to get away.

A worker is a subreaper, so what it started stays below it, in a session of its own or orphaned twice.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ROUNDS = 200
PAUSE_S = 0.005

_libc = ctypes.CDLL(None)


def supported() -> bool:
    """Whether this kernel says which children a process has (CONFIG_PROC_CHILDREN; every distribution sets it)."""
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def die_with_parent(of: signal.Signals = signal.SIGKILL) -> None:
    """The kernel sends this process a signal when its parent ends."""
    _libc.prctl(PR_SET_PDEATHSIG, of, 0, 0, 0)


def adopt_orphans() -> None:
    """What this process starts stays below it also when its own parent ends."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def living(pid: int) -> list[int]:
    """Every process below `pid` that has not ended."""
    found = []
    waiting = [pid]
    seen = {pid}
    while waiting:
        for child in _children(waiting.pop()):
            if child not in seen:
                seen.add(child)
                waiting.append(child)
                if _state(child) not in ("Z", "X", ""):
                    found.append(child)
    return found


def strike(pid: int) -> bool:
    """One round: SIGKILL to every process that is below `pid` now, also to frozen ones. Returns whether there was any."""
    targets = living(pid)
    for target in targets:
        with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to another user
            descriptor = os.pidfd_open(target)
            try:
                # Looked at again under the descriptor: a number that was reused since is nobody of ours.
                if target in living(pid):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)
    return bool(targets)


def end_all() -> None:
    """Nothing is alive below this process when it returns, and nothing waits to be collected. Blocking, bounded to a second."""
    for _ in range(ROUNDS):
        if not strike(os.getpid()):
            break
        time.sleep(PAUSE_S)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return ""
