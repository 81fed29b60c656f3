"""The shape of controller.yaml: names, types, ranges and defaults. What fields mean together is checked in `checks`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# A heartbeat more often than this is a load test; a wait longer than a day is a typing error.
Seconds = Annotated[float, Field(ge=0.05, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Word = Annotated[str, Field(min_length=1, max_length=255)]


def _text(value: Any) -> Any:
    """A number may stand where a text is meant (`plug: 1`); a boolean may not (`plug: on` is a mistake)."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, Field(max_length=1024), BeforeValidator(_text)]


def _scalar(value: Any) -> Any:
    """Options are handed on as text, so a plain true, 20 or 0.5 may stand there."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) and math.isfinite(value) else _text(value)


Scalar = Annotated[str, Field(max_length=1024), BeforeValidator(_scalar)]


class Section(BaseModel):
    """Every section: nothing unknown, no silent conversions, and no input echoed in errors (it may be a secret)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


Days = Annotated[float, Field(ge=0, le=3650, allow_inf_nan=False)]


class Pki(Section):
    directory: Word = "/etc/ha-agent/pki"
    warn_days: Days = 30
    urgent_days: Days = 7


class Witnesses(Section):
    min: Annotated[int, Field(ge=0, le=1000)] = 1
    probes: Annotated[int, Field(ge=1, le=50)] = 5
    fresh_s: Seconds = 300


class Doubt(Section):
    share: Share = 0.5
    min: Count = 3


class Detection(Section):
    preset: Literal["lan", "wan", "aggressive"] = "lan"
    heartbeat_interval_s: Seconds = 1
    suspect_after_s: Seconds = 4
    down_after_s: Seconds = 10
    hung_patience_s: Seconds = 60
    nova_report_interval_s: Seconds = 10
    probe_interval_s: Seconds = 2
    probe_timeout_s: Seconds = 1.5
    witnesses: Witnesses = Witnesses()
    doubt: Doubt = Doubt()
    pause_s: Seconds = 2
    verdict_max_age_s: Seconds = 5


PRESETS: dict[str, dict[str, Any]] = {
    "lan": {},
    "wan": {
        "heartbeat_interval_s": 2,
        "suspect_after_s": 10,
        "down_after_s": 30,
        "hung_patience_s": 120,
        "probe_interval_s": 5,
        "probe_timeout_s": 4,
        "pause_s": 5,
        "verdict_max_age_s": 12,
        "witnesses": {"fresh_s": 600},
    },
    "aggressive": {
        "heartbeat_interval_s": 0.5,
        "suspect_after_s": 1.5,
        "down_after_s": 4,
        "hung_patience_s": 30,
        "probe_interval_s": 1.3,
        "probe_timeout_s": 1.3,
        "pause_s": 1,
        "verdict_max_age_s": 3,
    },
}


class Device(Section):
    """One model for all drivers: what a driver needs, and what it has no use for, is said by `checks`, which knows the driver."""

    driver: Literal["ipmi", "manual", "fence_agent", "redfish", "ironic"]
    address: Text = ""
    port: Port | None = None
    username: Text = ""
    password_file: Text = ""
    plug: Text = ""
    agent: Text = ""
    options: Annotated[dict[Word, Scalar], Field(max_length=64)] = {}


class PerDomain(Section):
    max_hosts: Count = 3


class Storm(Section):
    max_hosts: Count = 5
    max_share: Share = 0.2
    window_s: Seconds = 600
    per_domain: PerDomain = PerDomain()


class Retry(Section):
    min_s: Seconds = 5
    max_s: Seconds = 60


class Fencing(Section):
    evidence_max_age_s: Seconds = 30
    check_interval_s: Seconds = 300
    attempt_s: Seconds = 20
    read_s: Seconds = 5
    retry: Retry = Retry()
    host_interval_s: Seconds = 60
    devices: dict[Word, Device] = {}
    levels: Annotated[list[list[Word]], Field(max_length=16)] = []
    trusted_levels: list[Annotated[int, Field(ge=1, le=16)]] = []
    storm: Storm = Storm()
    after_recovery: Literal["power_on", "leave_off"] = "power_on"


class Select(Section):
    server_tag: Word | None = "automatic-recovery"
    opt_out_tag: Word | None = "no-recovery"
    priority_tag: Word | None = "recovery-priority"
    image_property: Word | None = None
    flavor_extra_spec: Word | None = None
    aggregate_metadata: Word | None = None
    all: bool = False


