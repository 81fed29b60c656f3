"""The rhythm of a host's heartbeats, and the silence that makes a suspect of it. Pure."""

from __future__ import annotations

import math

from ha_agent.model import Value
from ha_agent.policy import Detection

GAPS = 16  # of which a rhythm is known; they also are what the mean and its deviation remember
PHI_8 = 5.6  # deviations beyond the mean that a normal gap exceeds once in a hundred million
PEAK_FADES = 0.995  # of the longest time between two heartbeats, with each one: lost frames come late by far more than a normal gap
BEYOND_PEAK = 1.5
STEP_S = 0.5  # of the suspicion that adapts


class Rhythm(Value, frozen=True, kw_only=True):
    """Mean, mean deviation and fading longest of the times between heartbeats; `gaps`: how many of them were seen, up to GAPS."""

    mean_s: float
    dev_s: float
    peak_s: float
    gaps: int


def after(rhythm: Rhythm | None, gap_s: float) -> Rhythm:
    """With one more gap. None: the first one."""
    if rhythm is None:
        return Rhythm(mean_s=gap_s, dev_s=0.0, peak_s=gap_s, gaps=1)
    off_s = gap_s - rhythm.mean_s
    return Rhythm(
        mean_s=rhythm.mean_s + off_s / GAPS,
        dev_s=rhythm.dev_s + (abs(off_s) - rhythm.dev_s) / GAPS,
        peak_s=max(gap_s, rhythm.peak_s * PEAK_FADES),
        gaps=min(GAPS, rhythm.gaps + 1),
    )


def suspect_after_s(rhythm: Rhythm | None, detection: Detection, most_s: float) -> float:
    """The silence that makes a suspect: `suspect_after_s`, or more, up to `most_s`, where heartbeats are irregular, so that a host on a bad line
    is not suspected every minute. Phi accrual as a scale only, and because lost frames are anything but normally distributed, half as long
    again as the longest gap lately. The verdict still falls after `down_after_s`, from a full round."""
    usual = detection.suspect_after_s
    if rhythm is None or rhythm.gaps < GAPS:
        return usual
    long_s = max(rhythm.mean_s + PHI_8 * rhythm.dev_s, BEYOND_PEAK * rhythm.peak_s)
    return max(usual, min(most_s, math.ceil(long_s / STEP_S) * STEP_S))
