"""What goes wrong: a table of faults. Each draws the lines of a script (see `actions`), and each ends by itself.

`weight` is its rate in random lives. The matrix strikes with every one of them at every step of a plan.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ha_agent.planes import MANAGEMENT
from ha_agent.sim.actions import perform
from ha_agent.sim.devices import DeviceFault
from ha_agent.sim.network import NOVA
from ha_agent.sim.nova_state import SimServer
from ha_agent.sim.simulation import Simulation


@dataclass(frozen=True)
class Scene:
    """Where a fault strikes: the world, its own stream of chance, and the host that everything is about. `pace`: how long the faults
    last, as a share of what they do in a random life."""

    sim: Simulation
    chance: random.Random
    subject: str
    pace: float = 1.0

    def host(self) -> str:
        """The subject if it has power, or as likely another one."""
        on = self.sim.world.hosts[self.subject].powered
        return self.subject if on and self.chance.random() < 0.5 else self.other()

    def other(self) -> str:
        """A host that is not the subject."""
        return self.chance.choice([h for h in self.sim.world.hosts if h != self.subject])

    def controller(self) -> str:
        """One of the controllers."""
        return self.chance.choice(self.sim.processes).name

    def device(self) -> str:
        """One of the subject's fencing devices."""
        return self.chance.choice(list(self.sim.world.hosts[self.subject].devices))

    def server(self) -> SimServer | None:
        """A server of the subject, or else any."""
        servers = sorted(self.sim.world.nova.servers.values(), key=lambda s: s.name)
        here = [s for s in servers if s.host == self.subject]
        return self.chance.choice(here or servers) if servers else None

    def leaving(self) -> bool:
        """Whether the subject's servers are to go elsewhere: it is not there, and they are still its own."""
        world = self.sim.world
        return not world.hosts[self.subject].speaks and any(s.host == self.subject for s in world.nova.servers.values())

    def secs(self, low: float, high: float) -> str:
        """So many seconds, as a script says it."""
        return f"{self.pace * self.chance.uniform(low, high):.1f}"


Draw = Callable[[Scene], list[str]]


@dataclass(frozen=True)
class Fault:
    """See the module. `mixed`: a mixture of others, for random lives only. `lasts_s`: it means nothing if it is shorter, whatever the pace."""

    name: str
    weight: int
    draw: Draw
    mixed: bool = False
    lasts_s: float = 0.0


def _one(make: Callable[[Scene], str]) -> Draw:
    return lambda s: [make(s)]


def _device(*kinds: DeviceFault) -> Draw:
    return _one(lambda s: f"device {s.subject} {s.chance.choice(kinds)} {s.device()} for {s.secs(8, 60)}")


def _nova(trouble: str, low: float = 3, high: float = 40, shares: tuple[float, ...] = (1, 1, 0.5)) -> Draw:
    """Of a trouble that meets changes and reads alike, a share lets changes through to meet it."""
    return _one(lambda s: f"nova {trouble} {s.chance.choice(shares)} for {s.secs(low, high)}")


def _loss(share: float, low: float, high: float) -> Draw:
    """The less is lost, the longer it takes until something is. Where it is little, it is everywhere."""

    def draw(s: Scene) -> list[str]:
        where = s.chance.choice(("*", s.subject, s.controller()))
        return [f"loss {share:g} {'*' if share < 0.02 else where} for {s.secs(low, high)}"]

    return draw


def _device_any(s: Scene) -> list[str]:
    kinds = [f for f in DeviceFault if f not in (DeviceFault.NONE, DeviceFault.LYING)]
    return [f"device {s.subject} {s.chance.choice(kinds)} for {s.secs(10, 200)}"]


def _kill(s: Scene) -> list[str]:
    """Somebody may switch it on again in the middle of everything."""
    host = s.host()
    return [f"kill {host} for {s.secs(5, 60)}" if s.chance.random() < 0.2 else f"kill {host}"]


HANGS_FOR_S, REFUSED_FOR_S, PAUSED_FOR_S = 45.0, 45.0, 40.0  # in the matrix, at most


def _patience(s: Scene) -> float:
    """Until a host whose kernel answers counts as hung, where Nova hears nothing of it."""
    detection = s.sim.policy.detection
    return detection.down_after_s + detection.hung_patience_s


def _long_hang(s: Scene) -> str:
    return f"hang {s.host()} for {_patience(s) + s.chance.uniform(2, 12):.1f}"


