"""The words of ha-agent as frozen values. No I/O, no clock, no randomness: everything here can be compared, stored and replayed.

Times named `at` are seconds of CLOCK_BOOTTIME of the machine that wrote them; `wall` is seconds since the Unix epoch
and is for display only. Ids are UUIDv4 strings unless said otherwise. `host` is always the `host` of the host's nova-compute
service, byte for byte.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False, forbid_unknown_fields=False):
    """A frozen value. Unknown fields of a newer minor version are ignored when it is read."""


class Now(Value, frozen=True, kw_only=True):
    """The time at which something is decided. `at`: CLOCK_BOOTTIME seconds; `wall`: Unix seconds, display only."""

    at: float
    wall: float = 0.0


# --- hosts, as the detection sees them ---------------------------------------------------------------------------------


class Verdict(StrEnum):
    """What is believed of a host."""

    NEVER_SEEN = "never_seen"  # no heartbeat ever: alarmed, never fenced (S5)
    ALIVE = "alive"  # heartbeats arrive
    SUSPECT = "suspect"  # silent; other witnesses are being asked
    DOWN = "down"  # silent to every witness
    OFF = "off"  # its verified device reads off and nobody reaches it
    PARTITIONED = "partitioned"  # somebody reaches it: only our path is broken, no fence
    HUNG = "hung"  # its kernel answers TCP, nothing else moves: treated as down
    AGENT_LOST = "agent_lost"  # only our remote is gone: alarm, no fence
    REBOOTED = "rebooted"  # a new boot id without planned work
    UNKNOWN = "unknown"  # too little is known: alarm, no fence


class Health(StrEnum):
    """Health of a service on a host, as its remote reports it."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


class Answer(StrEnum):
    """What a witness says of a target."""

    SIGNED = "signed"  # the target's remote signed our nonce
    TCP = "tcp"  # the target's kernel answered TCP (a refusal counts), its remote did not
    SILENT = "silent"  # nothing came back
    FAILED = "failed"  # the witness itself could not ask: counts as no answer at all


# --- fencing -----------------------------------------------------------------------------------------------------------


