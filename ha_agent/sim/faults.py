"""What goes wrong in a random world: a table of faults, each of which begins, and after a while is mended."""

from __future__ import annotations

import random
from collections.abc import Callable

from ha_agent.errors import StoreFull
from ha_agent.model import Order
from ha_agent.ports import Reported
from ha_agent.sim.nova_state import EVACUATION, NovaError
from ha_agent.sim.simulation import Simulation
from ha_agent.sim.world import NOVA, DeviceFault
from ha_agent.store.memory import Moment

Fault = Callable[[Simulation, random.Random], None]


def power(sim: Simulation, chance: random.Random) -> None:
    """A host loses its power; sometimes somebody switches it on again in the middle of everything."""
    host = _host(sim, chance)
    sim.world.power_off(host)
    if chance.random() < 0.2:
        sim.world.timeline.after(chance.uniform(5, 60), lambda: sim.world.power_on(host, "somebody switches it on"))


def supply(sim: Simulation, chance: random.Random) -> None:
    """The supply that feeds a host and its fencing devices fails: nobody can prove that it is off."""
    host = _host(sim, chance)
    for device in sim.world.hosts[host].devices:
        sim.world.fault(host, DeviceFault.DEAD, device)
    sim.world.power_off(host, "its power supply fails")


def panic(sim: Simulation, chance: random.Random) -> None:
    """A kernel panics and boots again."""
    sim.world.reboot(_host(sim, chance))


def rack(sim: Simulation, chance: random.Random) -> None:
    """Several hosts of one failure domain die together."""
    domain = sim.world.hosts[_host(sim, chance)].domain
    alike = [h.name for h in sim.world.hosts.values() if h.domain == domain]
    for host in chance.sample(alike, min(len(alike), chance.randint(2, 3))):
        sim.world.power_off(host, "its rack loses power")


def freeze(sim: Simulation, chance: random.Random) -> None:
    """A kernel stands still, and goes on later."""
    host = _host(sim, chance)
    sim.world.freeze(host)
    _later(sim, chance, 3, 120, lambda: sim.world.thaw(host))


def hang(sim: Simulation, chance: random.Random) -> None:
    """Processes hang, the kernel answers."""
    host = _host(sim, chance)
    sim.world.hang(host)
    _later(sim, chance, 5, 200, lambda: sim.world.unhang(host))


def isolate(sim: Simulation, chance: random.Random) -> None:
    """A host is cut off from everybody, its guests run on."""
    host = _host(sim, chance)
    sim.world.isolate(host, [p.name for p in sim.processes])
    _later(sim, chance, 3, 200, lambda: sim.world.join(host))


def our_path(sim: Simulation, chance: random.Random) -> None:
    """Only a controller's own path to a host is broken."""
    host, controller = _host(sim, chance), chance.choice(sim.processes).name
    sim.world.cut(controller, host)
    _later(sim, chance, 3, 120, lambda: sim.world.heal(controller, host))


def our_network(sim: Simulation, chance: random.Random) -> None:
    """A controller reaches no host at all."""
    controller = chance.choice(sim.processes).name
    for host in sim.world.hosts:
        sim.world.cut(controller, host)
    _later(sim, chance, 3, 90, lambda: _heal_all(sim, controller))


def nova_path(sim: Simulation, chance: random.Random) -> None:
    """A host's nova-compute reaches Nova no more."""
    host = _host(sim, chance)
    sim.world.cut(host, NOVA)
    _later(sim, chance, 5, 120, lambda: sim.world.heal(host, NOVA))


def between(sim: Simulation, chance: random.Random) -> None:
    """Two hosts do not reach each other."""
    a, b = chance.sample(list(sim.world.hosts), 2)
    sim.world.cut(a, b)
    _later(sim, chance, 5, 200, lambda: sim.world.heal(a, b))


def agent(sim: Simulation, chance: random.Random) -> None:
    """A remote crashes."""
    host = _host(sim, chance)
    sim.world.agent(host, up=False)
    _later(sim, chance, 2, 120, lambda: sim.world.agent(host, up=True))


def device(sim: Simulation, chance: random.Random) -> None:
    """A fencing device misbehaves."""
    host = _host(sim, chance)
    kinds = [f for f in DeviceFault if f not in (DeviceFault.NONE, DeviceFault.LYING)]
    sim.world.fault(host, chance.choice(kinds))
    _later(sim, chance, 10, 200, lambda: sim.world.fault(host, DeviceFault.NONE))


def nova_down(sim: Simulation, chance: random.Random) -> None:
    """Nova's API is away."""
    _nova(sim, down=True)
    _later(sim, chance, 2, 90, lambda: _nova(sim, down=False))