def _refused(s: Scene) -> list[str]:
    """Mostly Nova does not hear of the host either, so that nothing but its certificate says that its programs run."""
    host, seconds = s.host(), f"{_patience(s) * s.chance.uniform(0.3, 1.3):.1f}"
    lines = [f"certificate_refused {host} for {seconds}"]
    return [*lines, f"cut {host} {NOVA} for {seconds}"] if s.chance.random() < 0.7 else lines


def _keystone(s: Scene) -> list[str]:
    """Half of the time the token was about to end."""
    token_s = s.chance.choice(("0", s.secs(0, 30)))
    return [f"keystone_down {token_s} for {s.secs(20, 80)}"]


def _past_the_lease(s: Scene) -> list[str]:
    """Whoever leads stands still until another one has long taken over; nothing where there is no other."""
    leader = s.sim.leader
    if leader is None or len(s.sim.processes) < 2:
        return []
    return [f"pause {leader.name} for {s.sim.policy.lease_s * s.chance.uniform(1.5, 3.0):.1f}"]


def _plane(s: Scene) -> list[str]:
    host = s.host()
    plane = s.chance.choice((MANAGEMENT, *s.sim.policy.hosts[host].planes))
    return [f"lose_plane {host} {plane} for {s.secs(3, 90)}"]


def _own_cable(s: Scene) -> list[str]:
    """A cable of a controller, and what it reaches over it."""
    c, hosts, seconds = s.controller(), (s.subject, s.other()), s.secs(5, 90)
    return [f"own_cable {c} for {seconds}", *(f"cut {c} {host} for {seconds}" for host in hosts)]


def _own_gateway(s: Scene) -> list[str]:
    c, seconds = s.controller(), s.secs(5, 90)
    return [f"own_gateway {c} for {seconds}", f"nova down for {seconds}"]


def _migration(s: Scene) -> list[str]:
    server = s.server()
    return [] if server is None else [f"migrate {server.name} {s.other()} {s.secs(4, 40)}"]


def _broken_migration(s: Scene) -> list[str]:
    """A live migration, and one of its ends fails at once or soon."""
    server = s.server()
    if server is None:
        return []
    dest = s.other()
    harm = s.chance.choice(("kill", "reboot", "freeze"))
    return [f"migrate {server.name} {dest} {s.secs(2, 20)}", f"{harm} {s.chance.choice((server.host, dest))}"]


def _deleted(s: Scene) -> list[str]:
    server = s.server()
    return [] if server is None else [f"delete {server.name}"]


def _maintenance(s: Scene) -> list[str]:
    return [f"hasty maintenance_on {s.subject} planned work for {s.secs(10, 60)}"]


def _confirm_hastily(s: Scene) -> list[str]:
    """A person who did not go and look confirms a host that is silent, rather one that is on than one that is off."""
    silent = sorted((not h.powered, h.name != s.subject, h.name) for h in s.sim.world.hosts.values() if not h.speaks)
    return [f"hasty confirm_fenced {silent[0][2] if silent else s.other()} I hold its plug"]


def _host_to_nova(s: Scene) -> list[str]:
    """Mostly of the host that has work to do: another one while servers leave the subject, later itself."""
    where = s.other() if s.leaving() == (s.chance.random() < 0.8) else s.subject
    return [f"cut {where} {NOVA} for {s.secs(40, 150)}"]


POLLS = "recovery.poll_s=0.7"


def _reload(s: Scene) -> list[str]:
    """Once the servers have left mostly what still matters then."""
    change = s.chance.choice(
        (
            "detection.down_after_s=20.0",
            "recovery.window_min=1",
            "fencing.attempt_s=5.0",
            "fencing.evidence_max_age_s=10.0",
            "detection.witness_fresh_s=20.0",
            POLLS,
        )
    )
    if not s.leaving() and s.chance.random() < 0.8:
        change = POLLS
    return [f"reload {change} for {s.secs(5, 60)}"]


