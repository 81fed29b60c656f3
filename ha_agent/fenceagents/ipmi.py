"""fence_ha_ipmi: fences by IPMI with pyghmi, for those without ipmitool. The attempt itself is the controller's own: machine, off, off read twice.

Success is what was read. A frozen process that is thawed late sends nothing any more: the clock is looked at before each packet.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Literal

from ha_agent.errors import DriverError, HaAgentError, UsageError
from ha_agent.fenceagents import secrets
from ha_agent.fenceagents.options import Option, Options, Problem
from ha_agent.fenceagents.run import ACTION, OFF, OK, VERBOSE, Agent, Answer, World, main
from ha_agent.fencing.drivers import Connection
from ha_agent.fencing.topology import IPMI_NAME_MAX
from ha_agent.fencing.topology import Device as Address
from ha_agent.fencing.window import Window
from ha_agent.fencing.worker import Attempt, Line, Request
from ha_agent.model import Power, Reading

Op = Literal["read", "off", "on"]
Connect = Callable[[Request, bytes, World], Connection]

IPMI_PASSWORD_MAX = 20  # bytes, IPMI 2.0 table 22-30

OPTIONS = (
    ACTION,
    Option(name="ip", letter="a", aliases=("ipaddr",), required=True, help="The BMC's address or name"),
    Option(name="ipport", letter="u", kind="integer", default="623", help="Its UDP port"),
    Option(name="username", letter="l", aliases=("login",), required=True, help="A BMC user who may switch power"),
    *secrets.SOURCES,
    Option(
        name="privlvl",
        letter="L",
        kind="select",
        choices=("operator", "administrator"),
        default="administrator",
        help="The privilege to log in with",
    ),
    Option(
        name="cipher",
        letter="C",
        kind="select",
        choices=("17", "3"),
        help="The only cipher suite to use; by itself it takes 17, and 3 where the BMC refuses that",
    ),
    Option(name="machine", help="The GUID that the BMC must report; nothing is switched at any other machine's"),
    Option(
        name="login_timeout", kind="second", default="10", help="Until it must be logged in and have said its state"
    ),
    Option(name="power_timeout", kind="second", default="20", help="Beyond that, until it must read off, or on"),
    VERBOSE,
)


def problems(action: str, options: Options) -> list[Problem]:
    """What is wrong, secrets apart."""
    found: list[Problem] = [
        (name, "missing", fix)
        for name, fix in (("ip", "give the BMC's address or name"), ("username", "give the BMC user"))
        if not options.text(name)
    ]
    if not any(options.text(source.name) for source in secrets.SOURCES):
        found.append(("password", "missing", "give password on stdin, password_file or password_script"))
    if len(options.text("username").encode()) > IPMI_NAME_MAX:
        found.append(("username", f"longer than {IPMI_NAME_MAX} bytes", "IPMI knows no longer names"))
    if not 0 < options.number("ipport") < 65536:
        found.append(("ipport", "is no UDP port", "use a number from 1 to 65535 (IPMI: 623)"))
    return found


def limit_s(action: str, options: Options) -> float:
    """Of the whole action."""
    script = secrets.SCRIPT_S if options.text("password_script") else 0.0
    login, power = options.seconds("login_timeout"), options.seconds("power_timeout")
    switches = {"off": 1, "on": 1, "reboot": 2}.get(action, 0)
    return script + max(1, switches) * login + switches * power


def connect(request: Request, password: bytes, world: World) -> Connection:
    """The BMC; nothing is sent yet."""
    from ha_agent.fencing.ipmi import IpmiDevice  # slow to load, and not needed for metadata

    window = Window(world.clock, request.act_by, request.until, request.device.where)
    return IpmiDevice(request.device, password, window)


def act(action: str, options: Options, world: World, connect: Connect = connect) -> Answer:
    """Carries the action out. Raises HaAgentError."""
    password = secrets.password(options)
    if len(password) > IPMI_PASSWORD_MAX:
        raise UsageError(f"the password is longer than {IPMI_PASSWORD_MAX} bytes, which IPMI does not know")
    if action in ("status", "monitor"):
        power = _attempt("read", options, password, world, connect)
        if action == "monitor":  # any other code would be a broken device to Pacemaker
            return Answer(OK)
        return Answer(OFF if power is Power.OFF else OK, f"Status: {power.upper()}")
    if action == "on":
        _attempt("on", options, password, world, connect)
        return Answer(OK, "Success: it reads on")
    _attempt("off", options, password, world, connect)
    if action == "off":
        return Answer(OK, "Success: it reads off")
    try:
        _attempt("on", options, password, world, connect)
    except HaAgentError as error:  # it is fenced: that it stays off is for people to mend
        world.murmur(f"it read off, but it could not be switched on again: {error}")
        return Answer(OK, "Success: it read off; it could not be switched on again")
    return Answer(OK, "Success: it read off, and reads on again")


def _attempt(op: Op, options: Options, password: bytes, world: World, connect: Connect) -> Power:
    """The power that was read last; it is what was wanted. Raises DriverError."""
    now = world.clock.now()
    act_by = now + options.seconds("login_timeout")
    request = Request(
        op=op,
        device=Address(
            name="bmc",
            address=options.text("ip"),
            port=options.number("ipport"),
            username=options.text("username"),
            options={"privilege": options.text("privlvl"), "cipher": options.text("cipher")},
        ),
        act_by=act_by,
        until=act_by if op == "read" else act_by + options.seconds("power_timeout"),
        expect=options.text("machine"),
    )
    readings: list[Reading] = []

    def tell(line: Line) -> None:
        if line.reading is not None:
            readings.append(line.reading)
        world.murmur(f"{line.kind} {line.text or (line.reading.power if line.reading else '')}")

    with contextlib.redirect_stdout(io.StringIO()):  # pyghmi prints
        device = connect(request, password, world)
        try:
            error = Attempt(request, device, tell, world.clock).run()
        finally:
            device.close()
    wanted = {"off": Power.OFF, "on": Power.ON}.get(op)
    # safety: never a success that was not read
    if error or not readings or wanted not in (None, readings[-1].power):
        raise DriverError(error or "it gave no reading")
    return readings[-1].power


AGENT = Agent(
    name="fence_ha_ipmi",
    shortdesc="Fence agent for IPMI, without ipmitool",
    longdesc=(
        "Switches a machine by the IPMI 2.0 of its BMC (RMCP+, pyghmi). Off is a success when the BMC has read off twice, whatever it"
        " answered. The BMC can be asked first which machine it belongs to."
    ),
    options=OPTIONS,
    actions=("on", "off", "reboot", "status", "monitor"),
    problems=problems,
    limit_s=limit_s,
    act=act,
)


def entry() -> int:
    """The executable."""
    return main(AGENT)