def nova_lossy(sim: Simulation, chance: random.Random) -> None:
    """Nova's API loses answers."""
    sim.world.nova_lossy = chance.uniform(0.1, 0.5)
    _later(sim, chance, 20, 120, lambda: setattr(sim.world, "nova_lossy", 0.0))


def spawn_fails(sim: Simulation, chance: random.Random) -> None:
    """A destination cannot start guests."""
    host = _host(sim, chance)
    sim.world.nova.hosts[host].spawn_fails = "the hypervisor is out of sorts"
    _later(sim, chance, 10, 120, lambda: setattr(sim.world.nova.hosts[host], "spawn_fails", ""))


def crash(sim: Simulation, chance: random.Random) -> None:
    """A controller is killed."""
    chance.choice(sim.processes).crash(chance.uniform(0.5, 30))


def crash_at_journal(sim: Simulation, chance: random.Random) -> None:
    """A controller dies at one of its next journal writes, immediately before or after it."""
    process = chance.choice(sim.processes)
    moment = chance.choice((Moment.BEFORE, Moment.AFTER))
    process.crash_at.add((moment, sim.store.commits + chance.randint(1, 40)))


def pause(sim: Simulation, chance: random.Random) -> None:
    """A controller stands still."""
    process = chance.choice(sim.processes)
    process.pause()
    _later(sim, chance, 0.5, 45, process.resume)


def store_full(sim: Simulation, chance: random.Random) -> None:
    """The disk below the journal is full for some writes."""
    sim.store.fail_next(StoreFull("the disk is full"), chance.randint(1, 15))


def live_migration(sim: Simulation, chance: random.Random) -> None:
    """A server is on its way by live migration when the rest happens."""
    servers = sorted(sim.world.nova.servers.values(), key=lambda s: s.name)
    if not servers:
        return
    server, dest = chance.choice(servers), _host(sim, chance)
    try:
        sim.world.nova.live_migrate(server.id, dest, chance.uniform(4, 40))
        sim.world.log(f"{server.name} migrates live from {server.host} to {dest}")
    except NovaError:
        pass


def source_dies_in_migration(sim: Simulation, chance: random.Random) -> None:
    """A live migration, and its source or its destination fails in the middle of it."""
    servers = [s for s in sorted(sim.world.nova.servers.values(), key=lambda s: s.name) if s.vm_state == "active"]
    if not servers:
        return
    server, dest, lasts = chance.choice(servers), _host(sim, chance), chance.uniform(2, 20)
    source = server.host
    try:
        sim.world.nova.live_migrate(server.id, dest, lasts)
    except NovaError:
        return
    sim.world.log(f"{server.name} migrates live from {source} to {dest}")
    victim = chance.choice((source, source, dest))
    harm = chance.choice((sim.world.power_off, sim.world.reboot, sim.world.freeze))
    sim.world.timeline.after(chance.uniform(0, lasts), lambda: harm(victim))


def malice(sim: Simulation, chance: random.Random) -> None:
    """A host dies, and a while after each evacuation began something happens to its destination, or to its source again."""
    sim.world.power_off(_host(sim, chance))
    seen: set[int] = set()
    end = sim.world.now + 120.0
    often = chance.uniform(0.2, 0.8)

    def look() -> None:
        for m in sim.world.nova.migrations[-20:]:
            if m.kind == EVACUATION and m.dest and m.status == "pre-migrating" and m.id not in seen:
                seen.add(m.id)
                if chance.random() < often:
                    _harm(sim, chance, m.dest if chance.random() < 0.7 else m.source)
        if sim.world.now < end:
            sim.world.timeline.after(0.2, look)

    look()


def _harm(sim: Simulation, chance: random.Random, host: str) -> None:
    world = sim.world
    if not world.hosts[host].powered:
        world.power_on(host, "somebody switches it on")
        return
    kind = chance.choice(("power", "freeze", "isolate", "reboot", "nova"))
    if kind == "power":
        world.power_off(host)
    elif kind == "reboot":
        world.reboot(host)
    elif kind == "freeze":
        world.freeze(host)
        _later(sim, chance, 1, 100, lambda: world.thaw(host))
    elif kind == "isolate":
        world.isolate(host, [p.name for p in sim.processes])
        _later(sim, chance, 1, 100, lambda: world.join(host))
    else:
        world.cut(host, NOVA)
        _later(sim, chance, 1, 100, lambda: world.heal(host, NOVA))