class Power(StrEnum):
    """Power state of one device, as read. An error is UNKNOWN, never OFF (S9)."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class Reading(Value, frozen=True, kw_only=True):
    """One look at one fencing device. `at` is taken before the request was sent. `machine`: which machine the device says it is
    (GUID), empty where it cannot say. `error`: why the power is UNKNOWN."""

    device: str
    power: Power
    at: float
    wall: float = 0.0
    machine: str = ""
    error: str = ""


class EvidenceKind(StrEnum):
    """Why we believe that a host is off."""

    DEVICES = "devices"  # every device of one level read off, twice
    CONFIRMATION = "confirmation"  # an operator said so, for this incident
    TRUSTED = "trusted"  # a level that the operator declared trusted


class Evidence(Value, frozen=True, kw_only=True):
    """Why we believe that a host is off (S2). `at`: time of the oldest of the newest readings of its devices."""

    kind: EvidenceKind
    at: float
    wall: float = 0.0
    level: int = 0
    readings: tuple[Reading, ...] = ()
    by: str = ""


# --- Nova's things -----------------------------------------------------------------------------------------------------


class ComputeService(Value, frozen=True, kw_only=True):
    """A row of os-services. `state` is None where Nova cannot say (a cell is down). `updated_at`: Nova's text, compared for
    change only."""

    id: str
    host: str
    state: str | None = None
    status: str = "enabled"
    forced_down: bool = False
    updated_at: str = ""


class Server(Value, frozen=True, kw_only=True):
    """An instance, as Nova lists it. `local_disk`: it boots from an image on its host's own disk, so that an evacuation loses
    its data; None where that cannot be said."""

    id: str
    name: str = ""
    host: str = ""
    status: str = ""
    task_state: str | None = None
    power_state: int | None = None
    locked: bool = False
    project_id: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    local_disk: bool | None = None


class Migration(Value, frozen=True, kw_only=True):
    """A row of os-migrations. `id` grows with time."""

    id: int
    server: str
    kind: str
    status: str
    source: str
    dest: str = ""


# Statuses after which a migration can no longer start or keep a guest on any of its hosts.
MIGRATION_ENDED = frozenset({"completed", "failed", "error", "cancelled", "confirmed", "reverted", "done"})
# Statuses of an evacuation whose server runs at its destination.
EVACUATION_LANDED = frozenset({"done", "completed"})


class Survey(Value, frozen=True, kw_only=True):
    """What Nova says of a host: its servers, every migration that names it, and unfinished evacuations of its servers elsewhere."""

    servers: tuple[Server, ...] = ()
    migrations: tuple[Migration, ...] = ()
    service: ComputeService | None = None


class ServerStage(StrEnum):
    """Where one server of a failed host stands."""

    WAITING = "waiting"  # to be moved when there is room in the window
    HELD = "held"  # may still run elsewhere: waits for proof (S2)
    SENT = "sent"  # an evacuate intent is journalled
    LOST = "lost"  # the answer was lost: wait out the API, then look
    MOVING = "moving"  # Nova works on it
    RETRY = "retry"  # the last attempt failed; another follows
    LANDED = "landed"  # its evacuation is done; not verified yet
    STARTING = "starting"  # landed stopped, was running: being started
    VERIFIED = "verified"  # in its prior state on another host
    NOT_MOVED = "not_moved"  # not to be moved; the reason says why
    GIVEN_UP = "given_up"  # by an operator's release, or after settle_after_s; restarted in place when the host is back


STAGES_DONE = frozenset({ServerStage.VERIFIED, ServerStage.NOT_MOVED, ServerStage.GIVEN_UP})
STAGES_IN_FLIGHT = frozenset({ServerStage.SENT, ServerStage.LOST, ServerStage.MOVING})


class ServerProgress(Value, frozen=True, kw_only=True):
    """One server of an incident. `prior`: its status before the failure. `baseline`: the newest migration id before our attempt;
    only newer records are ours. `wait_for`: hosts that must be proven not to run it first. `record`: the migration that it moves by.
    `void`: migrations that can start it nowhere any more, for their destination was proven off while it moved there. `spawns`: by
    destination, the unfinished evacuation to it, and the boot in which it was first seen at work there: while that boot lasts, a domain
    that is absent may still be started. `last_reboot`: the newest reboot that Nova knew of before ours; None: not looked up. `lost_until`:
    how long a reboot of ours whose answer was lost may still take effect; 0 while it is known what came of the last one."""

    id: str
    name: str = ""
    project_id: str = ""
    tags: tuple[str, ...] = ()
    prior: str = ""
    stage: ServerStage = ServerStage.WAITING
    reason: str = ""
    priority: int = 0
    attempts: int = 0
    baseline: int = 0
    dest: str = ""
    next_at: float = 0.0
    wait_for: tuple[str, ...] = ()
    absent_at: dict[str, float] = {}  # by host: when its remote first reported the domain absent
    looks: int = 0
    record: int = 0
    void: tuple[int, ...] = ()
    spawns: dict[str, tuple[int, str]] = {}
    last_reboot: str | None = None
    lost_until: float = 0.0

    def with_(self, **changes: Any) -> ServerProgress:
        """A changed copy."""
        return msgspec.structs.replace(self, **changes)


# --- incidents ---------------------------------------------------------------------------------------------------------


class Mode(StrEnum):
    """What is done about a failure."""

    AUTO = "auto"  # we recover
    NOTIFY = "notify"  # we announce; somebody else recovers


class Kind(StrEnum):
    """What failed."""

    HOST = "host"
    GUEST = "guest"


class Step(StrEnum):
    """The steps that plans are made of. PLANS in `plans.py` says which plan has which."""

    FENCE = "fence"  # make sure that the host is off, until there is evidence
    FORCE_DOWN = "force_down"  # tell Nova
    ANNOUNCE = "announce"  # tell everyone
    EVACUATE = "evacuate"  # rebuild the protected servers elsewhere
    VERIFY = "verify"  # each in its prior state, on another host
    SETTLE = "settle"  # nothing of the host moves any more
    AWAIT_RETURN = "await_return"  # power on, open the gate, wait for a clean host
    UNFENCE = "unfence"  # clear forced_down
    RESTART = "restart"  # start what ran before, in place
    REBOOT = "reboot"  # hard reboot of one guest


class Phase(StrEnum):
    """Whether an incident still has work."""

    OPEN = "open"
    CLOSED = "closed"


class CommandKind(StrEnum):
    """Everything that the core can ask of the world."""

    FENCE = "fence"  # host: off, then off read twice, all devices of `level`   -> Readings
    READ_POWER = "read_power"  # host: read all devices of `level`              -> Readings
    CANCEL_FENCE = "cancel_fence"  # host: no attempt is alive afterwards        -> None
    POWER_ON = "power_on"  # host                                                -> Readings
    FORCE_DOWN = "force_down"  # host: forced_down = true, and read back         -> None
    CLEAR_FORCE_DOWN = "clear_force_down"  # host: forced_down = false, read back -> None
    SURVEY = "survey"  # host: servers, migrations, service                      -> Survey
    FOLLOW = "follow"  # host: its evacuations                                   -> Survey (migrations only)
    LIST_SERVERS = "list_servers"  # hosts: servers of these hosts               -> Survey (servers only)
    EVACUATE = "evacuate"  # server                                              -> None
    START = "start"  # server: os-start                                          -> None
    STOP = "stop"  # server: os-stop                                             -> None
    REBOOT = "reboot"  # server: hard reboot                                     -> None
    LAST_REBOOT = "last_reboot"  # server: the newest reboot that was asked for   -> last_reboot
    CHECK_ABSENT = "check_absent"  # server on `host`: asks that host's remote   -> Presence
    OPEN_GATE = "open_gate"  # host: its remote may let nova-compute start       -> None
    NOTIFY = "notify"  # never sent as a command: goes to the outbox


# S4: these need the lease at the newest epoch, read immediately before the sending.
DESTRUCTIVE = frozenset(
    {
        CommandKind.FENCE,
        CommandKind.POWER_ON,
        CommandKind.FORCE_DOWN,
        CommandKind.CLEAR_FORCE_DOWN,
        CommandKind.EVACUATE,
        CommandKind.START,
        CommandKind.STOP,
        CommandKind.REBOOT,
        CommandKind.OPEN_GATE,
    }
)


class Command(Value, frozen=True, kw_only=True):
    """An intent. `id` = hash(incident, step, subject, attempt). `subject`: a host or a server id; `host`: the host concerned.
    `hosts`: for LIST_SERVERS. `not_after`: boottime seconds after which it must not be sent any more (the evidence has aged).
    `judged`: for EVACUATE, the newest migration record whose hosts are proven not to run the server; see `ports.Cloud.evacuate`."""

    id: str
    incident: str
    step: Step
    kind: CommandKind
    subject: str
    host: str
    epoch: int
    attempt: int
    level: int = 0
    boot_id: str = ""
    hosts: tuple[str, ...] = ()
    not_after: float | None = None
    judged: int = 0


class Status(StrEnum):
    """How a command ended."""

    OK = "ok"
    FAILED = "failed"  # certain: the effect did not happen
    LOST = "lost"  # unknown: it may have happened (S9)


class Presence(Value, frozen=True, kw_only=True):
    """Whether a domain exists on a host: True, False, or None where its remote cannot say. `start`: which start of it runs; `state`:
    running, paused, …; `fault`: what its state shows (watchdog, …). All empty where there is none, or nobody can say."""

    present: bool | None
    start: str = ""
    state: str = ""
    fault: str = ""


class Outcome(Value, frozen=True, kw_only=True):
    """The end of a command. `data` is what was read, where the command reads; `error` one sentence, without secrets.
    `last_reboot`: the id of the newest reboot's request, empty where there was none."""

    command: str
    status: Status
    error: str = ""
    readings: tuple[Reading, ...] = ()
    survey: Survey | None = None
    presence: Presence | None = None
    last_reboot: str = ""


