"""Runs the killers on a mutant, in a copy of the tree in which only the mutated file differs, in processes of their own."""

from __future__ import annotations

import enum
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import cache_from_source
from pathlib import Path

from tests.mutants.generate import Mutant

COPIED = ("ha_agent", "tests", "pyproject.toml")
LEFT_OUT = shutil.ignore_patterns("integration", "benchmarks", "mutants", ".*")
# Quick ones first: a killed mutant needs no more. `-x` ends at the first failure.
UNIT = tuple(f"tests/unit/test_{name}.py" for name in ("guards", "witness", "engine", "select", "decide_rules"))
SIMULATION = (
    "tests/scenarios",
    "tests/simulation/test_planted.py",
    "tests/simulation/test_crash.py",
    "tests/simulation/test_seeds.py",
)
KILLERS = (UNIT, SIMULATION)
NOT_HERE = ("--deselect", "tests/simulation/test_seeds.py::test_the_same_seed_gives_the_same_bytes")
FIRST_LIMIT_S = 300.0
LEAST_LIMIT_S = 20.0
TESTS_FAILED = (1, 2)  # a test failed; a test file could not be imported
SLOWER = 4.0  # a killer that needs this many times what it needs of the original will not end


class Fate(enum.StrEnum):
    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"


class Broken(Exception):
    """The tests do not pass on the unchanged tree, or do not run at all."""


def copy_tree(root: Path, to: Path) -> None:
    """What the killers need, with its byte code."""
    to.mkdir(parents=True)
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, to / name, ignore=LEFT_OUT)
        else:
            shutil.copy2(root / name, to / name)


def baseline(tree: Path) -> tuple[float, ...]:
    """The limits in seconds of the killers. Raises Broken: a suite that fails anyway would kill everything."""
    where = subprocess.run(
        [sys.executable, "-c", "import ha_agent; print(ha_agent.__file__)"],
        cwd=tree,
        env=_environment(tree, write_byte_code=True),
        capture_output=True,
        text=True,
        check=True,
        timeout=FIRST_LIMIT_S,
    ).stdout.strip()
    if not Path(where).is_relative_to(tree):
        raise Broken(f"the tests would import {where}, not the copy")
    limits = []
    for killer in KILLERS:
        began = time.monotonic()
        code, output = _pytest(tree, killer, FIRST_LIMIT_S, write_byte_code=True)
        if code != 0:
            raise Broken(f"the tests fail without any mutant ({' '.join(killer)}):\n{output[-3000:]}")
        limits.append(max(LEAST_LIMIT_S, SLOWER * (time.monotonic() - began)))
    return tuple(limits)


def fate(tree: Path, mutant: Mutant, limits: tuple[float, ...]) -> Fate:
    """Raises Broken where pytest itself could not run."""
    file = tree / mutant.file
    original = file.read_bytes()
    # Byte code is trusted by size and whole seconds: that of another mutant could pass for this one's.
    Path(cache_from_source(str(file))).unlink(missing_ok=True)
    file.write_text(mutant.text)
    try:
        for killer, limit_s in zip(KILLERS, limits, strict=True):
            code, output = _pytest(tree, killer, limit_s)
            if code is None:
                return Fate.TIMED_OUT
            if code in TESTS_FAILED:
                return Fate.KILLED
            if code != 0:
                raise Broken(f"{mutant.id}: pytest ended with {code}:\n{output[-3000:]}")
        return Fate.SURVIVED
    finally:
        file.write_bytes(original)


def _pytest(
    tree: Path, killer: tuple[str, ...], limit_s: float, *, write_byte_code: bool = False
) -> tuple[int | None, str]:
    """The exit code, None after `limit_s`, and the output."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line", *NOT_HERE, *killer],
        cwd=tree,
        env=_environment(tree, write_byte_code=write_byte_code),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return None, output
    return process.returncode, output


def _environment(tree: Path, *, write_byte_code: bool = False) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
    environment.pop("HA_AGENT_UPDATE_SCENARIOS", None)
    environment["PYTHONDONTWRITEBYTECODE"] = "" if write_byte_code else "1"
    return environment
