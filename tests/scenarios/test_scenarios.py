"""Each folder here is a scenario: README.md (the principle), script.yaml (what happens), expected.log (what is done about it).

The script is replayed in virtual time against the production engine; its log must be the expected one, and no rule may be broken.
`make scenarios UPDATE=1` (HA_AGENT_UPDATE_SCENARIOS=1 in the environment) rewrites the expected logs: read the difference before you commit it.
"""

from __future__ import annotations

import os
import re
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
    if os.environ.get("HA_AGENT_UPDATE_SCENARIOS") == "1":
        expected.write_text(log)
    assert log == expected.read_text()


TABLES = (HERE / "README.md").read_text()
KINDS = re.findall(r"^### (.+)$", TABLES, re.MULTILINE)
ELSE = (
    "nothing",
    "fencing device",
    "Nova's API",
    "Nova's data",
    "Keystone, broker",
    "store",
    "controller",
    "network",
    "another host",
    "servers",
    "orders",
    "configuration",
)


def test_every_scenario_has_its_place_in_the_tables_and_every_place_its_scenario() -> None:
    named = set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)*)`", TABLES)) - {"breaks"}
    assert sorted(set(SCENARIOS) - named) == [], "name it in README.md"
    assert sorted(named - set(SCENARIOS)) == [], "no such folder"


def test_every_cell_names_a_scenario_or_says_why_there_is_none() -> None:
    assert len(KINDS) >= 9
    for section in TABLES.split("\n### ")[1:]:
        kind, table = section.split("\n## ")[0].split("\n", 1)
        cells = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", table, re.MULTILINE))
        missing = [what for what in ELSE if len(cells.get(what, "").strip()) < 10]
        assert missing == [], f"{kind} × {missing}"


def test_every_limit_of_the_design_has_a_scenario() -> None:
    design = (HERE.parents[1] / "docs" / "design.md").read_text()
    limits = re.findall(r"^- ", design.split("\n## Limits\n")[1].split("\n## ")[0], re.MULTILINE)
    rows = re.findall(
        r"^\| .+ \| .*`.+` \|$|^\| .+ \| `.+ \|$", TABLES.split("\n## Documented limits\n")[1], re.MULTILINE
    )
    assert len(rows) >= len(limits) >= 6


def test_only_documented_limits_break_rules() -> None:
    for name in SCENARIOS:
        breaks = load(HERE / name / "script.yaml").get("breaks", [])
        assert bool(breaks) <= name.startswith("limit_"), name
