"""What a controller measures of itself and of its incidents, for whoever draws it or is alarmed by it. Nothing decides by it."""

from __future__ import annotations

from collections.abc import Mapping

from ha_agent.api.measured import Measure, Measured
from ha_agent.model import Incident, Kind, State
from ha_agent.policy import Policy
from ha_agent.ports import Heartbeat
from ha_agent.witness import View

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LONG = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14400.0)
STAGES = ("fence", "evidence", "force_down", "first_evacuate", "settled", "gate", "unfenced")
"""The words that the core uses, so that each is there before the first incident: from a histogram that appears with its first value Prometheus
learns nothing."""
STAGES_MAX = 20  # more than this would be a bug, not a label


class Measures:
    """See the module. All of it since the start of this process."""

    def __init__(self) -> None:
        self.loop_lag = Measure("loop_lag_s", SHORT)
        self.beats = Heartbeats()
        self.store_read = Measure("store_s", SHORT, of="read")
        self.store_write = Measure("store_s", SHORT, of="write")
        self.stages = Stages()

    def all(self) -> tuple[Measured, ...]:
        """Everything."""
        measures = (self.loop_lag, self.beats.round_trip, self.store_read, self.store_write)
        return (*(each.measured() for each in measures), *self.stages.all())


class Heartbeats:
    """Those that came, and those that did not."""

    def __init__(self) -> None:
        self.round_trip = Measure("round_trip_s", SHORT)
        self._came = 0
        self._missed = 0

    def take(self, beat: Heartbeat, view: View | None, policy: Policy) -> None:
        """`view`: of its host before it came. Between two boots of a host none is missed: it was off."""
        self._came += 1
        if beat.rtt_s > 0.0:
            self.round_trip.add(beat.rtt_s)
        if view is not None and view.heard_at is not None and view.boot_id == beat.boot_id:
            intervals = (beat.at - view.heard_at) / policy.detection.heartbeat_interval_s
            self._missed += max(0, round(intervals) - 1)

    def numbers(self) -> dict[str, float]:
        """By the facade's names."""
        return {"heartbeats": float(self._came), "heartbeats_missed": float(self._missed)}


class Stages:
    """How long incidents take: from the host's last heartbeat to the opening, and from there to each stage. What happened before this process
    led is not counted a second time."""

    def __init__(self) -> None:
        self._silence = Measure("silence_s", LONG)
        self._stages = {stage: Measure("stage_s", LONG, of=stage) for stage in STAGES}
        self._known: dict[str, int] = {}  # by incident: how many of its stages are counted
        self._before: Mapping[str, Incident] = {}
        self._epoch = -1

    def follow(self, state: State) -> None:
        """The state as it is after a turn."""
        if state.incidents is self._before:
            return
        self._before = state.incidents
        first = state.fleet.epoch != self._epoch
        self._epoch = state.fleet.epoch
        known, self._known = self._known, {}
        for each in state.incidents.values():
            self._known[each.id] = len(each.stage_at)
            if not first and known.get(each.id, -1) != len(each.stage_at):
                self._count(each, known.get(each.id))

    def all(self) -> tuple[Measured, ...]:
        """Everything."""
        return (self._silence.measured(), *(each.measured() for each in self._stages.values()))

    def _count(self, incident: Incident, known: int | None) -> None:
        if known is None and incident.kind is Kind.HOST and incident.last_seen_at is not None:
            self._silence.add(max(0.0, incident.opened_at - incident.last_seen_at))
        noted = list(incident.stage_at.items())  # in the order in which they came
        for stage, at in noted[known or 0 :]:
            if stage not in self._stages and len(self._stages) < STAGES_MAX:
                self._stages[stage] = Measure("stage_s", LONG, of=stage)
            if stage in self._stages:
                self._stages[stage].add(max(0.0, at - incident.opened_at))
