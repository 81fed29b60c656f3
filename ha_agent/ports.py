"""The Protocols between the inside and the outside. Drivers implement them; the simulator implements them again.

Blocking ports (Cloud, Bus) are called in threads, never on the event loop. Every call has a deadline. An error is a
`DriverError` when the effect certainly did not happen, and `Unanswered` when that is unknown (S9).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Protocol

from msgspec import Meta

from ha_agent.model import (
    Answer,
    ComputeService,
    Health,
    Migration,
    Notification,
    Power,
    Presence,
    Reading,
    Server,
    Value,
)


class Clock(Protocol):
    """Time. `now()`: CLOCK_BOOTTIME seconds, for all durations; `wall()`: Unix seconds, display only; `boot_id()`: of this machine."""

    def now(self) -> float: ...
    def wall(self) -> float: ...
    def boot_id(self) -> str: ...


class Random(Protocol):
    """Randomness. `uuid()`: a UUIDv4 string; `uniform(a, b)`: for jitter; `nonce()`: 32 hexadecimal digits."""

    def uuid(self) -> str: ...
    def uniform(self, low: float, high: float) -> float: ...
    def nonce(self) -> str: ...


# --- store -------------------------------------------------------------------------------------------------------------


class Document(Value, frozen=True, kw_only=True):
    """A stored document. `revision` grows with every write of its key; 0 means that it does not exist."""

    kind: str
    key: str
    body: bytes
    revision: int


class Put(Value, frozen=True, kw_only=True):
    """Write a document. `expect`: the revision it must have now (0: must not exist); None: whatever it is."""

    kind: str
    key: str
    body: bytes
    expect: int | None = None


class Delete(Value, frozen=True, kw_only=True):
    """Remove a document; absent is fine."""

    kind: str
    key: str


class Lease(Value, frozen=True, kw_only=True):
    """Who may act. `epoch` grows with every election. `changes` grows with every renewal: a taker watches it stand still for
    one full lease before it takes over. `lease_s`: how long it holds after its last renewal."""

    owner: str
    epoch: int
    changes: int
    lease_s: float
    released: bool = False


class Store(Protocol):
    """Versioned documents, the lease and its epoch behind one interface. Blocking, quick. Raises StoreError and its kinds."""

    @property
    def store_id(self) -> str:
        """A UUIDv4 made with the store; tells this store from any other."""

    def get(self, kind: str, key: str) -> Document | None: ...
    def list(self, kind: str, limit: int = 10_000) -> Sequence[Document]: ...

    def commit(self, epoch: int | None, writes: Sequence[Put | Delete]) -> None:
        """All writes or none, durable on return. With `epoch`, only while it is the newest one and its lease not released.

        Raises LeaseLost, Conflict, StoreFull, StoreLocked, StoreCorrupt.
        """

    def read_lease(self) -> Lease | None: ...

    def take_lease(self, owner: str, lease_s: float, seen: Lease | None) -> Lease:
        """A new epoch for `owner`, if the stored lease still equals `seen`. The caller has watched it for one full lease (or it
        was released). Raises Conflict."""

    def renew_lease(self, owner: str, epoch: int) -> Lease:
        """Raises LeaseLost where another epoch has begun."""

    def release_lease(self, owner: str, epoch: int) -> None:
        """Clean hand-over: a taker need not wait."""

    def close(self) -> None: ...


# --- fencing -----------------------------------------------------------------------------------------------------------


class Fencer(Protocol):
    """Drives the fencing devices of all hosts. One host's slow device never delays another host."""

    def levels(self, host: str) -> int:
        """How many levels the host has."""

    async def off(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        """Sends off to every device of the level, then reads until each read off twice or the deadline. Returns the readings taken
        after the sending (at least the last two of each device where it answered). Success is only what was read. An error of a device is
        a Reading with power UNKNOWN and its error. The attempt (its processes) is dead when this returns or is cancelled."""

    async def read(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        """One reading of every device of the level."""

    async def on(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        """Sends on, reads until on or the deadline."""

    async def cancel(self, host: str) -> None:
        """No attempt on this host is alive when it returns."""

    async def close(self) -> None: ...


class PowerDevice(Protocol):
    """One driver's connection to one device, inside a worker process that can be killed. Blocking; raises DriverError."""

    def read(self) -> Power: ...
    def off(self) -> None: ...
    def on(self) -> None: ...
    def machine(self) -> str: ...


# --- recovery ----------------------------------------------------------------------------------------------------------


class Cloud(Protocol):
    """Nova, as we use it. Blocking, thread-safe, every call bounded by a time-out. Raises DriverError or Unanswered; a 4xx answer to
    a change is a DriverError, a 5xx or a lost answer to a change is Unanswered."""

    def services(self) -> Sequence[ComputeService]: ...

    def force_down(self, host: str, value: bool) -> None:
        """Sets the flag where it differs, and reads it back."""

    def servers(self, host: str) -> Sequence[Server]:
        """Every server of the host, all projects, all pages."""

    def migrations(self, host: str) -> Sequence[Migration]:
        """Every migration record that names the host as source or destination, newest first."""

    def evacuations(self, source: str) -> Sequence[Migration]:
        """The evacuation records off the host, newest first."""

    def unfinished_evacuations(self) -> Sequence[Migration]:
        """Evacuation records anywhere that are accepted or pre-migrating: a server of ours may have been started there."""

    def evacuate(self, server: str, host: str, judged: int = 0) -> None:
        """Looks first: raises DriverError where the server is not on `host` any more, or an unfinished evacuation of it exists.
        Records up to the id `judged` do not count: the caller has proof that their destinations do not run the server (S2)."""

    def start(self, server: str) -> None: ...
    def stop(self, server: str) -> None: ...
    def reboot(self, server: str) -> None: ...

    def last_reboot(self, server: str) -> str:
        """The id of the newest request to reboot the server, whoever made it; empty: there was none. It differs after each that was taken."""

    def api_max_s(self) -> float:
        """The longest that a request whose answer was lost may still take effect."""


# --- heartbeat ---------------------------------------------------------------------------------------------------------


class Observation(Value, frozen=True, kw_only=True, tag=True):
    """What a detector saw. `at`: boottime seconds of the controller."""

    host: str
    at: float


class Heartbeat(Observation, frozen=True, kw_only=True):
    """A frame of the host's remote. `boot_id`: of its kernel; `started_s`: seconds since its remote started; `waiting_gate`: its
    nova-compute waits at the gate."""

    boot_id: str
    seq: int = 0
    started_s: float = 0.0
    nova_compute: Health = Health.UNKNOWN
    libvirt: Health = Health.UNKNOWN
    waiting_gate: bool = False
    rtt_s: float = 0.0
    machine: str = ""


class Disconnected(Observation, frozen=True, kw_only=True):
    """The connection to the host's remote ended or could not be made. `answered`: its kernel answered TCP (a refusal counts). `spoke`: more than
    its kernel did, though not what is trusted: a program there showed a certificate that is refused, or broke the protocol."""

    answered: bool
    spoke: bool = False
    error: str = ""


class ProbeAnswered(Observation, frozen=True, kw_only=True):
    """A witness's word on `host`. `nonce` names the round; `boot_id` where the answer is signed. `over`: what came over each plane that it
    tried; empty: it tried the management plane alone."""

    witness: str
    nonce: str
    answer: Answer
    boot_id: str = ""
    over: dict[str, Answer] = {}


class PowerSeen(Observation, frozen=True, kw_only=True):
    """The host's fencing level 1 was read during suspicion."""

    readings: tuple[Reading, ...] = ()


class NovaSeen(Observation, frozen=True, kw_only=True):
    """Nova's row of the host. None: Nova could not be read or, with `no_such_row`, it answered and has none."""

    service: ComputeService | None = None
    no_such_row: bool = False


class Reported(Observation, frozen=True, kw_only=True):
    """Somebody outside says that the host failed. It makes a suspect, never evidence."""

    source: str
    text: str = ""


class ForeignClaim(Observation, frozen=True, kw_only=True):
    """The host's remote knows another controller with another store or a newer epoch."""

    controller: str
    store_id: str
    epoch: int


class GuestSeen(Observation, frozen=True, kw_only=True):
    """The host's remote tells of a guest, again and again until it is acknowledged. `report`: the event's id, the same each time. `age_s`:
    it is at most so old; None: nobody knows. `lost`: how many events that remote has ever dropped. The rest: see GuestEvent."""

    server: str
    report: str
    fault: str
    action: str = ""
    start: str = ""
    age_s: float | None = None
    device: str = ""
    found: bool = False
    lost: int = 0


AnyObservation = Heartbeat | Disconnected | ProbeAnswered | PowerSeen | NovaSeen | Reported | ForeignClaim | GuestSeen


class Monitor(Protocol):
    """Keeps one connection to every host's remote, and reports Observations through the callback it was made with."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    def probe(self, witness: str, target: str, nonce: str, deadline_s: float) -> None:
        """Asks `witness` to reach `target`; a ProbeAnswered always follows (FAILED if the witness cannot be asked)."""

    async def open_gate(self, host: str, boot_id: str, deadline_s: float) -> None:
        """The host's nova-compute may start in this boot. Returns when its remote has acknowledged and stored it. Raises DriverError."""

    async def domain(self, host: str, server: str, deadline_s: float) -> Presence:
        """Asks the host's remote whether it has the server's domain, and how that is."""

    def acknowledge(self, host: str, report: str) -> None:
        """The event is journalled: its remote need not tell of it again. It does, where this is lost on the way."""


class GuestSource(Protocol):
    """The host's guests, as its remote sees them."""

    async def look(self, server: str) -> Presence:
        """Now. May be slow: whoever asks has a deadline."""

    def health(self) -> Health: ...


class GuestEvent(Value, frozen=True, kw_only=True):
    """Something that happened to a guest. `kind`: watchdog, crashed, failed, io_error, control_error, reboot. `action`: what was done to it
    at once, by QEMU (pause, reset, …). `start`: which start of its domain. `at`: CLOCK_BOOTTIME seconds of its host, the earliest that it
    may have happened; None: nobody knows. `found`: not heard, but seen afterwards in the domain's state."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    server: Annotated[str, Meta(min_length=1, max_length=64)]
    kind: Annotated[str, Meta(min_length=1, max_length=64)]
    action: Annotated[str, Meta(max_length=64)] = ""
    start: Annotated[str, Meta(max_length=64)] = ""
    at: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    device: Annotated[str, Meta(max_length=64)] = ""
    found: bool = False


class GuestWatch(Protocol):
    """The events of a host's guests, each kept until a controller has acknowledged it."""

    async def run(self, boot_id: str) -> None:
        """Watches until cancelled. `boot_id`: of this host."""

    def ready(self) -> Sequence[GuestEvent]:
        """What may be told to a controller, oldest first."""

    def acknowledge(self, ids: Collection[str]) -> None: ...

    def watch(self, more: Callable[[], None]) -> Callable[[], None]:
        """Calls `more` whenever something is ready; until what it returns is called."""

    @property
    def lost(self) -> int:
        """How many events were dropped because too many waited, ever."""


# --- notifications -----------------------------------------------------------------------------------------------------


class Bus(Protocol):
    """Where notifications go. Blocking; raises DriverError or Unanswered. At least once: a repeat has the same ids."""

    def publish(self, notification: Notification) -> None: ...
    def close(self) -> None: ...


class Sink(Protocol):
    """Who is to have notifications: a bus, a hook, a webhook. Raises DriverError or Unanswered where it is to be tried again, Rejected where
    that would be in vain. Bounded in time, and never in the loop's way. At least once: a repeat has the same ids."""

    async def publish(self, notification: Notification) -> None: ...
    async def close(self) -> None:
        """What is kept open for the next one is closed."""


class Delivery(Value, frozen=True, kw_only=True):
    """How it goes with one of those who are told of everything: the bus, a hook, a webhook. `published`: it has so many; `failures`: attempts that are repeated; `rejected`: refused for good;
    `dropped`: too many waited."""

    name: str
    backlog: int
    published: int
    failures: int
    rejected: int
    dropped: int
    last_error: str


Observer = Callable[[AnyObservation], None]
Labels = Mapping[str, str]
