"""The words of a script: everything that can be made to happen in a simulated world, by a scenario, by a random life, or by the matrix.

A line is an action and its arguments; `for SECONDS` at its end undoes it after so long: `freeze h2 for 9`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import msgspec

from ha_agent.errors import StoreFull, UsageError
from ha_agent.model import CommandKind, Order
from ha_agent.policy import Policy
from ha_agent.ports import ForeignClaim, Reported
from ha_agent.selfdoubt import OWN_COUNTS_S
from ha_agent.sim.devices import DeviceFault
from ha_agent.sim.loop import Process
from ha_agent.sim.network import BMCS, EVERYWHERE, NOVA
from ha_agent.sim.nova_state import EVACUATION, FIRST_STOPPING_MICROVERSION, UNFINISHED, NovaError
from ha_agent.sim.simulation import Simulation
from ha_agent.sim.timeline import SeededRandom, stream
from ha_agent.sim.weather import Trouble
from ha_agent.sim.world import GuestTrouble
from ha_agent.store.memory import Moment

Act = Callable[[Simulation, Sequence[str]], object]
LOOK_EVERY_S = 0.1
LOOK_FOR_S = 60.0
SHOWS_S = OWN_COUNTS_S + 15.0  # and a silence that began meanwhile


@dataclass(frozen=True)
class Action:
    """`usage`: its arguments, in brackets what may be left out. `undo` takes the same arguments."""

    usage: str
    do: Act
    undo: Act | None = None


ACTIONS: dict[str, Action] = {}


def _action(name: str, usage: str, do: Act, undo: Act | None = None) -> None:
    ACTIONS[name] = Action(usage, do, undo)


# --- hosts ---

_action("kill", "HOST", lambda s, a: s.world.power_off(a[0]), lambda s, a: s.world.power_on(a[0], "its power is back"))
_action("power_on", "HOST [BOOT_S]", lambda s, a: s.world.power_on(a[0], "somebody switches it on", *map(float, a[1:])))
_action("reboot", "HOST [BOOT_S]", lambda s, a: s.world.reboot(a[0], *map(float, a[1:])))
_action("panic", "HOST DUMP_S [BOOT_S]", lambda s, a: s.world.panic(a[0], *map(float, a[1:])))
_action("dark_boot", "HOST", lambda s, a: _dark_boot(s, a[0]), lambda s, a: s.world.join(a[0]))
_action("freeze", "HOST", lambda s, a: s.world.freeze(a[0]), lambda s, a: s.world.thaw(a[0]))
_action("thaw", "HOST", lambda s, a: s.world.thaw(a[0]))
_action("hang", "HOST", lambda s, a: s.world.hang(a[0]), lambda s, a: s.world.unhang(a[0]))
_action("unhang", "HOST", lambda s, a: s.world.unhang(a[0]))
_action("agent_crash", "HOST", lambda s, a: s.world.agent(a[0], up=False), lambda s, a: s.world.agent(a[0], up=True))
_action(
    "certificate_refused",
    "HOST",
    lambda s, a: s.world.refuse(a[0], refused=True),
    lambda s, a: s.world.refuse(a[0], refused=False),
)
_action("agent_start", "HOST", lambda s, a: s.world.agent(a[0], up=True))
_action("out_of_memory", "HOST", lambda s, a: s.world.out_of_memory(a[0]))
_action("supply", "HOST", lambda s, a: _supply(s, a, on=False), lambda s, a: _supply(s, a, on=True))
_action(
    "rack", "HOST", lambda s, a: _supply(s, _rack(s, a[0]), on=False), lambda s, a: _supply(s, _rack(s, a[0]), on=True)
)
_action("kill_destination", "", lambda s, a: _destination(s, s.world.power_off))
_action("freeze_destination", "SECONDS", lambda s, a: _destination(s, lambda h: perform(s, f"freeze {h} for {a[0]}")))
_action("malice", "SHARE", lambda s, a: _malice(s, float(a[0])))


def _malice(sim: Simulation, share: float) -> None:
    """For a while, something happens to hosts that work on an evacuation, or to the host that it comes from."""
    chance = stream(sim.seed, f"malice at {sim.world.now}")
    seen: set[int] = set()
    end = sim.world.now + 2 * LOOK_FOR_S

    def look() -> None:
        for m in sim.world.nova.migrations[-20:]:
            if m.kind == EVACUATION and m.dest and m.status == "pre-migrating" and m.id not in seen:
                seen.add(m.id)
                if chance.random() < share:
                    host = m.dest if chance.random() < 0.7 else m.source
                    what = chance.choice(("kill", "freeze", "isolate", "reboot", "cut"))
                    for_s = f"{chance.uniform(1, 100):.1f}"
                    lines = {
                        "freeze": f"freeze {host} for {for_s}",
                        "isolate": f"isolate {host} for {for_s}",
                        "cut": f"cut {host} {NOVA} for {for_s}",
                    }
                    if not sim.world.hosts[host].powered:
                        what, lines = "power_on", {}
                    perform(sim, lines.get(what, f"{what} {host}"))
        if sim.world.now < end:
            sim.world.timeline.after(2 * LOOK_EVERY_S, look)

    look()


def _dark_boot(sim: Simulation, host: str) -> None:
    """It boots, and its network does not come up."""
    sim.world.reboot(host)
    sim.world.isolate(host, _controllers(sim))


def _supply(sim: Simulation, hosts: Iterable[str], *, on: bool) -> None:
    """What feeds hosts and their fencing devices."""
    for host in hosts:
        for device in sim.world.hosts[host].devices:
            sim.world.fault(host, DeviceFault.NONE if on else DeviceFault.DEAD, device)
        if on:
            sim.world.power_on(host, "its power supply is back")
        else:
            sim.world.power_off(host, "its power supply fails")


def _rack(sim: Simulation, host: str) -> list[str]:
    domain = sim.world.hosts[host].domain
    return [h.name for h in sim.world.hosts.values() if h.domain == domain]


def _destination(sim: Simulation, harm: Callable[[str], object]) -> None:
    """To a host that works on an evacuation, or else to the one that took the last one in; if there is none, as soon as there is."""
    end = sim.world.now + LOOK_FOR_S

    def look() -> None:
        moved = [m for m in sim.world.nova.migrations if m.kind == EVACUATION and m.dest]
        at_work = [m.dest for m in moved if m.status in UNFINISHED] or [m.dest for m in moved]
        if at_work and sim.world.hosts[at_work[-1]].powered:
            harm(at_work[-1])
        elif sim.world.now < end:
            sim.world.timeline.after(LOOK_EVERY_S, look)

    look()


# --- the network ---

_action("isolate", "HOST", lambda s, a: s.world.isolate(a[0], _controllers(s)), lambda s, a: s.world.join(a[0]))
_action(
    "lose_plane",
    "NODE PLANE",
    lambda s, a: s.world.lose_plane(a[0], a[1], lost=True),
    lambda s, a: s.world.lose_plane(a[0], a[1], lost=False),
)
_action("join", "HOST", lambda s, a: s.world.join(a[0]))
_action("cut", "A B", lambda s, a: s.world.cut(a[0], a[1]), lambda s, a: s.world.heal(a[0], a[1]))
_action("heal", "A B", lambda s, a: s.world.heal(a[0], a[1]))
_action(
    "one_way",
    "FROM TO",
    lambda s, a: _one_way(s, a[0], a[1]),
    lambda s, a: s.world.one_way(a[0], a[1], lost=False),
)
_action(
    "loss",
    "SHARE [NODE]",
    lambda s, a: s.world.poor(a[1] if len(a) > 1 else EVERYWHERE, loss=float(a[0])),
    lambda s, a: s.world.poor(a[1] if len(a) > 1 else EVERYWHERE, loss=0.0),
)
_action(
    "delay",
    "SECONDS [NODE]",
    lambda s, a: s.world.poor(a[1] if len(a) > 1 else EVERYWHERE, delay_s=float(a[0])),
    lambda s, a: s.world.poor(a[1] if len(a) > 1 else EVERYWHERE, delay_s=0.0),
)
_action(
    "no_hosts",
    "[CONTROLLER]",
    lambda s, a: _each(s.world.hosts, lambda h: s.world.cut(_controller(s, a).name, h)),
    lambda s, a: _each(s.world.hosts, lambda h: s.world.heal(_controller(s, a).name, h)),
)
_action("split", "", lambda s, a: _between(s, s.world.cut), lambda s, a: _between(s, s.world.heal))
_action(
    "no_bmcs",
    "",
    lambda s, a: _each(_controllers(s), lambda c: s.world.cut(c, BMCS)),
    lambda s, a: _each(_controllers(s), lambda c: s.world.heal(c, BMCS)),
)


def _one_way(sim: Simulation, a: str, b: str) -> None:
    sim.world.one_way(a, b, lost=True)
    for process in sim.processes:
        if process.engine is None:  # it has no connection that could go on
            sim.world.network.ended(process.name)


def _each(names: Iterable[str], act: Callable[[str], object]) -> None:
    for name in names:
        act(name)


def _between(sim: Simulation, act: Callable[[str, str], object]) -> None:
    """No host reaches another one; controllers and Nova reach all."""
    names = list(sim.world.hosts)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            act(a, b)


# --- fencing devices ---

_action(
    "device",
    "HOST FAULT [DEVICE [OFF_S]]",
    lambda s, a: _device(s, *a),
    lambda s, a: s.world.fault(a[0], DeviceFault.NONE, *a[2:3]),
)


def _device(sim: Simulation, host: str, fault: str, device: str | None = None, off_s: str | None = None) -> None:
    if device is not None and off_s is not None:
        sim.world.hosts[host].devices[device].off_s = float(off_s)
    sim.world.fault(host, DeviceFault(fault), device)


# --- Nova, its helpers, and what people do to servers ---

_action(
    "nova",
    "TROUBLE [SHARE]",
    lambda s, a: _weather(s, a[0], float(a[1]) if len(a) > 1 else 1.0),
    lambda s, a: _weather(s, a[0], 0.0),
)
_action("keystone_down", "TOKEN_S", lambda s, a: _keystone(s, float(a[0])), lambda s, a: _keystone(s, None))
_action(
    "rows_unknown",
    "HOST…",
    lambda s, a: s.world.weather.rows_unknown.update(a),
    lambda s, a: s.world.weather.rows_unknown.difference_update(a),
)
_action("cell_down", "HOST…", lambda s, a: _cell(s, a, down=True), lambda s, a: _cell(s, a, down=False))
_action("broker", "STATE", lambda s, a: s.world.set_broker(a[0]), lambda s, a: s.world.set_broker(""))
_action(
    "spawn_fails",
    "HOST",
    lambda s, a: _spawn(s, a[0], "the hypervisor is out of sorts"),
    lambda s, a: _spawn(s, a[0], ""),
)
_action("spawn_works", "HOST", lambda s, a: _spawn(s, a[0], ""))
_action("disable", "HOST…", lambda s, a: _disable(s, a, value=True), lambda s, a: _disable(s, a, value=False))
_action("enable", "HOST…", lambda s, a: _disable(s, a, value=False))
_action(
    "no_room",
    "",
    lambda s, a: _disable(s, s.world.hosts, value=True),
    lambda s, a: _disable(s, s.world.hosts, value=False),
)
_action("slow_evacuations", "SECONDS", lambda s, a: _evacuations_take(s, float(a[0])))
_action("newest_nova", "", lambda s, a: _newest_nova(s))
_action("reboot_server", "SERVER", lambda s, a: _reboot_server(s, a[0]))
_action("evacuate", "SERVER", lambda s, a: _evacuate(s, a[0]))
_action("migrate", "SERVER HOST SECONDS", lambda s, a: _migrate(s, a[0], a[1], float(a[2])))
_action("reset_state", "SERVER STATE", lambda s, a: _reset_state(s, a[0], a[1]))
_action("lock", "SERVER", lambda s, a: _lock(s, a[0], locked=True), lambda s, a: _lock(s, a[0], locked=False))
_action("delete", "SERVER", lambda s, a: _delete(s, a[0]))
_action("guest_fault", "SERVER FAULT", lambda s, a: _guest_fault(s, a[0], a[1]))


def _weather(sim: Simulation, trouble: str, share: float) -> None:
    text = f"Nova's API: {trouble}, {share:.0%} of the requests" if share else f"Nova's API: {trouble} is over"
    sim.world.changed(text)
    sim.world.weather.set(Trouble(trouble), share)


def _keystone(sim: Simulation, token_s: float | None) -> None:
    """Down, with tokens that last so long yet; None: it gives new ones again."""
    if token_s is None:
        sim.world.changed("Keystone gives tokens again")
        sim.world.weather.keystone_up()
    else:
        sim.world.changed(f"Keystone is down; the token that is there lasts for {token_s:g} s")
        sim.world.weather.keystone_down(token_s)


def _cell(sim: Simulation, hosts: Sequence[str], *, down: bool) -> None:
    sim.world.changed(f"the cell of {', '.join(hosts)} is {'down' if down else 'back'}")
    for table in (sim.world.weather.rows_unknown, sim.world.weather.lists_lack):
        (table.update if down else table.difference_update)(hosts)


def _spawn(sim: Simulation, host: str, error: str) -> None:
    sim.world.log(f"{host} {'starts no guest' if error else 'starts guests again'}")
    sim.world.nova.hosts[host].spawn_fails = error


def _evacuations_take(sim: Simulation, seconds: float) -> None:
    sim.world.log(f"an evacuation takes {seconds:g} s")
    sim.world.nova._evacuation_s = (seconds, seconds)


def _newest_nova(sim: Simulation) -> None:
    sim.world.log("requests are made as of microversion 2.95: evacuated servers land stopped")
    sim.world.microversion = FIRST_STOPPING_MICROVERSION


def _reboot_server(sim: Simulation, name: str) -> None:
    sim.world.log(f"the owner of {name} reboots it")
    sim.world.nova.reboot(_server(sim, name))


def _evacuate(sim: Simulation, name: str) -> None:
    """A person does it by hand. Nova takes it once it calls the host's service down."""
    try:
        sim.world.nova.evacuate(_server(sim, name))
    except NovaError as error:
        sim.world.log(f"somebody cannot evacuate {name}: {error.message}")
    else:
        sim.world.log(f"somebody evacuates {name} by hand")


