"""What the operator wants, resolved to plain values: the only form in which the pure core sees the configuration."""

from __future__ import annotations

from ha_agent.model import Mode, Value


class Detection(Value, frozen=True, kw_only=True):
    """Times of detection, seconds. Silence of `suspect_after_s` makes a suspect, of `down_after_s` a verdict.

    `hung_patience_s`: how long Nova's view must stand still while the kernel answers TCP. `probe_interval_s`: one round of
    indirect probes. `probe_timeout_s`: how long a witness tries. `witness_fresh_s`: a witness must have reached the target
    within this time before. `doubt_share`: when more than this share of the known hosts (and at least `doubt_min`) falls silent
    together, our own network is more likely the cause. `pause_s`: how much too late our own loop may come to its next turn,
    which is due within a second; what takes longer is a pause of ours, after which we look before we act.
    `verdict_max_age_s`: a fence needs a verdict confirmed within this time.
    """

    heartbeat_interval_s: float = 1.0
    suspect_after_s: float = 4.0
    down_after_s: float = 10.0
    hung_patience_s: float = 60.0
    nova_report_interval_s: float = 10.0
    witnesses_min: int = 1
    probes: int = 5
    witness_fresh_s: float = 300.0
    probe_interval_s: float = 2.0
    probe_timeout_s: float = 1.5
    doubt_share: float = 0.5
    doubt_min: int = 3
    pause_s: float = 2.0
    verdict_max_age_s: float = 5.0


class Storm(Value, frozen=True, kw_only=True):
    """S6: at most this many hosts fenced within `window_s`, in all and per failure domain; a share is rounded down, never below one."""

    max_hosts: int = 5
    max_share: float = 0.2
    window_s: float = 600.0
    domain_max_hosts: int = 3


class Fencing(Value, frozen=True, kw_only=True):
    """Fencing of one host. `levels`: the names of each level's devices (none: by hand only). `trusted_levels`: whose word does not age.
    `attempt_s`: the deadline of one level's attempt. `read_s`: of one look. `host_interval_s`: least time between two fences of a host."""

    levels: tuple[tuple[str, ...], ...] = (("bmc",),)
    trusted_levels: tuple[int, ...] = ()
    evidence_max_age_s: float = 30.0
    attempt_s: float = 20.0
    read_s: float = 5.0
    check_interval_s: float = 300.0
    retry_min_s: float = 5.0
    retry_max_s: float = 60.0
    host_interval_s: float = 60.0
    storm: Storm = Storm()
    power_on_after: bool = True


class Select(Value, frozen=True, kw_only=True):
    """Which servers are protected. A server is chosen by any of these; `opt_out_tag` wins."""

    server_tag: str = "automatic-recovery"
    opt_out_tag: str = "no-recovery"
    priority_tag: str = "recovery-priority"  # as in "recovery-priority:10": higher goes first
    image_property: str = ""
    flavor_extra_spec: str = ""
    aggregate_metadata: str = ""
    all: bool = False


class Recovery(Value, frozen=True, kw_only=True):
    """Recovery of one host's servers. Times in seconds."""

    mode: Mode = Mode.AUTO
    fence: bool = True
    select: Select = Select()
    image_backed_rebuild: bool = False
    shared_storage: bool = False
    settle_after_s: float = 3600.0
    window_min: int = 2
    window_max: int = 32
    poll_s: float = 2.0
    retry_min_s: float = 5.0
    retry_max_s: float = 60.0
    api_max_s: float = 60.0


class HostPolicy(Value, frozen=True, kw_only=True):
    """Everything that holds for one host. `place`: where its remote is, its addresses and port as one text: what was heard or reached at
    another place says nothing of this one. `planes`: over which it can be reached besides the management plane."""

    name: str
    place: str = ""
    domain: str = ""
    planes: tuple[str, ...] = ()
    detection: Detection = Detection()
    fencing: Fencing = Fencing()
    recovery: Recovery = Recovery()


class Policy(Value, frozen=True, kw_only=True):
    """Everything that holds. `hosts` names every known host: nothing is ever done to another one."""

    controller: str = "controller-1"
    lease_s: float = 15.0
    hosts: dict[str, HostPolicy] = {}
    detection: Detection = Detection()
    storm: Storm = Storm()
    guest_mode: str = "notify"
    guest_max_age_s: float = 60.0
    history_max: int = 500
