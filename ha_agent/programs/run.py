"""Runs one foreign program to its end or to ours: its input on stdin, its output bounded, and nothing of it alive afterwards."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from ha_agent.errors import DriverError, OutOfTime
from ha_agent.programs import below

OUTPUT_MAX = 65536
CHUNK = 8192
LEFT_MAX = 256  # chunks: more than a pipe holds
# Nothing of our own environment, which may hold secrets, or another Python's modules.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/",
}


class Ran(NamedTuple):
    """How it ended. `code`: its exit code, negative for a signal. `out`, `err`: the first (or last) OUTPUT_MAX bytes of each."""

    code: int
    out: bytes
    err: bytes


def run(command: list[str], given: bytes, timeout_s: float, *, last: bool = False) -> Ran:
    """Runs it with `given` on stdin, for at most `timeout_s`. `last`: the end of its output is kept, not the beginning. When it returns or
    raises, nothing is alive below this process, so this is for workers only, which run one thing at a time. Raises DriverError (it never
    ran), OutOfTime (it was killed; what it did is unknown)."""
    ends = time.clock_gettime(time.CLOCK_BOOTTIME) + timeout_s
    if not below.supported():
        raise DriverError(
            "this kernel does not say which children a process has (CONFIG_PROC_CHILDREN): foreign programs are not run"
        )

    def before() -> None:
        below.die_with_parent()
        # The kernel's own end of it, which outlasts the exec: an agent that was frozen together with us, and thawed, dies
        # of the alarm before it does anything more.
        signal.setitimer(signal.ITIMER_REAL, max(timeout_s, 0.001))

    stdin = os.memfd_create("stdin")  # unlike a pipe it takes all at once, whether anybody reads it or not
    try:
        with os.fdopen(os.dup(stdin), "wb") as file:
            file.write(given)
        os.lseek(stdin, 0, os.SEEK_SET)
        process = subprocess.Popen(  # noqa: S603  # the operator's own choice, checked by the caller
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,  # no terminal to ask a person for a password
            preexec_fn=before,  # noqa: PLW1509  # a worker has one thread
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DriverError(f"{command[0]} cannot be started: {getattr(error, 'strerror', None) or error}") from None
    finally:
        os.close(stdin)
    try:
        return _follow(process, ends, Path(command[0]).name, last=last)
    finally:
        below.end_all()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _follow(process: subprocess.Popen[bytes], ends: float, name: str, *, last: bool) -> Ran:
    assert process.stdout is not None
    assert process.stderr is not None
    output = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    ended = os.pidfd_open(process.pid)
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        stack.callback(os.close, ended)
        selector.register(ended, selectors.EVENT_READ)
        for descriptor in output:
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        while True:
            left = ends - time.clock_gettime(time.CLOCK_BOOTTIME)
            ready = {key.fd for key, _ in selector.select(max(left, 0))}
            if left <= 0 and ended not in ready:
                raise OutOfTime(f"{name} did not end in time and was killed")
            for descriptor in ready - {ended}:
                if not _take(descriptor, output[descriptor], last=last):
                    selector.unregister(descriptor)
            if ended in ready:  # what it started may still hold the pipes: nobody waits for that
                for descriptor, taken in output.items():
                    for _ in range(LEFT_MAX):  # of what may still print, without end
                        if not _take(descriptor, taken, last=last):
                            break
                out, err = (bytes(taken) for taken in output.values())
                code = process.wait()
                if code == -signal.SIGALRM:  # our own alarm came first
                    raise OutOfTime(f"{name} did not end in time and was killed")
                return Ran(code, out, err)


def _take(descriptor: int, into: bytearray, *, last: bool) -> bool:
    """Reads what is there; beyond the bound it is dropped. Returns whether there was anything."""
    try:
        piece = os.read(descriptor, CHUNK)
    except BlockingIOError:
        return False
    if last:
        into += piece
        del into[:-OUTPUT_MAX]
    else:
        into += piece[: OUTPUT_MAX - len(into)]
    return bool(piece)
