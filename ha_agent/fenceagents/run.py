"""The frame of a fence agent: options in, one action, an exit code out. Bounded whatever happens; no traceback, and no secret in any text."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, TextIO

from ha_agent import __version__
from ha_agent.errors import ConfigError, HaAgentError
from ha_agent.fenceagents import metadata
from ha_agent.fenceagents.options import Option, Options, Problem, told
from ha_agent.fencing.window import Boottime, Time

OK, FAILED, OFF = 0, 1, 2  # OFF: of `status` only. FenceAgentAPI knows no other.
GRACE_S = 2.0  # beyond the agent's own limit, after which the process ends itself

ACTION = Option(
    name="action", letter="o", default="reboot", required=True, help="What to do", aliases=("option",)
)  # fmt: skip
VERBOSE = Option(name="verbose", letter="v", kind="boolean", help="Tell on stderr what is seen meanwhile")


@dataclass(frozen=True)
class Answer:
    """How an action ended well: its exit code, OK or OFF, and what is printed."""

    code: int
    text: str = ""


@dataclass(frozen=True)
class World:
    """What an action works with. `murmur`: for `verbose`."""

    clock: Time
    murmur: Callable[[str], None]


@dataclass(frozen=True)
class Agent:
    """One fence agent. `problems`: what is wrong with the options for an action; `limit_s`: how long the action may take at most;
    `act` carries it out, and raises HaAgentError where it failed."""

    name: str
    shortdesc: str
    longdesc: str
    options: tuple[Option, ...]
    actions: tuple[str, ...]
    problems: Callable[[str, Options], Sequence[Problem]]
    limit_s: Callable[[str, Options], float]
    act: Callable[[str, Options, World], Answer]


def main(agent: Agent) -> int:
    """The entry point of an agent's process."""

    def bound(seconds: float) -> None:
        signal.signal(signal.SIGALRM, lambda *_: _out_of_time(agent.name))
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_S)

    try:
        code = run(agent, sys.argv[1:], sys.stdin.buffer, sys.stdout, sys.stderr, Boottime(), bound)
        sys.stdout.flush()
    except BrokenPipeError:  # `… | head`; the interpreter flushes stdout once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def run(
    agent: Agent,
    arguments: Sequence[str],
    stdin: BinaryIO,
    out: TextIO,
    err: TextIO,
    clock: Time,
    bound: Callable[[float], None] = lambda seconds: None,
) -> int:
    """One run. Never raises but for an interrupt."""
    if {"-h", "--help"} & set(arguments):
        print(metadata.usage(agent), file=out)
        return OK
    if {"-V", "--version"} & set(arguments):
        print(f"{agent.name} {__version__}", file=out)
        return OK

    def complain(text: str) -> int:
        print(_clean(f"{agent.name}: {text}"), file=err)
        return FAILED

    try:
        options = told(agent.options, arguments, stdin)
        action = options.text("action").lower()
        if action == "metadata":
            print(metadata.xml(agent), file=out)
            return OK
        if action not in (*agent.actions, "validate-all"):
            known = ", ".join((*agent.actions, *metadata.EVERY))
            raise ConfigError([("action", f"{action[:40]!r} is unknown", f"use one of {known}")])
        problems = agent.problems(action, options)
        if problems:
            raise ConfigError(list(problems))
        if action == "validate-all":
            return OK
        bound(agent.limit_s(action, options))
        verbose = options.flag("verbose")

        def murmur(text: str) -> None:
            if verbose:
                complain(text)

        answer = agent.act(action, options, World(clock=clock, murmur=murmur))
    except ConfigError as error:
        for field, problem, fix in error.problems:
            complain(f"{field}: {problem}; {fix}")
        return FAILED
    except HaAgentError as error:
        return complain(str(error) + (f" ({error.hint})" if error.hint else ""))
    except Exception as broken:  # a library's text might hold anything
        return complain(f"failed in an unexpected way: {type(broken).__name__}")
    if answer.text:
        print(_clean(answer.text), file=out)
    return answer.code


def _out_of_time(name: str) -> None:
    """A time-out is a failure. Libraries catch exceptions, so that only an exit ends them."""
    os.write(2, f"{name}: timed out\n".encode())
    os._exit(FAILED)


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)