def _reset_state(sim: Simulation, name: str, state: str) -> None:
    sim.world.log(f"somebody sets the state of {name} to {state}")
    sim.world.nova.reset_state(_server(sim, name), state)


def _lock(sim: Simulation, name: str, *, locked: bool) -> None:
    sim.world.log(f"the owner of {name} {'locks' if locked else 'unlocks'} it")
    sim.world.nova.servers[_server(sim, name)].locked = locked


def _delete(sim: Simulation, name: str) -> None:
    sim.world.log(f"somebody deletes {name}")
    sim.world.nova.delete(_server(sim, name))


def _disable(sim: Simulation, hosts: Iterable[str], *, value: bool) -> None:
    hosts = list(hosts)
    sim.world.log(f"the scheduler may {'no longer' if value else 'again'} choose {', '.join(hosts)}")
    for host in hosts:
        sim.world.nova.hosts[host].disabled = value


def _server(sim: Simulation, name: str) -> str:
    """Its id. Raises UsageError."""
    found = next((s.id for s in sim.world.nova.servers.values() if s.name == name), None)
    if found is None:
        raise UsageError(f"no server is named {name}")
    return found


def _migrate(sim: Simulation, name: str, dest: str, seconds: float) -> None:
    server = sim.world.nova.servers[_server(sim, name)]
    try:
        sim.world.nova.live_migrate(server.id, dest, seconds)
    except NovaError as error:
        sim.world.log(f"{name} does not migrate: {error.message}")
    else:
        sim.world.log(f"{name} migrates live from {server.host} to {dest}")


