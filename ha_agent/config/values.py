"""What a loaded configuration is: plain frozen values, with every default, preset, template and override already worked out."""

from __future__ import annotations

from ha_agent.model import Value
from ha_agent.policy import Policy


class DeviceSpec(Value, frozen=True, kw_only=True):
    """One fencing device of one host, templates filled. `password_file`, and options that are files: absolute paths; the secrets
    themselves are never here. `agent`: of the driver fence_agent."""

    name: str
    driver: str
    address: str = ""
    port: int = 0
    username: str = ""
    password_file: str = ""
    plug: str = ""
    agent: str = ""
    options: dict[str, str] = {}


class HostPlace(Value, frozen=True, kw_only=True):
    """Where a host's remote is, and how others call the host. `planes`: its addresses on planes beside that of management."""

    name: str
    address: str
    port: int = 7420
    planes: dict[str, str] = {}
    domain: str = ""
    vars: dict[str, str] = {}
    aliases: tuple[str, ...] = ()


class BusSettings(Value, frozen=True, kw_only=True):
    """The notification bus. `url` may hold a password: show `ha_agent.config.without_secrets(url)` only."""

    url: str = "memory://"
    exchange: str = "nova"
    topic: str = "versioned_notifications"
    durable: bool = True
    quorum: bool = False


class HookSettings(Value, frozen=True, kw_only=True):
    """The programs that are run for each notification. `directory`: empty: none are."""

    directory: str = ""
    timeout_s: float = 30.0


class WebhookSettings(Value, frozen=True, kw_only=True):
    """A URL to which each notification is posted. `url` and `secret` are secrets. `events`: patterns of event types; `ca_file`: empty: the
    system's authorities."""

    name: str
    url: str
    secret: bytes = b""
    events: tuple[str, ...] = ("*",)
    timeout_s: float = 10.0
    ca_file: str = ""


class HttpSettings(Value, frozen=True, kw_only=True):
    """The API. `socket_roles`: role -> Unix groups whose members have it on the socket."""

    listen: str = "127.0.0.1"
    port: int = 7421
    socket: str = "/run/ha-agent/controller.sock"
    tokens_file: str = ""
    allowed_hosts: tuple[str, ...] = ()
    socket_roles: dict[str, tuple[str, ...]] = {}


class StoreSettings(Value, frozen=True, kw_only=True):
    """The store. `path`: of the SQLite file."""

    path: str = "/var/lib/ha-agent/store.db"


class PkiSettings(Value, frozen=True, kw_only=True):
    """How many days before the end of a certificate somebody is told: with `warn_days` left by a note, with `urgent_days` left by
    readiness as well."""

    warn_days: float = 30.0
    urgent_days: float = 7.0


class Loaded(Value, frozen=True, kw_only=True):
    """A controller's configuration. `levels`: per host its fencing levels, hand levels left out (a confirmation by hand is always
    possible); `policy.hosts[h].fencing.levels` names the same devices. `warnings`: true, but not wrong."""

    path: str
    cloud: str
    policy: Policy
    hosts: dict[str, HostPlace]
    levels: dict[str, tuple[tuple[DeviceSpec, ...], ...]]
    pki_directory: str = "/etc/ha-agent/pki"
    pki: PkiSettings = PkiSettings()
    bus: BusSettings = BusSettings()
    hooks: HookSettings = HookSettings()
    webhooks: tuple[WebhookSettings, ...] = ()
    http: HttpSettings = HttpSettings()
    store: StoreSettings = StoreSettings()
    warnings: tuple[str, ...] = ()


class RemoteLoaded(Value, frozen=True, kw_only=True):
    """A remote's configuration. `user`: whom it becomes when root starts it; empty: ha-agent. `listen_also`: further addresses
    with their ports. `health_file` / `guests_file`: read instead of asking systemd / nobody; empty: not so. `guests_libvirt`:
    the URI of the libvirt whose guests are watched; empty: none."""

    path: str
    name: str = ""
    user: str = ""
    listen: str = "0.0.0.0"  # noqa: S104 -- the operator sets the management address; the certificates guard it
    port: int = 7420
    listen_also: tuple[tuple[str, int], ...] = ()
    pki_directory: str = "/etc/ha-agent/pki"
    pki: PkiSettings = PkiSettings()
    socket: str = "/run/ha-agent/remote.sock"
    state_directory: str = "/var/lib/ha-agent/remote"
    machine_file: str = ""
    nova_compute_units: tuple[str, ...] = ()
    libvirt_units: tuple[str, ...] = ()
    health_file: str = ""
    guests_file: str = ""
    guests_libvirt: str = ""
