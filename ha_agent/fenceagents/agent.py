"""fence_ha_agent: lets Pacemaker fence a host through our controller, or tells it that Pacemaker does.

mode=ask orders the fence. mode=told, in a level after a power device, only reports: the host becomes a suspect, our own devices are read,
and recovery starts on what they say. Either way `off` succeeds only when the controller holds evidence and Nova has forced_down; that somebody
else says off, a time-out, a controller that cannot be asked: none of it ever does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ha_agent.api.views import HostDetail, HostRow, Status
from ha_agent.cli.client import Client
from ha_agent.errors import HaAgentError, Unanswered, UsageError
from ha_agent.fenceagents import proof
from ha_agent.fenceagents.options import Option, Options, Problem
from ha_agent.fenceagents.run import ACTION, OFF, OK, VERBOSE, Agent, Answer, World, main
from ha_agent.model import Order, Power

SOCKET = "/run/ha-agent/controller.sock"
POLL_S = 0.5
SWITCHES = frozenset({"off", "on", "reboot", "status"})

OPTIONS = (
    ACTION,
    Option(name="plug", letter="n", aliases=("port", "nodename"), help="The host, as Nova's compute service names it"),
    Option(name="socket", letter="s", default=SOCKET, help="The controller's Unix socket"),
    Option(
        name="mode",
        letter="m",
        kind="select",
        choices=("ask", "told"),
        default="ask",
        help="ask: the controller fences the host; told: Pacemaker fences it, and the controller looks for itself",
    ),
    Option(name="power_timeout", kind="second", default="50", help="Until off must be proven and known to Nova"),
    Option(name="return_timeout", kind="second", default="600", help="Until `on` must find the host clean and heard"),
    Option(name="login_timeout", kind="second", default="5", help="For each answer of the controller"),
    VERBOSE,
)


class Api(Protocol):
    """Of the controller, what is needed. Every method raises UsageError for what it refuses, HaAgentError for what fails."""

    def status(self) -> Status: ...
    def hosts(self) -> list[HostRow]: ...
    def host(self, name: str) -> HostDetail: ...
    def order(self, order: Order, host: str = "", incident: str = "", reason: str = "") -> str: ...


Connect = Callable[[str, float], Api]


def problems(action: str, options: Options) -> list[Problem]:
    """What is wrong."""
    if action in SWITCHES and not options.text("plug"):
        return [("plug", "missing", "give the host's name")]
    return []


def limit_s(action: str, options: Options) -> float:
    """Of the whole action: the last question may begin just before the time is over."""
    waits = {"off": "power_timeout", "reboot": "power_timeout", "on": "return_timeout"}
    wait = options.seconds(waits[action]) if action in waits else 0.0
    return wait + 2 * options.seconds("login_timeout")


def act(action: str, options: Options, world: World, connect: Connect = Client) -> Answer:
    """Carries the action out. Raises HaAgentError."""
    api = connect(options.text("socket"), options.seconds("login_timeout"))
    host = options.text("plug")
    if action in ("off", "reboot"):
        return _off(api, host, options, world)
    if action == "on":
        return _on(api, host, options, world)
    if action == "status":
        power = proof.power(api.host(host))
        if power is Power.UNKNOWN:
            raise HaAgentError(f"whether {host} is on is not known", f"see: ha-agent explain {host}")
        return Answer(OFF if power is Power.OFF else OK, f"Status: {power.upper()}")
    if action == "list":
        return Answer(OK, "\n".join(f"{row.view.host}," for row in api.hosts()))
    _able(api.status())
    if host:
        api.host(host)
    return Answer(OK)


def _able(status: Status) -> None:
    """Raises HaAgentError where this controller would fence nobody."""
    if not status.controller.leading:
        raise HaAgentError("this controller does not lead", f"the one that does: {status.controller.name or 'none'}")
    if not status.armed:
        raise HaAgentError("the controller is disarmed", "ha-agent arm")
    if status.paused:
        raise HaAgentError(f"the controller is paused: {status.paused}", "ha-agent unpause")


def _off(api: Api, host: str, options: Options, world: World) -> Answer:
    limit_s = options.seconds("power_timeout")
    end = world.clock.now() + limit_s
    detail = before = api.host(host)
    if options.text("mode") == "ask":
        # an order that cannot be carried out now would be carried out some day, when nobody wants it any more
        _able(api.status())
        if before.row.maintenance:
            raise HaAgentError(
                f"{host} is in maintenance: {before.row.maintenance}", f"ha-agent maintenance off {host}"
            )
        order, reason = Order.FENCE, "fence_ha_agent asks for it"
    else:
        order, reason = Order.REPORT, "fence_ha_agent: another fencer switches it off"
    given = _give(api, order, host, reason, before)
    why = ""
    while True:
        try:
            given = given or _give(api, order, host, reason, detail)
            detail = api.host(host)
            why = proof.not_off(detail, before.now)
            if not why:
                return Answer(OK, f"Success: {host} is off: {proof.describe_off(detail)}")
        except HaAgentError as error:  # it may be restarted at this moment
            why = str(error)
        world.murmur(why)
        if not _sleep(world, end):
            raise HaAgentError(f"after {limit_s:g} s {host} is not proven off: {why}", f"see: ha-agent explain {host}")


def _give(api: Api, order: Order, host: str, reason: str, seen: HostDetail) -> bool:
    """Whether the order was given. A host that was fenced and settled is not fenced again before it is back: that is tried again."""
    try:
        api.order(order, host=host, reason=reason)
    except Unanswered:  # what counts is what is read now
        return True
    except UsageError:
        incident = proof.open_incident(seen)
        if incident is None or not incident.settled:
            raise
        return False
    return True


def _on(api: Api, host: str, options: Options, world: World) -> Answer:
    """The controller switches it on when nothing of it is unsettled, and takes it back; here it is only waited for."""
    limit_s = options.seconds("return_timeout")
    end = world.clock.now() + limit_s
    why = proof.not_clean(api.host(host))
    while why:
        world.murmur(why)
        if not _sleep(world, end):
            raise HaAgentError(f"after {limit_s:g} s {host} is not clean: {why}", f"see: ha-agent explain {host}")
        try:
            why = proof.not_clean(api.host(host))
        except HaAgentError as error:
            why = str(error)
    return Answer(OK, f"Success: {host} is heard, and nothing of it is unsettled")


def _sleep(world: World, end: float) -> bool:
    """Until the next look; False where there is no time for one."""
    if world.clock.now() + POLL_S > end:
        return False
    world.clock.sleep(POLL_S)
    return True


AGENT = Agent(
    name="fence_ha_agent",
    shortdesc="Fence agent that fences OpenStack hypervisors through ha-agent",
    longdesc=(
        "Asks the ha-agent controller on this machine to fence a host (mode=ask), or, in a level after a power device, tells it that Pacemaker"
        " fences the host (mode=told), so that it looks for itself and starts recovery. Off is a success only when the controller holds evidence"
        " that the host is off and Nova knows it (forced_down). On waits until the controller has taken the host back; reboot is an off, for the"
        " controller brings the host back by itself."
    ),
    options=OPTIONS,
    actions=("on", "off", "reboot", "status", "monitor", "list"),
    problems=problems,
    limit_s=limit_s,
    act=act,
)


def entry() -> int:
    """The executable."""
    return main(AGENT)
