"""What docs/design.md shows of simulated lives is what they say today."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ha_agent.cli import run

DESIGN = Path(__file__).parents[2] / "docs/design.md"
SHOWN = re.findall(r"```\n\$ ha-agent (simulate [^\n]+)\n(.*?)```", DESIGN.read_text(), re.DOTALL)


def test_there_are_examples() -> None:
    assert len(SHOWN) == 2


@pytest.mark.parametrize(("command", "shown"), SHOWN)
def test_an_example_says_what_is_shown(command: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`…` stands for what is left out."""
    assert run(shlex.split(command)) == 0
    said = capsys.readouterr().out
    wanted = ".*".join(re.escape(part.strip("\n")) for part in shown.strip("\n").split("…"))
    assert re.search(wanted, said, re.DOTALL), said
