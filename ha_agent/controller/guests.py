"""From what a remote tells of a guest to an event for `decide`, with every reason known here why nothing may be done but tell."""

from __future__ import annotations

from ha_agent.model import GuestFault
from ha_agent.policy import Policy
from ha_agent.ports import GuestSeen

# A guest that reboots itself is no fault: nobody is told. Behind a watchdog's reset it belongs to that event.
OWN_BUSINESS = frozenset({"reboot"})
ACTED = frozenset({"reset", "poweroff", "shutdown"})


def fault(seen: GuestSeen, policy: Policy, new_id: str) -> GuestFault | None:
    """None where there is nothing to be told."""
    if seen.fault in OWN_BUSINESS:
        return None
    return GuestFault(
        host=seen.host,
        server=seen.server,
        fault=seen.fault,
        action=seen.action,
        start=seen.start,
        report=seen.report,
        doubt=doubt(seen, policy.guest_max_age_s),
        new_id=new_id,
    )


def doubt(seen: GuestSeen, max_age_s: float) -> str:
    """Why it is announced and never acted on."""
    if seen.age_s is None:
        return "nobody knows when it happened"
    if seen.age_s > max_age_s:
        return f"it may be {seen.age_s:.0f} s old"
    if seen.action in ACTED:
        return f"the guest's {seen.fault} has acted already: {seen.action}"
    # safety: a guest that has moved meanwhile would be rebooted where it is well
    return "Nova has not been asked whether it still runs there"
