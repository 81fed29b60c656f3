"""The failures that the demo can show: what each is, how it is made, and what must and must not come of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ha_agent.model import Verdict
from ha_agent.policy import Detection, Fencing
from ha_agent.sim.demo_books import Guest

FENCED = (
    "host.suspected",
    "incident.opened",
    "host.fence.start",
    "host.fence.end",
    "host.forced_down",
    "host.down",
    "host.evacuation.start",
    "server.evacuate.start",
    "server.evacuate.end",
    "host.evacuation.end",
    "host.returned",
    "incident.closed",
)
ALARMED = ("host.suspected", "incident.opened", "incident.closed")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failure. `tells`: what happens, for a human. `fenced`: the host must be switched off, and its servers move; otherwise it must
    not be touched. `restarted`: its guests died, and start again in place. `verdicts`: what may be believed of it. `order`:
    notifications that must arrive, in this order. `off_within_s`: silence after which off must have reached its BMC; None: it need not."""

    name: str
    tells: str
    fenced: bool = False
    restarted: bool = False
    verdicts: frozenset[Verdict]
    order: tuple[str, ...] = ALARMED
    detection: Detection = field(default_factory=Detection)
    fencing: Fencing = field(default_factory=Fencing)
    off_within_s: float | None = None

    def recovers(self, guest: Guest) -> bool:
        """Whether this server must be recovered from this failure. One that restarts in place keeps its disk, whatever it is."""
        return guest.tagged if self.restarted else guest.protected


_PATIENT = Detection(hung_patience_s=12.0, nova_report_interval_s=5.0)

FAILURES: dict[str, Failure] = {
    f.name: f
    for f in (
        Failure(
            name="power",
            tells="its power is cut: it vanishes without a word, its guests die",
            fenced=True,
            verdicts=frozenset({Verdict.DOWN, Verdict.OFF}),
            order=FENCED,
            off_within_s=Detection().down_after_s + 1.0,
        ),
        Failure(
            name="hang",
            tells="its kernel hangs: it accepts connections and does nothing more, its guests may still write "
            f"(hung_patience_s is {_PATIENT.hung_patience_s:.0f} here, {Detection().hung_patience_s:.0f} by default)",
            fenced=True,
            verdicts=frozenset({Verdict.HUNG}),
            order=FENCED,
            detection=_PATIENT,
            # Nova's view must stand still for the patience, counted from the first round of probes; judged once a round
            off_within_s=_PATIENT.suspect_after_s
            + _PATIENT.hung_patience_s
            + 2 * (_PATIENT.probe_interval_s + _PATIENT.probe_timeout_s),
        ),
        Failure(
            name="network",
            tells="the link between it and this controller is cut for a while; the other hosts still reach it",
            verdicts=frozenset({Verdict.PARTITIONED}),
        ),
        Failure(
            name="reboot",
            tells="it reboots by itself, faster than anybody suspects it: its guests are gone, Nova believes that they run",
            restarted=True,
            verdicts=frozenset({Verdict.REBOOTED}),
            order=("incident.opened", "incident.closed"),
        ),
        Failure(
            name="bmc-dead",
            tells="its power is cut and its BMC is dead: nothing can prove that it is off but a person",
            fenced=True,
            verdicts=frozenset({Verdict.DOWN}),
            order=(
                *FENCED[:3],
                "host.fence.error",
                "incident.blocked",
                *FENCED[3:],
            ),
            fencing=Fencing(attempt_s=10.0),
            off_within_s=None,  # the BMC hears nothing
        ),
        Failure(
            name="agent-crash",
            tells="only its remote crashes: the host and its guests are well, its port refuses",
            verdicts=frozenset({Verdict.AGENT_LOST, Verdict.UNKNOWN}),
        ),
    )
}
