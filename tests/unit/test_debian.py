"""Installing for tests leaves the machine as it was, and fails loudly."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration import debian


def test_policy_is_restored_with_its_mode(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    policy.chmod(0o700)
    with debian.nothing_starts(policy):
        assert subprocess.run([policy], check=False).returncode == 101
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert policy.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == [policy]


def test_policy_is_gone_where_there_was_none(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with pytest.raises(ZeroDivisionError), debian.nothing_starts(policy):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_tidied_up_by_the_next(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("mine")
    killed = debian.nothing_starts(policy)
    killed.__enter__()  # and never leaves
    with debian.nothing_starts(policy):
        assert debian.MARK in policy.read_text()
    assert policy.read_text() == "mine"


@pytest.mark.parametrize(
    ("failures", "works"), [(0, True), (debian.UPDATE_TRIES - 1, True), (debian.UPDATE_TRIES, False)]
)
def test_update_is_tried_again(failures: int, works: bool) -> None:
    codes = [100] * failures + [0]
    pauses: list[float] = []

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, codes.pop(0), "", "mirror sync in progress")

    if works:
        debian.update(run, pauses.append)
        assert len(pauses) == failures
    else:
        with pytest.raises(debian.Missing, match="mirror sync in progress"):
            debian.update(run, pauses.append)


def test_an_unlisted_package_is_refused() -> None:
    with pytest.raises(debian.Missing, match="PACKAGES"):
        debian.need("no-such-package-of-ours")