TABLE: tuple[Fault, ...] = (
    # hosts
    Fault("host death", 12, _kill),
    Fault("kernel hang", 5, _one(lambda s: f"hang {s.host()} for {s.secs(5, 120)}")),
    Fault("freeze 4 s", 2, _one(lambda s: f"freeze {s.host()} for 4")),
    Fault("freeze 9 s", 2, _one(lambda s: f"freeze {s.host()} for 9")),
    Fault("freeze 40 s", 3, _one(lambda s: f"freeze {s.host()} for 40"), lasts_s=40.0),
    Fault("hang past patience", 2, _one(_long_hang), lasts_s=HANGS_FOR_S),
    Fault("panic", 3, _one(lambda s: f"panic {s.host()} {s.secs(24, 80)}")),
    Fault("fast reboot", 2, _one(lambda s: f"reboot {s.host()} 2")),
    Fault("dark boot", 2, _one(lambda s: f"dark_boot {s.host()} for {s.secs(30, 90)}")),
    Fault("agent crash", 3, _one(lambda s: f"agent_crash {s.host()} for {s.secs(2, 60)}")),
    Fault("certificate refused", 2, _refused, lasts_s=REFUSED_FOR_S),
    Fault("out of memory", 2, _one(lambda s: f"out_of_memory {s.host()}")),
    Fault("total power loss", 3, _one(lambda s: f"supply {s.host()} for {s.secs(20, 90)}")),
    Fault("rack power loss", 2, _one(lambda s: f"rack {s.host()} for {s.secs(20, 90)}")),
    Fault("destination dies", 3, _one(lambda s: "kill_destination")),
    Fault("destination freezes", 2, _one(lambda s: f"freeze_destination {s.secs(3, 60)}")),
    Fault("malice", 3, _one(lambda s: f"malice {s.chance.uniform(0.2, 0.8):.2f}"), mixed=True),
    Fault("switched on", 2, _one(lambda s: f"power_on {s.subject}")),
    # the network
    Fault("management NIC cut", 5, _one(lambda s: f"isolate {s.host()} for {s.secs(3, 90)}")),
    Fault("one plane lost", 3, _plane),
    Fault("loss towards a host", 1, _one(lambda s: f"one_way {s.controller()} {s.subject} for {s.secs(15, 80)}")),
    Fault("loss from a host", 1, _one(lambda s: f"one_way {s.subject} {s.controller()} for {s.secs(15, 80)}")),
    Fault("packet loss 1 %", 1, _loss(0.01, 40, 100)),
    Fault("packet loss 5 %", 1, _loss(0.05, 20, 60)),
    Fault("packet loss 20 %", 1, _loss(0.2, 20, 60)),
    Fault(
        "delay",
        1,
        _one(
            lambda s: f"delay {s.chance.choice((0.1, 0.5, 2))} {s.chance.choice(('*', s.subject))} for {s.secs(10, 60)}"
        ),
    ),
    Fault("controller to one host", 4, _one(lambda s: f"cut {s.controller()} {s.host()} for {s.secs(3, 90)}")),
    Fault("controllers to hosts", 2, _one(lambda s: f"no_hosts {s.controller()} for {s.secs(3, 60)}")),
    Fault("host to host", 2, _one(lambda s: f"cut {s.subject} {s.other()} for {s.secs(20, 120)}")),
    Fault("hosts to hosts", 1, _one(lambda s: f"split for {s.secs(20, 120)}")),
    Fault("controllers to BMCs", 2, _one(lambda s: f"no_bmcs for {s.secs(5, 60)}")),
    Fault("host to Nova", 2, _host_to_nova),
    # fencing devices
    Fault("BMC misbehaves", 4, _device_any, mixed=True),
    Fault("BMC slow", 1, _device(DeviceFault.SLOW)),
    Fault("BMC hanging", 1, _device(DeviceFault.HANG)),
    Fault("BMC refusing", 1, _device(DeviceFault.REFUSE)),
    Fault("BMC stays on", 1, _device(DeviceFault.IGNORE_OFF)),
    Fault("BMC slow to switch", 1, _device(DeviceFault.SLOW_OFF)),
    Fault("BMC flapping", 1, _device(DeviceFault.FLAKY, DeviceFault.FLAPS)),
    Fault("BMC restores power", 1, _device(DeviceFault.RESTORES)),
    Fault("another machine's BMC", 1, _device(DeviceFault.ELSEWHERE)),
    Fault("lying BMC", 1, _device(DeviceFault.LYING)),
    # Nova and what it needs
    Fault("Nova away", 3, _nova("down")),
    Fault("Nova 500", 2, _nova("500", shares=(1, 0.5, 0.25))),
    Fault("Nova 503", 2, _nova("503", shares=(1, 0.5, 0.25))),
    Fault("Nova 429", 1, _nova("429")),
    Fault("Nova 409", 1, _nova("409")),
    Fault("Nova slow", 1, _nova("slow")),
    Fault("lost answer, done", 2, _nova("lost_done")),
    Fault("lost answer, not done", 2, _nova("lost_not_done")),
    Fault("unknown rows", 1, _one(lambda s: f"rows_unknown {s.subject} for {s.secs(5, 40)}")),
    Fault("cell down", 1, _one(lambda s: f"cell_down {' '.join(s.sim.world.hosts)} for {s.secs(5, 40)}")),
    Fault("Keystone down", 1, _keystone),
    Fault("broker down", 1, _one(lambda s: f"broker down for {s.secs(5, 60)}")),
    Fault("broker frozen", 1, _one(lambda s: f"broker frozen for {s.secs(5, 60)}")),
    Fault("no valid host", 1, _one(lambda s: f"no_room for {s.secs(10, 60)}")),
    Fault("spawn fails", 2, _one(lambda s: f"spawn_fails {s.other()} for {s.secs(10, 60)}")),
    Fault("live migration", 3, _migration),
    Fault("broken live migration", 4, _broken_migration),
    Fault("server deleted", 1, _deleted),
    # the controller, its store and its machine
    Fault("disk full", 2, _one(lambda s: f"store_full {s.chance.randint(1, 15)}")),
    Fault(
        "store locked",
        1,
        _one(lambda s: f"store_locked {s.chance.choice((2, 9, 20, 40)) * s.chance.uniform(0.5, 1.5):.1f}"),
    ),
    Fault("controller crash", 3, _one(lambda s: f"crash {s.secs(0.5, 30)} {s.controller()}")),
    Fault("crash before a write", 3, _one(lambda s: f"crash_at_commit before {s.chance.randint(1, 8)}")),
    Fault("crash after a write", 3, _one(lambda s: f"crash_at_commit after {s.chance.randint(1, 8)}")),
    Fault("controller paused", 4, _one(lambda s: f"pause {s.controller()} for {s.secs(0.5, 45)}")),
    Fault("pause past the lease", 2, _past_the_lease, lasts_s=PAUSED_FOR_S),
    Fault(
        "controller lags",
        2,
        _one(lambda s: f"lag {s.chance.choice((0.6, 1.2, 5))} {s.controller()} for {s.secs(5, 90)}"),
    ),
    Fault("controller's cable", 2, _own_cable),
    Fault("controller's gateway", 1, _own_gateway),
    Fault("another machine", 1, _one(lambda s: "move")),
    Fault(
        "clock stepped",
        1,
        _one(lambda s: f"clock_step {s.chance.choice((-86400, -61, 61, 3600, 86400))} for {s.secs(5, 60)}"),
    ),
    # people and other monitors
    Fault("maintenance", 1, _maintenance),
    Fault("disarm", 1, _one(lambda s: f"hasty disarm for {s.secs(5, 60)}")),
    Fault("pause order", 1, _one(lambda s: f"hasty pause for {s.secs(5, 60)}")),
    Fault("fence order", 1, _one(lambda s: f"hasty fence {s.host()} I know better")),
    Fault("hasty confirmation", 1, _confirm_hastily),
    Fault("release order", 1, _one(lambda s: f"hasty release {s.subject} moved by hand")),
    Fault("reload", 1, _reload),
    Fault("reload without the host", 1, _one(lambda s: f"reload_without {s.host()} for {s.secs(5, 60)}")),
    Fault("false report", 1, _one(lambda s: f"report {s.host()}")),
    Fault("foreign claimant", 1, _one(lambda s: f"foreign_claim {s.other()}")),
)

