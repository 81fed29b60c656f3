"""The words of scripts and the table of faults are documented as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from ha_agent.errors import UsageError
from ha_agent.sim import strikes
from ha_agent.sim.actions import parsed, usages
from ha_agent.sim.faults import TABLE, Scene
from ha_agent.sim.impossible import RULES, reason
from ha_agent.sim.stage import SUBJECT, Stage
from ha_agent.sim.timeline import stream

PAGE = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()


def test_every_word_is_documented_with_its_arguments() -> None:
    listed = PAGE.split("## Words of a script")[1].split("```")[1].strip().splitlines()
    assert listed == [f"{name} {usage}".rstrip() for name, usage in usages().items()]


def test_every_fault_is_documented_with_its_rate_and_a_line_that_is_a_script() -> None:
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.count(" | ") == 2 and "`" in line]
    assert [(r[0].removeprefix("| "), int(r[1])) for r in rows] == [(f.name, f.weight) for f in TABLE]
    for row in rows:
        for line in row[2].removesuffix(" |").split("; "):
            parsed(line.strip("`"))


def test_every_fault_has_a_rate_and_draws_lines_that_end_by_themselves() -> None:
    stage = Stage(2)
    for fault in TABLE:
        assert fault.weight > 0, fault.name
        for number in range(20):
            for line in fault.draw(Scene(stage.sim, stream(number, fault.name), SUBJECT)):
                parsed(line)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("explode h2", "no action 'explode'"),
        ("", "no action ''"),
        ("kill", "want kill HOST"),
        ("kill h1 h2", "want kill HOST"),
        ("crash 3 for 9", "cannot be undone"),
        ("freeze h2 for ever", "wants seconds"),
    ],
)
def test_a_line_that_is_wrong_is_refused_with_what_is_wanted(line: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parsed(line)


def test_what_is_called_impossible_names_faults_and_steps_that_exist() -> None:
    names = {f.name for f in TABLE}
    for faults, steps, why in RULES:
        assert set(faults) <= names
        assert set(steps) <= set(strikes.STEPS)
        assert why
    assert sum(bool(reason(*p)) for p in strikes.PAIRS) < len(strikes.PAIRS) / 8
