"""How hypothesis runs here: the same examples in every run, none of them against a clock, none kept on disk.

`HA_AGENT_FUZZ=N` looks for new examples instead, N times as many; a failure is printed with what reproduces it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("HA_AGENT_FUZZ") or 0)

settings.register_profile(
    "ha-agent",
    max_examples=50 * max(TIMES, 1),
    derandomize=TIMES == 0,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
settings.load_profile("ha-agent")
