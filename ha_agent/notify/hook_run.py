"""The helper below which one hook runs once: it outlives nobody, and nothing of it outlives the helper.

python -m ha_agent.notify.hook_run PROGRAM TIMEOUT_S < event > how-it-ended
"""

from __future__ import annotations

import signal
import sys

import msgspec

from ha_agent.errors import DriverError, OutOfTime
from ha_agent.programs import below, run

TAIL_MAX = 400


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a hook ended. `code`: its exit code, negative for a signal; None: see `problem`. `tail`: the end of what it printed, on stderr
    if it printed anything there."""

    code: int | None = None
    tail: str = ""
    problem: str = ""


def ran(program: str, timeout_s: float, given: bytes) -> Ended:
    """Runs it to its end or to ours."""
    try:
        done = run.run([program], given, timeout_s, last=True)
    except OutOfTime:
        return Ended(problem=f"it did not end within {timeout_s:g} s and was killed")
    except DriverError as error:
        return Ended(problem=str(error))
    return Ended(code=done.code, tail=tail(done.err) or tail(done.out))


def tail(output: bytes) -> str:
    """Its last words, on one line, printable."""
    text = " ".join(output[-4 * TAIL_MAX :].decode(errors="replace").split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)[-TAIL_MAX:]


def main() -> None:
    """See the module. Whoever ends it, or ends before it, ends all below it: it hears of both by SIGTERM."""
    signal.signal(signal.SIGTERM, _end)
    below.die_with_parent(signal.SIGTERM)
    below.adopt_orphans()
    try:
        ended = ran(sys.argv[1], float(sys.argv[2]), sys.stdin.buffer.read())
    finally:
        below.end_all()  # `run` does so itself, unless it was told to end before it knew that the hook had started
    sys.stdout.buffer.write(msgspec.json.encode(ended))


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: what ends the others is not interrupted
    sys.exit(1)


if __name__ == "__main__":
    main()