def _guest_fault(sim: Simulation, name: str, fault: str) -> None:
    """Something happens to a guest. Its host's remote tells of it, now or when it can."""
    row, now = sim.world.nova.servers[_server(sim, name)], sim.world.now
    host = sim.world.hosts[row.host]
    if host.powered:
        sim.world.log(f"{name} on {row.host}: {fault}")
        host.events[f"{row.id} {fault} {now}"] = GuestTrouble(row.id, fault, now, host.boot_id)
        for process in sim.processes:
            process.tell_guests(row.host)


# --- the controller, its store and its machine ---

_action("store_full", "WRITES", lambda s, a: s.store.fail_next(StoreFull("the disk is full"), int(a[0])))
_action("store_locked", "SECONDS", lambda s, a: s.lock_store(float(a[0])))
_action("crash", "[AFTER_S [CONTROLLER]]", lambda s, a: _controller(s, a[1:]).crash(float(a[0]) if a else None))
_action("stop", "[AFTER_S [CONTROLLER]]", lambda s, a: _controller(s, a[1:]).stop(float(a[0]) if a else None))
_action("stop_before", "COMMAND SECONDS", lambda s, a: _stop_before(_controller(s, ()), CommandKind(a[0]), float(a[1])))
_action(
    "crash_at_commit",
    "MOMENT NUMBER",
    lambda s, a: _controller(s, ()).crash_at.add((Moment(a[0]), s.store.commits + int(a[1]))),
)
_action("pause", "[CONTROLLER]", lambda s, a: _controller(s, a).pause(), lambda s, a: _each_process(s, Process.resume))
_action("resume", "", lambda s, a: _each_process(s, Process.resume))
_action(
    "own_cable",
    "[CONTROLLER]",
    lambda s, a: _own(_controller(s, a), "no_carrier", (("eth1", _controller(s, a).now()),), SHOWS_S),
    lambda s, a: _own(_controller(s, a), "no_carrier", (), 0.0),
)
_action(
    "own_gateway",
    "[CONTROLLER]",
    lambda s, a: _own(_controller(s, a), "gateway_lost_at", _controller(s, a).now(), SHOWS_S),
    lambda s, a: _own(_controller(s, a), "gateway_lost_at", None, 0.0),
)
_action(
    "lag",
    "SECONDS [CONTROLLER]",
    lambda s, a: _own(_controller(s, a[1:]), "lag_s", float(a[0]), inf),
    lambda s, a: _own(_controller(s, a[1:]), "lag_s", 0.0, 0.0),
)
_action("move", "", lambda s, a: _controller(s, ()).move())
_action("clock_step", "SECONDS", lambda s, a: _clock_step(s, float(a[0])), lambda s, a: _clock_step(s, -float(a[0])))
_action(
    "foreign_claim",
    "HOST",
    lambda s, a: _tell(
        s, lambda p: ForeignClaim(host=a[0], at=p.now(), controller="stranger", store_id="5" * 36, epoch=99)
    ),
)


