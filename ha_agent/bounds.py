"""L1: how long silence lasts until an alarm, and until evidence. Pure arithmetic, printed by `config check` and asserted by the simulator.

    silence to alarm             = down_after_s + ANSWER_SLACK_S + TURN_S
    silence to evidence, level k = down_after_s + ANSWER_SLACK_S + TURN_S + k * attempt_s
    silence to hung              = max(down_after_s, suspect_after_s + hung_patience_s + probe_interval_s + probe_timeout_s + ANSWER_SLACK_S)
                                   + ANSWER_SLACK_S + TURN_S

Silence counts from the last heartbeat. Every round of witnesses that began early enough for its answers has been heard at `down_after_s`
(`config check` refuses times in which there is none); the last answer may be ANSWER_SLACK_S late. A yes of the round that begins then is
waited for, 2 % of `down_after_s` and never beyond `LAST_ROUND_MOST_S` in all, which these seconds hold. From the verdict to what is told of it, and to
the first off command, pass at most TURN_S. Each level that fails costs its whole attempt, and the level that works may need its whole
attempt too. The bounds hold for a controller that leads, is armed, and is below the storm limit, and evidence is that near if the
witnesses that are asked can answer; a take-over adds one lease and one full window.

A host whose kernel still answers is first alarmed about, and fenced when it is hung: when Nova's view has stood still for `hung_patience_s`. That is
measured between two looks at it, the first when the host is suspect, one in each round; the last of them is judged when its round
ends. Evidence by level k is k * attempt_s later. The bound holds if Nova answers within ANSWER_SLACK_S.
"""

from __future__ import annotations

from ha_agent.policy import HostPolicy, Policy
from ha_agent.witness import ANSWER_SLACK_S

TURN_S = 1.0  # a turn of the loop, its journal write, the look at the lease, the sending


def host_bounds(host: HostPolicy) -> tuple[float, list[float]]:
    """Seconds of silence until an alarm, and until evidence by each level, for one host."""
    detection, fencing = host.detection, host.fencing
    alarm = detection.down_after_s + ANSWER_SLACK_S + TURN_S
    return alarm, [alarm + (level + 1) * fencing.attempt_s for level in range(len(fencing.levels))]


def hung_bound(host: HostPolicy) -> float:
    """Seconds of silence until the first off command for a host whose kernel answers and that does nothing else."""
    d = host.detection
    stood_still = d.suspect_after_s + d.hung_patience_s + d.probe_interval_s + d.probe_timeout_s + ANSWER_SLACK_S
    return max(d.down_after_s, stood_still) + ANSWER_SLACK_S + TURN_S


def bounds(policy: Policy) -> tuple[float, list[float]]:
    """The same for the whole policy: the worst of its hosts. Level k of the list is the worst among the hosts that have that level."""
    alarm = 0.0
    evidence: list[float] = []
    for host in policy.hosts.values():
        host_alarm, host_evidence = host_bounds(host)
        alarm = max(alarm, host_alarm)
        for level, seconds in enumerate(host_evidence):
            if level == len(evidence):
                evidence.append(seconds)
            else:
                evidence[level] = max(evidence[level], seconds)
    return alarm, evidence


def hung(policy: Policy) -> float:
    """The largest `hung_bound` of its hosts."""
    return max(map(hung_bound, policy.hosts.values()), default=0.0)