def reset_states(sim: Simulation, chance: random.Random) -> None:
    """A person resets every server that hangs in a task."""
    for server in sorted(sim.world.nova.servers.values(), key=lambda s: s.name):
        if server.task_state in ("migrating", "powering-off", "powering-on"):
            sim.world.log(f"somebody resets the state of {server.name}, which is {server.task_state}")
            sim.world.nova.reset_state(server.id, "active")


def maintenance(sim: Simulation, chance: random.Random) -> None:
    """Planned work: the host is switched off and on again."""
    host = _host(sim, chance)
    sim.order(Order.MAINTENANCE_ON, host, "planned work")
    world = sim.world
    world.timeline.after(5.0, lambda: world.power_off(host, "planned work"))
    world.timeline.after(40.0, lambda: world.power_on(host, "planned work is done"))


def disarm(sim: Simulation, chance: random.Random) -> None:
    """Somebody disarms."""
    sim.order(Order.DISARM)


def lying(sim: Simulation, chance: random.Random) -> None:
    """A device reads off, whatever the host does: the documented limit. What follows must still end."""
    host = _host(sim, chance)
    sim.world.fault(host, DeviceFault.LYING)
    _later(sim, chance, 30, 200, lambda: sim.world.fault(host, DeviceFault.NONE))


def false_report(sim: Simulation, chance: random.Random) -> None:
    """Another monitor cries wolf."""
    host = _host(sim, chance)
    sim.world.log(f"a monitor says that {host} failed")
    for process in sim.processes:
        process.told(Reported(host=host, at=sim.world.now, source="monitor", text="it failed"))


def deleted(sim: Simulation, chance: random.Random) -> None:
    """An owner deletes a server."""
    servers = sorted(sim.world.nova.servers.values(), key=lambda s: s.name)
    if servers:
        server = chance.choice(servers)
        sim.world.log(f"{server.name} is deleted by its owner")
        sim.world.nova.delete(server.id)


def fence_order(sim: Simulation, chance: random.Random) -> None:
    """A person wants a host off, whatever we believe."""
    sim.order(Order.FENCE, _host(sim, chance), "I know better")


def paused(sim: Simulation, chance: random.Random) -> None:
    """A person wants nothing to be touched for a while."""
    sim.order(Order.PAUSE, reason="network work")
    _later(sim, chance, 10, 100, lambda: sim.order(Order.UNPAUSE))


TABLE: tuple[tuple[int, Fault], ...] = (
    (12, power),
    (3, supply),
    (4, panic),
    (2, rack),
    (5, freeze),
    (5, hang),
    (5, isolate),
    (4, our_path),
    (2, our_network),
    (2, nova_path),
    (2, between),
    (3, agent),
    (6, device),
    (3, nova_down),
    (3, nova_lossy),
    (2, spawn_fails),
    (3, crash),
    (6, crash_at_journal),
    (4, pause),
    (2, store_full),
    (3, live_migration),
    (4, source_dies_in_migration),
    (4, malice),
    (1, maintenance),
    (1, disarm),
    (1, lying),
    (1, false_report),
    (1, deleted),
    (1, fence_order),
    (1, paused),
)


def pick(chance: random.Random) -> Fault:
    """One fault, by its weight."""
    return chance.choices([f for _, f in TABLE], [w for w, _ in TABLE])[0]


def mend(sim: Simulation) -> None:
    """Everything that is broken and that no recovery mends is mended: links, devices, Nova, processes."""
    world = sim.world
    world.log("everything that is broken is mended")
    world.nova_down, world.nova_lossy = False, 0.0
    world.cuts.clear()
    for name, host in world.hosts.items():
        world.nova.join(name)
        world.nova.hosts[name].spawn_fails = ""
        if host.frozen:
            world.thaw(name)
        if host.hung:
            world.unhang(name)
        host.remote = host.remote or host.powered
        for row in host.devices:
            if host.devices[row].fault is not DeviceFault.NONE:
                world.fault(name, DeviceFault.NONE, row)
    for process in sim.processes:
        process.crash_at.clear()
        process.resume()
    world.changed_at = world.now


def _host(sim: Simulation, chance: random.Random) -> str:
    return chance.choice(list(sim.world.hosts))


def _later(sim: Simulation, chance: random.Random, low: float, high: float, action: Callable[[], object]) -> None:
    sim.world.timeline.after(chance.uniform(low, high), lambda: (action(), None)[1])


def _nova(sim: Simulation, *, down: bool) -> None:
    sim.world.log(f"Nova's API is {'away' if down else 'back'}")
    sim.world.nova_down = down


def _heal_all(sim: Simulation, controller: str) -> None:
    for host in sim.world.hosts:
        sim.world.heal(controller, host)
