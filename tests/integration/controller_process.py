"""The controller as a process of its own, in a directory that holds its controller.yaml and clouds.yaml."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def launch(directory: Path, *, within: Sequence[str] = (), stderr: int | None = None) -> subprocess.Popen[bytes]:
    """It leads a session of its own. `within`: words that stand before its command. `stderr`: a descriptor; None: controller.log, as its output."""
    with (directory / "controller.log").open("ab") as log:
        return subprocess.Popen(
            [*within, sys.executable, "-m", "ha_agent", "controller", "--config", str(directory / "controller.yaml")],
            cwd=directory,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "OS_CLIENT_CONFIG_FILE": str(directory / "clouds.yaml"),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log if stderr is None else stderr,
            start_new_session=True,
        )