class SharedStorage(Section):
    all: bool = False
    aggregates: list[Word] = []


class Concurrency(Section):
    min: Annotated[int, Field(ge=1, le=1000)] = 2
    max: Annotated[int, Field(ge=1, le=1000)] = 32


class Recovery(Section):
    mode: Literal["auto", "notify"] = "auto"
    fence: bool = True
    select: Select = Select()
    image_backed: Literal["skip", "rebuild"] = "skip"
    shared_storage: SharedStorage = SharedStorage()
    settle_after_s: Annotated[float, Field(ge=1, le=30 * 86_400, allow_inf_nan=False)] = 3600
    concurrency: Concurrency = Concurrency()
    poll_s: Seconds = 2
    retry: Retry = Retry()
    api_max_s: Seconds = 60


class Guests(Section):
    watchdog: Literal["auto", "notify", "ignore"] = "notify"
    max_event_age_s: Seconds = 60


class Bus(Section):
    url: Word = "memory://"
    url_file: Word | None = None
    exchange: Word = "nova"
    topic: Word = "versioned_notifications"
    durable: bool = True
    quorum: bool = False


class Hooks(Section):
    directory: Word | None = None
    timeout_s: Seconds = 30


class Webhook(Section):
    name: Word | None = None
    url: Word | None = None
    url_file: Word | None = None
    secret_file: Word | None = None
    ca_file: Word | None = None
    timeout_s: Annotated[float, Field(ge=0.1, le=300, allow_inf_nan=False)] = 10
    events: list[Word] = ["*"]


class Notifications(Section):
    bus: Bus = Bus()
    hooks: Hooks = Hooks()
    webhooks: Annotated[list[Webhook], Field(max_length=32)] = []


class SocketRoles(Section):
    admin: list[Word] = ["ha-agent"]
    operate: list[Word] = []
    read: list[Word] = []


class Http(Section):
    listen: Word = "127.0.0.1:7421"
    socket: Word = "/run/ha-agent/controller.sock"
    tokens_file: Word | None = None
    allowed_hosts: list[Word] = []
    socket_roles: SocketRoles = SocketRoles()


class Store(Section):
    url: Word = "sqlite:////var/lib/ha-agent/store.db"
    lease_s: Annotated[float, Field(ge=1, le=3600, allow_inf_nan=False)] = 15
    history_max: Annotated[int, Field(ge=20, le=10_000)] = 500


class Host(Section):
    address: Word
    port: Port = 7420
    domain: Annotated[str, Field(max_length=255)] = ""
    planes: dict[Word, Word] = {}
    vars: dict[Word, Text] = {}
    aliases: list[Word] = []


class Match(Section):
    hosts: Word | list[Word] = "*"
    domain: Word | list[Word] = "*"


class Override(Section):
    """Its sections are checked after they are merged over the common ones, so that half a section is enough."""

    match: Match
    detection: dict[Word, Any] = {}
    fencing: dict[Word, Any] = {}
    recovery: dict[Word, Any] = {}


class Controller(Section):
    """The whole file."""

    version: Literal[1]
    cloud: Word
    name: Word = "controller-1"
    pki: Pki = Pki()
    detection: Detection = Detection()
    fencing: Fencing = Fencing()
    recovery: Recovery = Recovery()
    guests: Guests = Guests()
    notifications: Notifications = Notifications()
    http: Http = Http()
    store: Store = Store()
    hosts: Annotated[dict[Word, Host], Field(min_length=1, max_length=20_000)]
    overrides: list[Override] = []


class RemoteHealth(Section):
    nova_compute_units: list[Word] = ["nova-compute.service", "openstack-nova-compute.service"]
    libvirt_units: list[Word] = ["libvirtd.service", "virtqemud.service", "libvirtd.socket", "virtqemud.socket"]
    file: Word | None = None


class RemoteGuests(Section):
    libvirt: Word | None = None
    file: Word | None = None


class Remote(Section):
    """The whole of remote.yaml."""

    version: Literal[1]
    name: Word | None = None
    user: Word | None = None
    listen: Word | list[Word] = "0.0.0.0:7420"
    pki: Pki = Pki()
    socket: Word = "/run/ha-agent/remote.sock"
    state_directory: Word = "/var/lib/ha-agent/remote"
    machine_file: Word | None = "/run/ha-agent/machine"
    health: RemoteHealth = RemoteHealth()
    guests: RemoteGuests = RemoteGuests()
