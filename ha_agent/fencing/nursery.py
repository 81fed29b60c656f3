"""Where fencing workers come from: one process that has loaded the drivers, and forks a worker whenever it is asked.

To start Python and to import a driver takes a quarter of a second of CPU, and when many hosts die together every one of them would wait for
that. A fork takes milliseconds. The nursery talks to no device and reads no secret. It dies with the controller, and its workers with it.

Started as `python -m ha_agent.fencing.nursery PARENT_PID`, a SOCK_SEQPACKET socket as its stdin. Asked `fork DRIVER…` with one end of a
connection, it answers the worker's pid with a descriptor of that process, or why there is none. `reap PID`: nobody needs that number any more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence

from ha_agent.fencing import drivers, worker

READY = b"ready"
FORK = "fork"
REAP = "reap"
MESSAGE_MAX = 4096


def main() -> None:
    """Serves until the controller closes its end."""
    worker.die_with(int(sys.argv[1]))
    own = os.getpid()
    with socket.socket(fileno=os.dup(0)) as asked:
        asked.send(READY)
        while True:
            message, given, _, _ = socket.recv_fds(asked, MESSAGE_MAX, 1)
            if not message:
                return
            kind, *words = message.decode().split()
            if kind == FORK and given:
                try:
                    _fork(asked, given[0], words, own)
                except (OSError, ImportError) as error:  # too many processes, say: the workers that there are live on
                    asked.send((str(error) or type(error).__name__).encode()[:MESSAGE_MAX])
                finally:
                    os.close(given[0])
            elif kind == REAP:
                with contextlib.suppress(ChildProcessError, ProcessLookupError):
                    os.waitpid(int(words[0]), 0)


def _fork(asked: socket.socket, end: int, names: Sequence[str], own: int) -> None:
    """A worker whose stdin and stdout are one end of a connection."""
    drivers.load(names)
    pid = os.fork()
    if pid == 0:
        try:
            asked.close()
            _become_worker(end, own)
        finally:
            os._exit(1)
    try:
        process = os.pidfd_open(pid)  # it is our child and not waited for: the number is its own
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    socket.send_fds(asked, [str(pid).encode()], [process])
    os.close(process)


def _become_worker(end: int, parent: int) -> None:
    os.setsid()  # a group of its own, to be killed as a whole
    worker.die_with(parent)
    os.dup2(end, 0)
    os.dup2(end, 1)
    os.close(end)
    with os.fdopen(0, "rb") as stdin:
        worker.serve(stdin)
    os._exit(0)


if __name__ == "__main__":
    main()