def _controllers(sim: Simulation) -> list[str]:
    return [p.name for p in sim.processes]


def _controller(sim: Simulation, args: Sequence[str]) -> Process:
    """The one that is named; else the one that leads, else the first."""
    if args:
        return next(p for p in sim.processes if p.name == args[0])
    return sim.leader or sim.processes[0]


def _each_process(sim: Simulation, act: Callable[[Process], object]) -> None:
    for process in sim.processes:
        act(process)


def _own(process: Process, what: str, value: object, for_s: float) -> None:
    """Its machine's own trouble, or the end of it."""
    process.feel(msgspec.structs.replace(process.own, **{what: value}), for_s)


def _stop_before(process: Process, kind: CommandKind, seconds: float) -> None:
    process.stop_before, process.stop_for_s = kind, seconds


def _clock_step(sim: Simulation, seconds: float) -> None:
    sim.world.log(f"the wall clocks of the controllers are set by {seconds:+g} s")
    for process in sim.processes:
        process.clock.wall_step_s += seconds


def _tell(sim: Simulation, make: Callable[[Process], Reported | ForeignClaim]) -> None:
    for process in sim.processes:
        process.told(make(process))


# --- people and other monitors ---

_action("later", "SECONDS ACTION …", lambda s, a: _later(s, float(a[0]), " ".join(a[1:])))