BY_NAME: Mapping[str, Fault] = {f.name: f for f in TABLE}


def pick(chance: random.Random) -> Fault:
    """One fault, by its weight."""
    return chance.choices(TABLE, [f.weight for f in TABLE])[0]


def strike(fault: Fault, sim: Simulation, chance: random.Random, subject: str, pace: float = 1.0) -> list[str]:
    """It happens now. The lines that would repeat it in a script."""
    lines = fault.draw(Scene(sim, chance, subject, pace))
    for line in lines:
        sim.world.log(f"fault: {fault.name}: {line}")
        perform(sim, line)
    return lines


def mend(sim: Simulation) -> None:
    """Everything that is broken and that no recovery mends is mended: links, devices, Nova, processes."""
    world = sim.world
    world.log("everything that is broken is mended")
    world.weather.mend()
    world.network.mend()
    if world.broker:
        world.set_broker("")
    for name, host in world.hosts.items():
        row = world.nova.hosts[name]
        row.spawn_fails, row.disabled = "", False
        if host.frozen:
            world.thaw(name)
        if host.hung:
            world.unhang(name)
        if host.refused:
            world.refuse(name, refused=False)
        host.remote = host.remote or host.powered
        for device in host.devices:
            if host.devices[device].fault is not DeviceFault.NONE:
                world.fault(name, DeviceFault.NONE, device)
    sim.store.mend()
    for process in sim.processes:
        process.crash_at.clear()
        process.resume()
        if process.policy is not sim.policy:
            process.reload(sim.policy)
    world.changed_at = world.now