class Entry(Value, frozen=True, kw_only=True):
    """One line of an incident's history, for a human. `actor`: who made it so; empty for ourselves."""

    at: float
    wall: float
    text: str
    step: Step | None = None
    actor: str = ""


class Incident(Value, frozen=True, kw_only=True):
    """One failure, from detection to closure. `boot_id`: of the host's last life. `committed_at`: when the first evacuate intent
    (notify mode: force_down) was journalled; before it a heartbeat cancels, after it S1 outranks S5 (S2b). `restarting`: the guests died with the host's last
    boot and are started before the incident ends, whatever comes between. `read_on`: when a device last read on beside the attempts to fence.
    `report`: of the guest event."""

    id: str
    kind: Kind
    host: str
    subject: str
    mode: Mode
    plan: tuple[Step, ...]
    opened_at: float
    opened_wall: float
    verdict: Verdict
    verdict_at: float
    reason: str
    last_seen_at: float | None = None
    boot_id: str = ""
    position: int = 0
    phase: Phase = Phase.OPEN
    closed_wall: float | None = None
    blocked: str = ""
    release: str = ""
    waiting: str = ""
    next_at: float = 0.0
    level: int = 0
    rounds: int = 0
    attempt: int = 0
    evidence: Evidence | None = None
    revoked: str = ""
    committed_at: float | None = None
    announced: bool = False
    surveyed: bool = False
    settled: bool = False
    silent: int = 1
    silent_domain: int = 1
    settle_by: float | None = None
    released: str = ""
    forced: bool = False
    powered_on: bool = False
    ordered_by: str = ""
    withdrawn: str = ""
    cleared_boot_id: str = ""
    new_boot_id: str = ""
    restarting: bool = False
    gate_ok: bool = False
    clean: bool = False
    nova_compute: Health = Health.UNKNOWN
    beat_at: float | None = None
    window: float = 0.0
    evidence_since: float = 0.0
    read_on: dict[str, float] = {}
    contradicted: int = 0
    crosschecked: tuple[int, ...] = ()
    read_at: float = 0.0
    poll_at: float = 0.0
    wake_at: float | None = None
    servers: tuple[ServerProgress, ...] = ()
    pending: tuple[Command, ...] = ()
    stage_at: dict[str, float] = {}  # when a step was first left: "evidence", "force_down", "first_evacuate", …
    history: tuple[Entry, ...] = ()
    dropped_history: int = 0
    acked_by: str = ""
    report: str = ""

    @property
    def step(self) -> Step:
        """The step that the incident is at."""
        return self.plan[self.position] if self.position < len(self.plan) else self.plan[-1]


