"""A script that is wrong says where, and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from ha_agent.errors import UsageError
from ha_agent.sim.scenario import load


@pytest.mark.parametrize(
    ("script", "named"),
    [
        ("[]", "mapping"),
        ("until: 10\nhostz: 3", "hostz"),
        ("hosts: 3", "until"),
        ("until: 10\nat: {5: explode h1}", "explode"),
        ("until: 10\nat: {5: [kill h1, explode h1]}", "explode"),
    ],
)
def test_a_wrong_script_is_refused(tmp_path: Path, script: str, named: str) -> None:
    file = tmp_path / "script.yaml"
    file.write_text(script)
    with pytest.raises(UsageError, match=named):
        load(file)