def _later(sim: Simulation, seconds: float, line: str) -> None:
    """Raises UsageError where the line is wrong."""
    parsed(line)
    sim.lasting += 1

    def act() -> None:
        sim.lasting -= 1
        perform(sim, line)

    sim.world.timeline.after(seconds, act)


_action(
    "order", "ORDER [HOST [REASON…]]", lambda s, a: s.order(Order(a[0]), a[1] if len(a) > 1 else "", " ".join(a[2:]))
)
_action("hasty", "ORDER [HOST [REASON…]]", lambda s, a: _hasty(s, a[0], a), lambda s, a: _hasty(s, CONTRARY[a[0]], a))
_action(
    "report",
    "HOST",
    lambda s, a: _tell(s, lambda p: Reported(host=a[0], at=p.now(), source="monitor", text="it failed")),
)
_action("reload", "KEY=VALUE…", lambda s, a: _reload(s, changed_policy(s.policy, a)), lambda s, a: _reload(s, s.policy))
_action("reload_without", "HOST", lambda s, a: _reload(s, without(s.policy, a[0])), lambda s, a: _reload(s, s.policy))
_action("astray", "HOST", lambda s, a: _reload(s, astray(s.policy, a[0])), lambda s, a: _reload(s, s.policy))


CONTRARY: dict[str, str] = {"maintenance_on": "maintenance_off", "pause": "unpause", "disarm": "arm"}


