"""The world that a simulated controller looks at: hosts, the links between them, fencing devices, and Nova. It knows the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ha_agent.model import Answer, Power
from ha_agent.planes import MANAGEMENT
from ha_agent.policy import Policy
from ha_agent.sim.devices import MUTE, RESTORE_S, Device, DeviceFault
from ha_agent.sim.network import BMCS, NOVA, Network
from ha_agent.sim.nova_state import NovaState
from ha_agent.sim.timeline import Timeline, stream
from ha_agent.sim.weather import Weather

BOOT_S = 20.0  # from power on to a kernel that answers
COMPUTE_START_S = 2.0  # from an open gate to a nova-compute that reports
SILENCE_S, SILENT_BEATS = 5.0, 5  # without a heartbeat for so long and so many intervals, a connection is given up
SERVICE_RESTART_S = 5.0  # until the service manager has restarted what the kernel killed


@dataclass
class Host:
    """One hypervisor. `life` counts its power changes, so that what was planned for an earlier one does not happen. `gate`: the boot that
    its nova-compute may start in. `powered_at`: since when it has power. `refused`: nobody accepts its certificate."""

    name: str
    domain: str
    devices: dict[str, Device]
    powered: bool = True
    kernel: bool = True
    remote: bool = True
    frozen: bool = False
    hung: bool = False
    panicked: bool = False
    refused: bool = False
    boot: int = 1
    life: int = 1
    gate: str = ""
    seq: int = 0
    heard: bool = False
    started_at: float = 0.0
    powered_at: float = 0.0
    events: dict[str, GuestTrouble] = field(default_factory=dict)  # by the name that its remote gave it
    _boot_id: str = ""
    _boot_of_id: int = 0

    @property
    def boot_id(self) -> str:
        """Of its kernel."""
        if self.boot != self._boot_of_id:
            self._boot_id, self._boot_of_id = f"b{self.boot:03d}-{self.name}", self.boot
        return self._boot_id

    @property
    def answers_tcp(self) -> bool:
        """Whether its kernel answers."""
        return self.powered and self.kernel and not self.frozen

    @property
    def speaks(self) -> bool:
        """Whether its remote does, with a certificate that is accepted."""
        return self.answers and not self.refused

    @property
    def answers(self) -> bool:
        """Whether its remote does, whatever its certificate."""
        return self.powered and self.kernel and not self.frozen and self.remote and not self.hung


@dataclass(frozen=True)
class GuestTrouble:
    """What happened to a guest, as its host's remote keeps it on disk until a controller has taken it: a crash of the remote takes nothing
    away. `boot_id`: in which `at` can be compared; after another boot nobody knows when it was."""

    server: str
    fault: str
    at: float
    boot_id: str


def machine(host: str) -> str:
    """What the management controller of a host says it is."""
    return f"machine-of-{host}"


@dataclass
class Attempt:
    """One off that is being tried, in a worker process of `controller`."""

    host: str
    controller: str
    command: str
    alive: bool = True


class World:
    """See the module. `log` takes one line per change, without the time."""

    def __init__(self, seed: int | str, policy: Policy, log: Callable[[str], None] = lambda line: None) -> None:
        self.timeline = Timeline()
        self.policy = policy
        self.log = log
        self.network = Network(stream(seed, "network"))
        report_s = policy.detection.nova_report_interval_s
        self.nova = NovaState(lambda: self.timeline.now, stream(seed, "nova"), report_s=report_s)
        self.weather = Weather(stream(seed, "nova answers"), lambda: self.timeline.now)
        self.broker = ""  # "", "down" or "frozen": of our notifications, and of Nova's own messages
        self.in_broker: list[Callable[[], None]] = []  # sent to it while it stands still
        self.microversion = (2, 94)  # of our requests; from 2.95 on evacuated servers land stopped
        self.hosts: dict[str, Host] = {}
        self.boot_s = BOOT_S
        self.compute_start_s = COMPUTE_START_S
        self.attempts: list[Attempt] = []
        self.changed_at = 0.0  # when something was last broken or mended
        self.controller_planes: tuple[str, ...] = ()  # that controllers have, besides the management plane
        self.lied: set[str] = set()  # hosts of which a device lied (a limit), until it ends with an incident
        for name, host in policy.hosts.items():
            names = [d for level in host.fencing.levels for d in level]
            self.hosts[name] = row = Host(name, host.domain, {d: Device(d) for d in names})
            row.gate = row.boot_id
            self.nova.add_host(name)

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.timeline.now

    @property
    def planned(self) -> int:
        """How many things are to come, here or in Nova."""
        return self.timeline.planned + self.nova.planned

    def step(self, end: float = float("inf")) -> bool:
        """Whatever comes next, here or in Nova. False: nothing comes until `end`."""
        timeline, due = self.timeline, self.nova.next_due()
        following = timeline.next_at()
        if due is not None and (following is None or due <= following):
            if due > end:
                return False
            timeline.now = max(timeline.now, due)
            self.nova.tick()
        elif following is None or following > end:
            return False
        else:
            timeline.step()
        return True

    # --- links ---

    def reach(self, a: str, b: str) -> bool:
        """Whether a question and its answer pass between two nodes, over the management plane."""
        return self.network.reach(a, b)

    def arrives(self, a: str, b: str) -> bool:
        """`a` sends something to `b` over the connection that they have, or could make: whether it arrives."""
        return self.network.arrives(a, b, self.now)

    def planes_of(self, node: str) -> tuple[str, ...]:
        """Those it has besides the management plane."""
        host = self.policy.hosts.get(node)
        return host.planes if host is not None else self.controller_planes

    def reach_over_any(self, a: str, b: str) -> bool:
        """Whether they pass over any plane that both have."""
        return self.reach(a, b) or any(
            self.network.reach(a, b, plane) for plane in self.planes_of(b) if plane in self.planes_of(a)
        )

    def lose_plane(self, node: str, plane: str, *, lost: bool) -> None:
        """A node's cable on one plane is out, or in again."""
        self.changed(f"{node} {'loses' if lost else 'has'} the {plane} plane{'' if lost else ' again'}")
        (self.network.dark.add if lost else self.network.dark.discard)((node, plane))
        self._reports(node)

    def cut(self, a: str, b: str) -> None:
        """Frames between two nodes are lost."""
        self.changed(f"the path between {a} and {b} is cut")
        self.network.cuts.add(frozenset((a, b)))
        self._reports(a, b)

    def heal(self, a: str, b: str) -> None:
        """They pass again."""
        self.changed(f"the path between {a} and {b} works again")
        self.network.cuts.discard(frozenset((a, b)))
        self._reports(a, b)

    def isolate(self, host: str, nodes: Iterable[str]) -> None:
        """The host reaches none of the nodes, nor another host, nor Nova."""
        self.changed(f"{host} is cut off")
        self.network.cuts |= {frozenset((host, n)) for n in (*nodes, *self.hosts, NOVA) if n != host}
        self._reports(host)

    def join(self, host: str) -> None:
        """Every path of the host works again."""
        self.changed(f"{host} is connected again")
        self.network.cuts = {c for c in self.network.cuts if host not in c}
        self._reports(host)

    def one_way(self, a: str, b: str, *, lost: bool) -> None:
        """Frames from `a` to `b` are lost, those from `b` to `a` arrive."""
        self.changed(f"frames from {a} to {b} are {'lost' if lost else 'no longer lost'}")
        if lost:
            self.network.lose(a, b, self._stands_until(a, b))
        else:
            self.network.lose_no_more(a, b)
        self._reports(a, b)

    def _stands_until(self, a: str, b: str) -> float:
        """When a controller gives up its connection with a host's remote from which no heartbeat comes. Hosts dial each other anew each time."""
        hosts = [self.hosts[n] for n in (a, b) if n in self.hosts]
        if len(hosts) != 1 or NOVA in (a, b) or not hosts[0].speaks:
            return 0.0
        return self.now + max(SILENCE_S, SILENT_BEATS * self.policy.detection.heartbeat_interval_s)

    def ended(self, controller: str) -> None:
        """A controller's process is no more, and with it its connections and its token for Nova."""
        self.network.ended(controller)
        self.weather.ended(controller)

    def poor(self, node: str, *, loss: float | None = None, delay_s: float | None = None) -> None:
        """So many frames of a node (or "*") are lost, or each comes so much later."""
        for table, value, text in (
            (self.network.loss, loss, "of the frames are lost"),
            (self.network.delay, delay_s, "s is the delay"),
        ):
            if value is not None:
                self.changed(f"{node}: {value:g} {text}")
                table[node] = value

    def set_broker(self, state: str) -> None:
        """The message broker dies ("down"), stands still ("frozen"), or works (""). Without it no nova-compute reports."""
        self.changed(f"the message broker {'works again' if not state else 'is ' + state}")
        self.broker = state
        self._reports(*self.hosts)
        sent, self.in_broker = self.in_broker, []
        for deliver in sent if not state else ():  # one that is killed loses what it had not taken
            deliver()

    def _reports(self, *nodes: str) -> None:
        """Whether nova-computes reach Nova."""
        for host in nodes:
            if host in self.hosts:
                row = self.nova.hosts[host]
                isolated = bool(self.broker) or not self.reach(host, NOVA)
                if row.isolated != isolated:
                    (self.nova.isolate if isolated else self.nova.join)(host)

    # --- hosts ---

    def power_off(self, name: str, why: str = "power is lost") -> None:
        """Off, and everything on it."""
        host = self.hosts[name]
        if not host.powered:
            return
        self.changed(f"{name}: {why}")
        host.life += 1
        host.powered = host.kernel = host.frozen = host.hung = host.panicked = False
        self.network.ended(name)
        self.nova.power_cut(name)

    def power_on(self, name: str, why: str = "power is on", boot_s: float | None = None) -> None:
        """It boots: `boot_s` (or what its boots take here) later its kernel and its remote are there, and nova-compute waits at the gate."""
        host = self.hosts[name]
        if host.powered:
            return
        self.changed(f"{name}: {why}")
        host.life += 1
        host.boot += 1
        host.powered = True
        host.powered_at = self.now
        self.nova.power_on(name)
        life = host.life

        def booted() -> None:
            if host.life == life and host.powered:
                self.changed(f"{name} has booted")
                host.kernel = host.remote = True
                host.started_at = self.now

        self.timeline.after(self.boot_s if boot_s is None else boot_s, booted)

    def reboot(self, name: str, boot_s: float | None = None) -> None:
        """It resets itself and boots."""
        self.power_off(name, "it resets itself")
        self.power_on(name, "it boots by itself", boot_s)

    def panic(self, name: str, dump_s: float, boot_s: float | None = None) -> None:
        """Its kernel panics and dumps its memory for `dump_s`, then it boots by itself. Meanwhile it has power and answers nobody; its guests
        count as running, for nobody can tell it from a kernel that stands still."""
        host = self.hosts[name]
        if not host.answers_tcp:
            return
        self.changed(f"{name}: its kernel panics, and dumps its memory")
        host.kernel, host.panicked = False, True
        self.nova.freeze(name)
        life = host.life

        def dumped() -> None:
            if host.life == life:
                self.reboot(name, boot_s)

        self.timeline.after(dump_s, dumped)

    def freeze(self, name: str) -> None:
        """Its kernel stands still; its guests count as running, for they go on when it thaws."""
        self._stall(name, "its kernel stands still", frozen=True)

    def thaw(self, name: str) -> None:
        """It goes on where it stood."""
        self._stall(name, "its kernel goes on", frozen=False)

    def hang(self, name: str) -> None:
        """Its kernel answers, its processes do not; its guests run."""
        self._stall(name, "its processes hang", hung=True)

    def unhang(self, name: str) -> None:
        """Its processes go on."""
        self._stall(name, "its processes go on", hung=False)

    def _stall(self, name: str, why: str, *, frozen: bool | None = None, hung: bool | None = None) -> None:
        host = self.hosts[name]
        if not host.powered or host.panicked:
            return
        self.changed(f"{name}: {why}")
        host.frozen = host.frozen if frozen is None else frozen
        host.hung = host.hung if hung is None else hung
        if host.frozen or host.hung:
            self.nova.freeze(name)
        else:
            self.nova.thaw(name)

    def agent(self, name: str, *, up: bool) -> None:
        """Its remote ends, or starts again."""
        self.changed(f"{name}: its remote {'starts' if up else 'crashes'}")
        self.hosts[name].remote = up
        self.network.ended(name)

    def refuse(self, name: str, *, refused: bool) -> None:
        """Its remote shows a certificate that nobody accepts (it expired, say, or was revoked), or a good one again."""
        self.changed(f"{name}: its remote shows a certificate that {'has expired' if refused else 'is good'}")
        self.hosts[name].refused = refused
        self.network.ended(name)

    def out_of_memory(self, name: str) -> None:
        """The kernel kills the remote and nova-compute; both are restarted, the guests run on."""
        host = self.hosts[name]
        if not host.answers_tcp:
            return
        self.changed(f"{name}: out of memory, its remote and its nova-compute are killed")
        host.remote = False
        self.network.ended(name)
        self.nova.compute_stop(name)
        life = host.life

        def restart() -> None:
            if host.life == life and host.powered:
                self.changed(f"{name}: its remote and its nova-compute are restarted")
                host.remote = True
                if host.gate == host.boot_id:
                    self.nova.compute_start(name)

        self.timeline.after(SERVICE_RESTART_S, restart)

    def open_gate(self, name: str, boot_id: str) -> bool:
        """The word of a controller. False where it is for another boot."""
        host = self.hosts[name]
        if boot_id != host.boot_id:
            return False
        if host.gate != boot_id:
            host.gate, life = boot_id, host.life
            self.log(f"{name}: its gate opens")

            def start() -> None:
                reaches_nova = not self.nova.hosts[name].isolated  # without it, it does not come as far
                if host.life == life and host.answers_tcp and not host.hung and reaches_nova:
                    self.log(f"{name}: its nova-compute starts")
                    self.nova.compute_start(name)
                elif host.life == life and host.powered:
                    self.timeline.after(self.compute_start_s, start)  # it stands still, and goes on later

            self.timeline.after(self.compute_start_s, start)
        return True

    def waits_at_gate(self, name: str) -> bool:
        """Whether its nova-compute waits."""
        host = self.hosts[name]
        return host.answers_tcp and host.gate != host.boot_id

    # --- what others see of a host ---

    def astray(self, policy: Policy, host: str) -> bool:
        """Whether a controller with this inventory looks for the host where it is not."""
        return host in policy.hosts and policy.hosts[host].place != self.policy.hosts[host].place

    def probe(self, witness: str, target: str, plane: str = MANAGEMENT) -> Answer:
        """What `witness` finds when it tries to reach `target`."""
        host = self.hosts[target]
        if plane != MANAGEMENT and plane not in self.planes_of(witness):
            return Answer.FAILED  # it has no route
        if self.network.reach(witness, target, plane):
            if host.speaks:
                return Answer.SIGNED
            if host.answers_tcp:
                return Answer.TCP
        return Answer.SILENT

    def read(self, who: str, name: str, device_name: str) -> tuple[Power, str, str]:
        """One look of a controller at a fencing device; if it does not answer, why; if it does, which machine it says it is."""
        if not self.reach(who, BMCS):
            return Power.UNKNOWN, "no route to it", ""
        actual = self.behind(name, device_name)
        power, error = self.hosts[name].devices[device_name].read(powered=self.hosts[actual].powered)
        return power, error, "" if error else machine(actual)

    def lying(self, name: str) -> bool:
        """Whether a device of the host says now what is not so."""
        false = (DeviceFault.LYING, DeviceFault.ELSEWHERE)
        return any(device.fault in false for device in self.hosts[name].devices.values())

    def behind(self, name: str, device_name: str) -> str:
        """The host whose power a device switches: another one's where its address leads elsewhere."""
        names = list(self.hosts)
        elsewhere = self.hosts[name].devices[device_name].fault is DeviceFault.ELSEWHERE
        return names[(names.index(name) + elsewhere) % len(names)]

    def takes_s(self, name: str, device_names: Iterable[str]) -> float:
        """How much longer than usual a look at some of its devices takes."""
        return max((self.hosts[name].devices[d].takes_s for d in device_names), default=0.0)

    def fault(self, name: str, fault: DeviceFault, device: str | None = None) -> None:
        """Break one fencing device, or mend it."""
        row = next(iter(self.hosts[name].devices.values())) if device is None else self.hosts[name].devices[device]
        self.changed(f"{name}: its device {row.name} is {fault if fault is not DeviceFault.NONE else 'well'}")
        row.fault, row.looks = fault, 0
        if fault is DeviceFault.LYING or (fault is DeviceFault.ELSEWHERE and not row.known):
            self.lied.add(name)
        if fault is DeviceFault.RESTORES and not self.hosts[name].powered:
            self._restores(name, row.name)

    def switch(self, who: str, name: str, device_name: str, *, on: bool) -> bool:
        """An on or off request of a controller reaches a device, whichever machine it belongs to. False: nobody carries it out."""
        device = self.hosts[name].devices[device_name]
        fault = device.fault
        if fault in MUTE or not self.reach(who, BMCS):
            return False
        actual = self.behind(name, device_name)
        if actual != name:
            (self.power_on if on else self.power_off)(
                actual, f"{device_name} of {name} switches it {'on' if on else 'off'}"
            )
        elif on:
            self.power_on(name, f"{device_name} switches it on")
        elif fault is DeviceFault.SLOW_OFF:
            life = self.hosts[name].life
            self.timeline.after(device.off_s, lambda: self._slow_off(name, device_name, life))
        elif fault not in (DeviceFault.IGNORE_OFF, DeviceFault.LYING, DeviceFault.FLAPS):
            self.power_off(name, f"{device_name} switches it off")
            if fault is DeviceFault.RESTORES:
                self._restores(name, device_name)
        return True

    def _restores(self, name: str, device_name: str) -> None:
        life = self.hosts[name].life

        def restore() -> None:
            device = self.hosts[name].devices[device_name]
            if self.hosts[name].life == life and device.fault is DeviceFault.RESTORES:
                self.power_on(name, f"{device_name} switches it on again by its own policy")

        self.timeline.after(RESTORE_S, restore)

    def _slow_off(self, name: str, device_name: str, life: int) -> None:
        if self.hosts[name].life == life:
            self.power_off(name, f"{device_name} switches it off at last")

    def changed(self, line: str) -> None:
        self.changed_at = self.now
        self.log(line)


@dataclass
class Violation:
    """A rule that was broken. `rule`: as in DESIGN: S1 … S9, L1, or LIVE."""

    rule: str
    at: float
    text: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.at:.3f}: {self.text}"
