"""Random worlds: a few in every check, many when there is time. A violation prints the command that replays it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from ha_agent.sim.simulate import run


def lives(seeds: int, first_seed: int, days: float) -> dict[str, object]:
    out = io.StringIO()
    code = run(seeds, first_seed, days, True, out)
    summary: dict[str, object] = json.loads(out.getvalue().splitlines()[-1])
    assert summary["violations"] == [], summary["violations"]
    assert code == 0
    return summary


@pytest.mark.parametrize("first_seed", [1, 101])
def test_no_rule_is_broken(first_seed: int) -> None:
    summary = lives(8, first_seed, 1.0)
    assert isinstance(summary["recovered"], int)
    assert summary["recovered"] > 2, "nothing failed in these worlds: they prove nothing"


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first_seed", range(10_000, 12_000, 200))
def test_no_rule_is_broken_in_many_worlds(first_seed: int) -> None:
    lives(200, first_seed, 1.0)


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Whatever PYTHONHASHSEED is."""
    code = (
        "from ha_agent.sim.simulate import Life\n"
        "lines = []\n"
        "life = Life(7, log=lines.append)\n"
        "life.live(1)\n"
        "print('\\n'.join(lines))\n"
    )
    logs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(logs[0].splitlines()) > 50
    assert logs[0] == logs[1]