def _hasty(sim: Simulation, order: str, args: Sequence[str]) -> None:
    """At this very moment, or not at all. Its id is not of the engine's own chance: an order that is refused changes nothing at all."""
    new_id = SeededRandom(stream(sim.seed, f"{' '.join(args)} at {sim.world.now}")).uuid()
    sim.order_now(Order(order), args[1] if len(args) > 1 else "", " ".join(args[2:]), new_id=new_id)


def changed_policy(policy: Policy, changes: Sequence[str]) -> Policy:
    """For every host: `detection.down_after_s=20`. Raises UsageError."""
    hosts = policy.hosts
    for change in changes:
        key, _, value = change.partition("=")
        section, _, field = key.partition(".")
        if section not in ("detection", "fencing", "recovery"):
            raise UsageError(f"no section {section!r} in {change!r}; known are detection, fencing, recovery")
        number = msgspec.json.decode(value)
        hosts = {
            name: msgspec.structs.replace(
                host, **{section: msgspec.structs.replace(getattr(host, section), **{field: number})}
            )
            for name, host in hosts.items()
        }
    return msgspec.structs.replace(policy, hosts=hosts)


def without(policy: Policy, host: str) -> Policy:
    """The inventory without a host."""
    return msgspec.structs.replace(policy, hosts={n: h for n, h in policy.hosts.items() if n != host})


def astray(policy: Policy, host: str) -> Policy:
    """The inventory with an address of a host at which nobody is."""
    moved = msgspec.structs.replace(policy.hosts[host], place="192.0.2.250")
    return msgspec.structs.replace(policy, hosts={**policy.hosts, host: moved})


def _reload(sim: Simulation, policy: Policy) -> None:
    sim.world.changed("the configuration is reloaded")
    for process in sim.processes:
        process.reload(policy)


# --- performing ---


def perform(sim: Simulation, line: str) -> None:
    """Make a line happen now, and undo it later where it says `for SECONDS`."""
    action, args, lasts_s = parsed(line)
    action.do(sim, args)
    if lasts_s is not None:
        undo = action.undo
        assert undo is not None
        sim.lasting += 1

        def over() -> None:
            sim.lasting -= 1
            undo(sim, args)

        sim.world.timeline.after(lasts_s, over)


def parsed(line: str) -> tuple[Action, list[str], float | None]:
    """Action, arguments, seconds until it is undone. Raises UsageError."""
    words = line.split()
    if not words or words[0] not in ACTIONS:
        raise UsageError(f"no action {words[0] if words else ''!r}; known are {', '.join(ACTIONS)}")
    action, args, lasts_s = ACTIONS[words[0]], words[1:], None
    if words[0] == "later":  # the `for` belongs to what comes later
        return action, args, None
    if len(args) > 1 and args[-2] == "for":
        try:
            lasts_s = float(args[-1])
        except ValueError:
            raise UsageError(f"{line!r}: `for` wants seconds") from None
        args = args[:-2]
        if action.undo is None:
            raise UsageError(f"{line!r}: {words[0]} cannot be undone, so it takes no `for`")
    least = len(action.usage.split("[")[0].split())
    most = 99 if "…" in action.usage else len(action.usage.replace("[", " ").replace("]", " ").split())
    if not least <= len(args) <= most:
        raise UsageError(f"{line!r}: want {words[0]} {action.usage}".rstrip())
    return action, args, lasts_s


def usages() -> Mapping[str, str]:
    """What each action wants."""
    return {name: action.usage for name, action in ACTIONS.items()}
