"""The process in which one attempt on one fencing device happens, so that it can be killed at any moment.

Forked by the nursery, or started as `python -m ha_agent.fencing.worker PARENT_PID [DRIVER…]`, the drivers to load at once. Requests arrive on
stdin and lines leave on stdout, both JSON, one a line. The secret is read here, from the device's password file: it never crosses a process, an argument
list or an environment. The worker dies with its parent. It looks at the clock immediately before every packet of an
off or on, so that one which was frozen and thawed sends nothing late.
"""

from __future__ import annotations

import os
import resource
import select
import sys
from collections.abc import Callable
from typing import BinaryIO, Literal

import msgspec

from ha_agent.errors import DriverError, OutOfTime, Unanswered
from ha_agent.fencing import drivers
from ha_agent.fencing.drivers import Connection, Reusable
from ha_agent.fencing.topology import Device
from ha_agent.fencing.window import Boottime, Time, Window
from ha_agent.model import Power, Reading, Value
from ha_agent.programs import below

REQUEST_MAX = 65536
CLOSE_S = 1.0
KEEP_S = 20.0  # BMCs forget a silent session after 60 s, and have few
SLOWER_MAX = 3  # a failing device is looked at up to eight times more slowly


class Request(Value, frozen=True):
    """What to do. Times in seconds of CLOCK_BOOTTIME: after `act_by` no off or on is sent, after `until` nothing is.
    `expect`: the machine that the device must say it is, empty for any. Off is read twice, `gap_s` apart, and looked
    at every `poll_s`."""

    op: Literal["read", "off", "on"]
    device: Device
    act_by: float
    until: float
    expect: str = ""
    gap_s: float = 0.5
    poll_s: float = 0.5


class Line(Value, frozen=True):
    """What the worker says. `ready`: it can take a request · `taken`: it has one · `doing`: what it is at, for the
    error if it must be killed · `reading` · `trouble`: a failure after which it goes on · `end`: nothing more follows;
    `text` is the error, empty if there is none."""

    kind: Literal["ready", "taken", "doing", "reading", "trouble", "end"]
    text: str = ""
    reading: Reading | None = None


class Attempt:
    """One request, carried out on a device. `tell` takes the lines."""

    def __init__(self, request: Request, device: Connection, tell: Callable[[Line], None], clock: Time) -> None:
        self._request = request
        self._device = device
        self._tell = tell
        self._clock = clock
        self._machine = ""
        self._refused = ""
        self._at = "starting"

    def run(self) -> str:
        """Returns the error, empty when all was done and read."""
        try:
            self._identify()
            if self._request.op == "read":
                self._doing("reading its power")
                self._look()
                return ""
            return self._switch()
        except OutOfTime:
            return f"timed out while {self._at}"
        except (DriverError, Unanswered) as error:
            return str(error)

    def _doing(self, text: str) -> None:
        self._at = f"{text} ({self._request.device.where})"
        self._tell(Line(kind="doing", text=self._at))

    def _identify(self) -> None:
        self._doing("logging in")
        try:
            self._machine = self._device.machine()
        except OutOfTime:
            raise
        except Unanswered:  # it does not even refuse the question; that matters only where it once answered it
            if self._request.expect:
                raise
        expect = self._request.expect
        if expect and self._machine.lower() != expect.lower():
            says = f"says that it is {self._machine}" if self._machine else "does not say any more which machine it is"
            raise DriverError(f"wrong machine: {self._request.device.name} {says}, expected {expect}; nothing was sent")

    def _switch(self) -> str:
        op = self._request.op
        self._doing(f"sending {op}")
        started = self._clock.now()
        if started > self._request.act_by:
            raise DriverError(f"too late: {op} was not sent")
        try:
            self._device.off() if op == "off" else self._device.on()
        except DriverError as error:  # some BMCs refuse an off when it is off already: what counts is what is read
            self._refused = str(error)
        except Unanswered as error:  # it may have worked
            self._tell(Line(kind="trouble", text=str(error)))
        self._doing(f"waiting for it to read {op}")
        return self._watch(Power.OFF if op == "off" else Power.ON, started)

    def _watch(self, wanted: Power, started: float) -> str:
        """Reads until it reads as wanted (off: twice, `gap_s` apart, and nothing else between), or until the end."""
        first: float | None = None
        others = failed = 0
        while True:
            reading = self._look()
            failed = failed + 1 if reading is None else 0
            if reading is None:
                first = None
            elif reading.power is wanted:
                first = reading.at if first is None else first
                if wanted is Power.ON or reading.at - first >= self._request.gap_s:
                    return ""
            else:
                first, others = None, others + 1
                if self._refused and others >= 2:
                    return self._refused
            # Off is read the second time as soon as that counts, anything else at the pace of the poll; a device that fails
            # more slowly, for after a few wrong logins many lock the user out.
            pause = self._request.poll_s * 2 ** min(failed, SLOWER_MAX)
            if first is not None:
                pause = max(first + self._request.gap_s - self._clock.now(), 0.01)
            if self._clock.now() + pause >= self._request.until:
                return (
                    self._refused
                    or f"not {wanted} {self._clock.now() - started:.1f} s after {self._request.op} was sent"
                )
            self._clock.sleep(pause)

    def _look(self) -> Reading | None:
        at, wall = self._clock.now(), self._clock.wall()
        try:
            power = self._device.read()
        except OutOfTime:
            raise
        except (DriverError, Unanswered) as error:
            if self._request.op == "read":
                raise
            self._tell(Line(kind="trouble", text=str(error)))
            return None
        reading = Reading(device=self._request.device.name, power=power, at=at, wall=wall, machine=self._machine)
        self._tell(Line(kind="reading", reading=reading))
        return reading


