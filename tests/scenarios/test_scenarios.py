"""Each folder here is a scenario: README.md (the principle), script.yaml (what happens), expected.log (what is done about it).

The script is replayed in virtual time against the production engine; its log must be the expected one, and no rule may be broken.
`make scenarios UPDATE=1` (HA_AGENT_UPDATE_SCENARIOS=1 in the environment) rewrites the expected logs: read the difference before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ha_agent.sim.scenario import broken, load, replay

HERE = Path(__file__).parent
SCENARIOS = sorted(p.parent.name for p in HERE.glob("*/script.yaml"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str) -> None:
    folder = HERE / name
    script = load(folder / "script.yaml")
    lines, sim = replay(script)
    log = "\n".join(lines) + "\n"
    promised = [str(v) for v in sim.violations]
    assert broken(sim) == sorted(script.get("breaks", [])), promised
    assert (folder / "README.md").read_text().strip(), "say which principle the scenario shows"
    expected = folder / "expected.log"
    if os.environ.get("HA_AGENT_UPDATE_SCENARIOS"):
        expected.write_text(log)
    assert log == expected.read_text()


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 14