class FenceRecord(Value, frozen=True, kw_only=True):
    """A host that was fenced, for the storm guard (S6)."""

    host: str
    domain: str
    incident: str
    at: float


class HostRecord(Value, frozen=True, kw_only=True):
    """What is kept of a host over restarts. `first_seen_wall`: of the first heartbeat ever. `place`: where it was last heard or reached, in
    the words of its policy; empty: a document that is older than this field. `cleared_boot_id`: the boot that its gate was last opened for. `machine`: the id that its fencing devices reported while it was known alive, by device."""

    host: str
    first_seen_wall: float = 0.0
    place: str = ""
    boot_id: str = ""
    suspect_since: float | None = None
    cleared_boot_id: str = ""
    maintenance: str = ""
    machine: dict[str, str] = {}
    contradiction: str = ""  # its devices read off while the same boot sent heartbeats: they guard something else
    witnesses: tuple[str, ...] = ()  # who reached it there lately: after a restart they may still speak of it
    witnesses_over: dict[str, tuple[str, ...]] = {}  # the same by plane, but for the management plane


class Fleet(Value, frozen=True, kw_only=True):
    """What holds for all hosts. The first start is disarmed (S6)."""

    epoch: int = 0
    armed: bool = False
    armed_by: str = ""
    paused: str = ""
    foreign: str = ""  # another claimant was met: its store id and epoch; acting stays off until `arm`
    fences: tuple[FenceRecord, ...] = ()


class State(Value, frozen=True, kw_only=True):
    """All that `decide` knows. Mappings are never changed in place."""

    fleet: Fleet = Fleet()
    hosts: dict[str, HostRecord] = {}
    incidents: dict[str, Incident] = {}
    closed: tuple[str, ...] = ()  # ids of closed incidents whose documents are still in `incidents`