class Sessions:
    """The session of the last read, kept a little while for the next read of the same device: while servers move, a device is read
    again and again. An off or on always begins with a login of its own."""

    def __init__(self, clock: Time, connect: Callable[[Device, Window], Connection] = drivers.connect) -> None:
        self._clock = clock
        self._new = connect
        self._kept: tuple[Device, Connection] | None = None

    @property
    def kept(self) -> bool:
        return self._kept is not None

    def drop(self) -> None:
        """Ends the session that is kept."""
        kept, self._kept = self._kept, None
        if kept is not None:
            device, connection = kept
            if isinstance(connection, Reusable):  # a window to say good-bye in: that of its last read is over
                connection.again(Window(self._clock, 0.0, self._clock.now() + CLOSE_S, device.where))
            connection.close()

    def serve(self, request: Request, tell: Callable[[Line], None]) -> str:
        """Carries one request out. Returns the error, empty if there is none."""
        window = Window(self._clock, request.act_by, request.until, request.device.where)
        try:
            connection = self._connect(request, window)
        except DriverError as error:
            return str(error)
        said = "the driver failed"
        try:
            said = Attempt(request, connection, tell, self._clock).run()
        finally:
            if request.op == "read" and not said and isinstance(connection, Reusable):
                self._kept = (request.device, connection)
            else:
                connection.close()
        return said

    def _connect(self, request: Request, window: Window) -> Connection:
        if self._kept is not None:
            device, connection = self._kept
            same = request.op == "read" and device == request.device
            if same and isinstance(connection, Reusable) and connection.again(window):
                self._kept = None
                return connection
            self.drop()
        return self._new(request.device, window)


def die_with(parent: int) -> None:
    """No worker outlives the controller: the kernel kills this process with its parent."""
    below.die_with_parent()
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def asked(stdin: BinaryIO) -> Request | None:
    """The next request; None where nobody is there any more, or nobody we know."""
    try:
        return msgspec.json.decode(stdin.readline(REQUEST_MAX), type=Request)
    except (ValueError, RecursionError):  # msgspec.DecodeError is a ValueError
        return None


def serve(stdin: BinaryIO) -> None:
    """Serves requests until they end, or something else is said. Lines leave on descriptor 1."""
    below.adopt_orphans()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the secret

    output: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # libraries print
    os.dup2(quiet, 2)

    def tell(line: Line) -> None:
        output.write(msgspec.json.encode(line) + b"\n")

    tell(Line(kind="ready"))
    sessions = Sessions(Boottime())
    while True:
        # The controller waits for an answer before it asks again, so that nothing waits in our own buffer.
        if sessions.kept and not select.select([stdin], [], [], KEEP_S)[0]:
            sessions.drop()
        request = asked(stdin)
        if request is None:
            break
        tell(Line(kind="taken"))
        try:
            error = sessions.serve(request, tell)
        except Exception as broken:  # its text might hold anything, so only its kind is told
            error = f"the driver failed: {type(broken).__name__}"
        tell(Line(kind="end", text=error))
    sessions.drop()


def main() -> None:
    """A worker without a nursery."""
    die_with(int(sys.argv[1]))
    drivers.load(sys.argv[2:])  # the slow imports, before there is a request
    serve(sys.stdin.buffer)


if __name__ == "__main__":
    main()
