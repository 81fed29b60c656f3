"""What a run leaves out is named at its very end; CI skips nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import not_run

REPO = Path(__file__).parents[2]
SAMPLE = """
import pytest
def test_plain(): pass
@pytest.mark.root
def test_for_root(): pass
@pytest.mark.full
def test_long(): pass
"""


AS_A_USER = "import os\nos.geteuid = lambda: 1000\n"


def run(
    tmp_path: Path, source: str, *arguments: str, as_a_user: bool = False, **environ: str
) -> subprocess.CompletedProcess[str]:
    conftest = "from tests.conftest import *\n" + (AS_A_USER if as_a_user else "")
    (tmp_path / "conftest.py").write_text(conftest, encoding="utf-8")
    (tmp_path / "test_sample.py").write_text(source, encoding="utf-8")
    kept = {k: v for k, v in os.environ.items() if k not in {"CI", "HA_AGENT_NOT_RUN", "HA_AGENT_NO_ROOT"}}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "xdist.plugin", "-c", str(REPO / "pyproject.toml"), "--rootdir", str(tmp_path),
         *arguments, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=60, cwd=REPO,
        env={**kept, "PYTHONPATH": str(REPO), "HA_AGENT_NO_ROOT": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environ},
    )  # fmt: skip


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_end_names_each_test_and_its_reason(tmp_path: Path, workers: str) -> None:
    done = run(tmp_path, SAMPLE, "-n", workers)
    assert done.returncode == 0, done.stdout
    end = done.stdout[done.stdout.index("2 tests were NOT run") :]
    assert end.count("test_sample.py::test_for_root") == 1
    assert "it needs root" in end
    assert end.count("test_sample.py::test_long") == 1
    assert "make test-full" in end
    assert "passed" not in end  # nothing follows the list


def test_full_runs_what_is_long(tmp_path: Path) -> None:
    for option in (["--full"], ["-m", "full"]):
        assert "test_long" not in run(tmp_path, SAMPLE, *option).stdout


def test_a_skip_is_a_failure_in_ci_only(tmp_path: Path) -> None:
    source = "import pytest\ndef test_skips(): pytest.skip('no broker here')\n"
    assert run(tmp_path, source).returncode == 0
    done = run(tmp_path, source, CI="true")
    assert done.returncode == 1
    assert "no broker here" in done.stdout


def test_a_lack_of_root_is_a_failure_in_ci_only_and_not_where_it_is_meant(tmp_path: Path) -> None:
    for ci, meant, returncode in (("true", "", 1), ("true", "1", 0), ("", "", 0)):
        done = run(tmp_path, SAMPLE, as_a_user=True, CI=ci, HA_AGENT_NO_ROOT=meant)
        assert done.returncode == returncode, done.stdout
        assert ("1 failed" in done.stdout or "1 error" in done.stdout) is bool(returncode)
        assert "it needs root" in done.stdout, "it is named in any case"


def test_only_tests_for_root_are_no_error_for_a_user(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.root\ndef test_for_root(): pass\n"
    assert run(tmp_path, source).returncode == 0
    assert run(tmp_path, "").returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_runs_share_one_list(tmp_path: Path) -> None:
    file = tmp_path / "build" / "not-run"
    assert not_run.render(not_run.read(file)) == "every test was run"
    not_run.add(file, [("a.py::test_1", "it needs root")])
    not_run.add(file, [("b.py::test_2", "it needs root"), ("b.py::test_3", "it is long")])
    text = not_run.render(not_run.read(file))
    assert text.startswith("3 tests were NOT run")
    assert text.count("because") == 2
