"""The environment that holds Nova: made once, kept in a cache, found again by what is in it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.debian import need
from tests.integration.nova.processes import TAIL, LabError

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
DEBIAN = ("mariadb-server", "openipmi", "rabbitmq-server")
INSTALL_S = 900


def cache() -> Path:
    """Below which everything is kept that is made once."""
    base = os.environ.get("HA_AGENT_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ha-agent" / "nova-lab"


def key() -> str:
    """Changes with the pinned packages, the Python and the processor."""
    what = f"{REQUIREMENTS.read_text()}\n{sys.version}\n{platform.machine()}"
    return hashlib.sha256(what.encode()).hexdigest()[:12]


def ready() -> Path:
    """The environment, made now where it is not there yet. Raises LabError, or Missing for a Debian package."""
    need(*DEBIAN)
    home = cache() / key()
    done = home / "complete"
    with one_at_a_time(cache()):
        if not done.exists():
            shutil.rmtree(home, ignore_errors=True)
            print(f"installing Nova, Keystone and Placement into {home} (once)", flush=True)
            _make(home)
            done.touch()
    return home


def _make(home: Path) -> None:
    python = home / "bin" / "python"
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--prefer-binary", "--retries", "5", "--no-deps", "-r", REQUIREMENTS]
    commands: list[list[str | Path]] = [[sys.executable, "-m", "venv", home], install, [*pip, "check"]]
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
        except subprocess.TimeoutExpired:
            raise LabError(f"{' '.join(map(str, command))} was not done within {INSTALL_S} s") from None
        if done.returncode != 0:
            raise LabError(
                f"Nova cannot be installed; is a package index reachable?\n{(done.stdout + done.stderr)[-TAIL:]}"
            )


@contextmanager
def one_at_a_time(directory: Path) -> Iterator[None]:
    """Two labs that are started at once make the same thing once."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
