"""Any ClusterLabs fence agent (fence_*), inside a worker process: its options on stdin, never in its arguments.

An agent's own word is an exit code and a line. They are believed where they agree: exit code 2 alone, which means off,
is also how shells and argument parsers say that they were called wrongly.
"""

from __future__ import annotations

import os
import re
import signal
import stat
from pathlib import Path

from ha_agent.errors import DriverError, Unanswered
from ha_agent.fencing.secret import scrubbed, secret
from ha_agent.fencing.topology import Device
from ha_agent.fencing.window import Window
from ha_agent.model import Power
from ha_agent.programs.run import OUTPUT_MAX, Ran, run

DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")
NAME = re.compile(r"fence_[A-Za-z0-9_.-]+")
OPTION = re.compile(r"[a-z][a-z0-9_-]{0,63}")
SAID_MAX = 200
USAGE = "Please use '-h' for usage"  # what ClusterLabs' library adds below the reason
GIVEN_MAX = 16384  # well inside a pipe's buffer

# Exit codes of ClusterLabs' FenceAgentAPI, where the agent said nothing itself.
CODES = {
    1: "it failed without a reason",
    2: "its arguments are wrong",
    3: "login denied",
    4: "connection lost",
    5: "timed out",
    6: "timed out waiting for on",
    7: "timed out waiting for off",
    8: "the plug's status cannot be read, or there is no such plug",
    9: "the status cannot be read, or the partition is unknown",
    10: "no password was given",
    11: "the user lacks the privilege",
    12: "no machine of that name",
}
_STATUS = re.compile(rb"^[ \t]*status[ \t]*:[ \t]*(.*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_STAMP = re.compile(r"^[\d :,.T-]*\b(?:CRITICAL|ERROR|WARNING|INFO|DEBUG):\s*")


def power_of(ran: Ran) -> Power | None:
    """What a `status` said: off is exit code 2 and `Status: OFF`, on is 0 and `Status: ON`, all else is None. Every status line
    there is must say the same, and output that was cut off says nothing."""
    if len(ran.out) >= OUTPUT_MAX:
        return None
    said = {word.upper() for word in _STATUS.findall(ran.out)}
    if ran.code == 2 and said == {b"OFF"}:
        return Power.OFF
    if ran.code == 0 and said == {b"ON"}:
        return Power.ON
    return None


def find(agent: str) -> str:
    """The agent's path: a name is looked for in a few fixed directories, a path must be absolute. Raises DriverError."""
    if "/" in agent:
        if not agent.startswith("/") or ".." in agent.split("/"):
            raise DriverError(f"the agent {agent} is neither a name nor an absolute path")
        found = Path(agent)
    else:
        if not NAME.fullmatch(agent):
            raise DriverError(f"the agent {agent} is not named like a fence agent (fence_…)")
        places = [Path(directory, agent) for directory in DIRECTORIES]
        found = next((place for place in places if place.exists()), places[0])
        if not found.exists():
            raise DriverError(f"the agent {agent} is not installed (looked in {', '.join(DIRECTORIES)})")
    try:
        status = found.stat()
    except OSError as error:
        raise DriverError(f"the agent {found} cannot be used: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode) or not os.access(found, os.X_OK):
        raise DriverError(f"the agent {found} is not a program that this user may run")
    if status.st_mode & stat.S_IWOTH:
        raise DriverError(f"the agent {found} can be written by everyone: take that right away (chmod o-w)")
    return str(found)


def given(device: Device, password: bytes, action: str) -> bytes:
    """What the agent gets on stdin. Raises DriverError where a value cannot be said in a line."""
    ours = {
        "ip": device.address,
        "ipport": str(device.port) if device.port else "",
        "username": device.username,
        "plug": device.plug,
    }
    values = {key: value.encode() for key, value in (*device.options.items(), *ours.items()) if value}
    values["action"] = action.encode()  # last: no option can ask for another one
    if password:
        values["password"] = password
    lines = b""
    for key, plain in values.items():
        if not OPTION.fullmatch(key) or any(byte < 32 or byte == 127 for byte in plain):
            raise DriverError(
                f"the option {key[:64]} cannot be given to {device.agent}: it is not a line of plain text"
            )
        # Agents take blanks from the ends of a line, and one pair of quotes from a value.
        quoted = plain != plain.strip() or (plain[:1] == plain[-1:] == b'"')
        lines += key.encode() + b"=" + (b'"' + plain + b'"' if quoted else plain) + b"\n"
    if len(lines) > GIVEN_MAX:
        raise DriverError(f"the options of {device.agent} are longer than {GIVEN_MAX} bytes: remove some")
    return lines


class FenceAgent:
    """A PowerDevice. Each call is one run of the agent, which ends within the window."""

    def __init__(self, device: Device, path: str, password: bytes, window: Window) -> None:
        self._device = device
        self._path = path
        self._password = password
        self._window = window

    @classmethod
    def of(cls, device: Device, window: Window) -> FenceAgent:
        """Raises DriverError where the agent or the password cannot be had."""
        password = secret(device.password_file) if device.password_file else b""
        return cls(device, find(device.agent), password, window)

    def read(self) -> Power:
        """The agent's `status`. Raises DriverError, Unanswered."""
        ran = self._run("status", changes=False)
        power = power_of(ran)
        if power is None:
            raise DriverError(f"{self._device.where} says neither on nor off: {self._said(ran)}")
        return power

    def off(self) -> None:
        """The agent's `off`. Raises DriverError where it never ran, else Unanswered: an agent that fails may have sent it."""
        self._change("off")

    def on(self) -> None:
        """The agent's `on`. Raises the same."""
        self._change("on")

    def machine(self) -> str:
        """Fence agents have no way to say it."""
        return ""

    def close(self) -> None:
        """Nothing is open between two runs."""

    def _change(self, action: str) -> None:
        ran = self._run(action, changes=True)
        if ran.code != 0:
            raise Unanswered(f"{self._device.where} failed to switch {action}: {self._said(ran)}")

    def _run(self, action: str, *, changes: bool) -> Ran:
        self._window.check(changes=changes)
        return run([self._path], given(self._device, self._password, action), self._window.left_s(changes=changes))

    def _said(self, ran: Ran) -> str:
        """The last thing that the agent complained of, in one line and without the password."""
        if ran.code < 0:
            return f"it was ended by signal {-ran.code} ({signal.strsignal(-ran.code)})"
        for output in (ran.err, ran.out):
            cut = output[: -len(self._password) or None] if len(output) >= OUTPUT_MAX else output
            text = scrubbed(cut.decode(errors="replace"), self._password)
            lines = [" ".join(_STAMP.sub("", line).split()) for line in text.splitlines()]
            words = [re.sub(r"[^\x20-\x7e]", "?", line) for line in lines if line and line != USAGE]
            if words:
                return f"{words[-1][:SAID_MAX]} (exit code {ran.code})"
        return f"{CODES.get(ran.code, 'it said nothing')} (exit code {ran.code})"
