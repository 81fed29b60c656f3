"""From libvirt's numbers to our words. The numbers are part of libvirt's stable interface, so this needs no libvirt to be installed."""

from __future__ import annotations

from ha_agent.guests.lines import Happened

# VIR_DOMAIN_EVENT_WATCHDOG_*: what QEMU did of its own when the watchdog fired.
WATCHDOG_ACTIONS = ("none", "pause", "reset", "poweroff", "shutdown", "debug", "inject-nmi")
# VIR_DOMAIN_EVENT_IO_ERROR_*
IO_ACTIONS = ("none", "pause", "report")

STARTED, SUSPENDED, RESUMED, STOPPED, CRASHED = 2, 3, 4, 5, 8  # VIR_DOMAIN_EVENT_*
# (VIR_DOMAIN_EVENT_*, its detail) -> (kind, action)
LIFECYCLE: dict[tuple[int, int], tuple[str, str]] = {
    (SUSPENDED, 2): ("io_error", "pause"),
    (SUSPENDED, 3): ("watchdog", "pause"),
    (STOPPED, 2): ("crashed", ""),
    (STOPPED, 5): ("failed", ""),
    (CRASHED, 0): ("crashed", "panicked"),
    (CRASHED, 1): ("crashed", "crashloaded"),
}

STATES = ("unknown", "running", "running", "paused", "shutting_down", "shutoff", "crashed", "suspended")
# (VIR_DOMAIN_*, its reason) -> the fault that it shows
STANDING: dict[tuple[int, int], tuple[str, str]] = {
    (3, 5): ("io_error", "pause"),
    (3, 6): ("watchdog", "pause"),
    (3, 10): ("crashed", "panicked"),
    (5, 3): ("crashed", ""),
    (5, 6): ("failed", ""),
    (6, 1): ("crashed", "panicked"),
}

# What follows by itself from a fault that was told: libvirt calls a QEMU that its watchdog ended one that failed.
FOLLOWS: dict[tuple[str, str], frozenset[str]] = {
    ("watchdog", "poweroff"): frozenset({"failed", "crashed"}),
    ("watchdog", "shutdown"): frozenset({"failed", "crashed"}),
    ("crashed", "panicked"): frozenset({"failed", "crashed"}),
    ("crashed", "crashloaded"): frozenset({"failed", "crashed"}),
    ("watchdog", "reset"): frozenset({"reboot"}),
}


def fault_of(event: Happened) -> tuple[str, str] | None:
    """(kind, action) of an event; None where it is no fault of a guest. A number that is newer than we are is told as it is."""
    match event.what:
        case "watchdog":
            return "watchdog", _name(WATCHDOG_ACTIONS, event.first)
        case "io_error":
            return "io_error", _name(IO_ACTIONS, event.first)
        case "reboot" | "control_error":
            return event.what, ""
        case "lifecycle":
            return LIFECYCLE.get((event.first, event.second))


def standing(state: int, reason: int) -> tuple[str, str] | None:
    """The fault that a domain in this state shows; None where it shows none."""
    return STANDING.get((state, reason))


def state_name(state: int) -> str:
    """Our word for VIR_DOMAIN_*."""
    return _name(STATES, state)


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else f"number {number}"