class Notification(Value, frozen=True, kw_only=True):
    """What is told to the outside. `id` is stable over re-sending. `event_type` without the `ha_agent.` prefix."""

    id: str
    event_type: str
    priority: str
    wall: Annotated[float, msgspec.Meta(ge=0, lt=253_402_300_800)]  # up to the last year that a date can have
    payload: dict[str, object]


# --- events: all that `decide` is told ---------------------------------------------------------------------------------


class Event(Value, frozen=True, kw_only=True, tag=True):
    """Something that happened. Events that may open an incident carry an unused `new_id`."""


class VerdictGiven(Event, frozen=True, kw_only=True):
    """The witness believes this of a host, now. Repeated while it holds and an incident is open."""

    host: str
    verdict: Verdict
    reason: str
    boot_id: str = ""
    last_seen_at: float | None = None
    silent: int = 1  # hosts that are silent now, this one included: in all …
    silent_domain: int = 1  # … and in its failure domain
    signed_at: float | None = None  # when the witnesses were asked, where one of them got a signed answer
    new_id: str = ""


class Beat(Event, frozen=True, kw_only=True):
    """A heartbeat of a host with an open incident, or of one whose nova-compute waits at the gate."""

    host: str
    boot_id: str
    waiting_gate: bool = False
    nova_compute: Health = Health.UNKNOWN
    new_id: str = ""


class Finished(Event, frozen=True, kw_only=True):
    """A command ended."""

    outcome: Outcome


class Tick(Event, frozen=True, kw_only=True):
    """Time has passed: something may be due."""


class Resumed(Event, frozen=True, kw_only=True):
    """A controller took over: every pending command of the last one has lost its answer. `epoch`: the new one."""

    epoch: int


class Paused(Event, frozen=True, kw_only=True):
    """Our own process did not run for `gap_s`: look before acting (S8)."""

    gap_s: float


class Order(StrEnum):
    """What an operator can order."""

    ARM = "arm"
    DISARM = "disarm"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    MAINTENANCE_ON = "maintenance_on"
    MAINTENANCE_OFF = "maintenance_off"
    FENCE = "fence"
    CONFIRM_FENCED = "confirm_fenced"
    RELEASE = "release"
    ACK = "ack"
    REPORT = "report"  # somebody says that the host failed: it makes a suspect, never evidence
    FOREIGN = "foreign"  # not a person: another claimant of our hosts was met


class Operator(Event, frozen=True, kw_only=True):
    """An order by a person (or a script). `incident` binds a confirmation to one incident; empty: the open one of the host."""

    order: Order
    actor: str
    host: str = ""
    incident: str = ""
    reason: str = ""
    heard_at: float | None = None  # when the host's last heartbeat arrived: filled in by the engine
    new_id: str = ""


class GuestFault(Event, frozen=True, kw_only=True):
    """A guest event. `fault`: watchdog, crashed, io_error … `action`: what QEMU did about it at once. `start`: which start of its domain.
    `report`: what its remote calls it, the same whenever it is reported again; empty: it has no name. `doubt`: why it is only announced;
    empty: it is believed."""

    host: str
    server: str
    fault: str
    action: str = ""
    start: str = ""
    report: str = ""
    doubt: str = ""
    new_id: str = ""


class PowerRead(Event, frozen=True, kw_only=True):
    """The devices of a host with an open incident were looked at, for whatever reason."""

    host: str
    readings: tuple[Reading, ...]


class MachineSeen(Event, frozen=True, kw_only=True):
    """A fencing device said which machine it is, while its host was known alive."""

    host: str
    device: str
    machine: str


class WitnessesSeen(Event, frozen=True, kw_only=True):
    """By host: who reached it lately, and by host and plane who did over another plane than that of management. Told of hosts of which
    that has changed, many at once."""

    witnesses: dict[str, tuple[str, ...]]
    over: dict[str, dict[str, tuple[str, ...]]] = {}


AnyEvent = (
    VerdictGiven
    | Beat
    | Finished
    | Tick
    | Resumed
    | Paused
    | Operator
    | GuestFault
    | MachineSeen
    | PowerRead
    | WitnessesSeen
)
