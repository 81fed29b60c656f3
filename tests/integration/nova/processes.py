"""Processes that outlive whoever started them. Each leads a session of its own and is known by a file that holds its pid and the time at
which it began: a pid alone may by then belong to somebody else."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LOGS = "log"
TAIL = 3000
CLOSE = signal.SIGTERM


class LabError(RuntimeError):
    """The lab cannot be had. The message says which part, and where to look."""


class Processes:
    """Those of one directory: `run/NAME.pid`, `log/NAME.log`."""

    def __init__(self, directory: Path) -> None:
        self._run = directory / "run"
        self._log = directory / LOGS

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Starts it, its output going to its log; one that runs already stays."""
        if self.pid(name) is not None:
            return
        self._run.mkdir(parents=True, exist_ok=True)
        self._log.mkdir(parents=True, exist_ok=True)
        argv = [str(part) for part in command]
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawnp(
            argv[0],
            argv,
            {**_inherited(), **(environment or {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, self.log(name), append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        (self._run / f"{name}.pid").write_text(f"{pid} {began(pid) or 0}\n")

    def log(self, name: str) -> Path:
        """Where its output goes."""
        return self._log / f"{name}.log"

    def tail(self, name: str) -> str:
        """The end of its output, for an error message."""
        path = self.log(name)
        return path.read_text(errors="replace")[-TAIL:] if path.exists() else "(it said nothing)"

    def names(self) -> list[str]:
        """All that were started and not stopped, oldest first."""
        files = sorted(self._run.glob("*.pid"), key=lambda file: file.stat().st_mtime_ns)
        return [file.stem for file in files]

    def pid(self, name: str) -> int | None:
        """Of a living process; a zombie does not live."""
        try:
            pid, at = map(int, (self._run / f"{name}.pid").read_text().split())
        except (OSError, ValueError):
            return None
        return pid if began(pid) == at else None

    def stop(self, name: str, patience_s: float = 10.0) -> None:
        """Asks it to end, and kills what is left of its group when the patience is over. 0 kills at once."""
        file = self._run / f"{name}.pid"
        pid = self.pid(name)
        if pid is not None:
            if patience_s:
                os.kill(pid, CLOSE)
                with contextlib.suppress(LabError):
                    self.wait(f"the end of {name}", lambda: self.pid(name) is None, patience_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            self.wait(f"the end of {name}", lambda: self.pid(name) is None, 10)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        file.unlink(missing_ok=True)

    def wait(self, what: str, condition: Callable[[], object], timeout_s: float, of: str = "") -> None:
        """Until the condition holds. `of`: the process whose end makes waiting useless. Raises LabError with the end of its log."""
        end = time.monotonic() + timeout_s
        while not condition():
            dead = bool(of) and self.pid(of) is None
            if dead or time.monotonic() > end:
                why = f"{of} has ended" if dead else f"not within {timeout_s:g} s"
                raise LabError(f"{what}: {why}" + (f"; see {self.log(of)}\n{self.tail(of)}" if of else ""))
            time.sleep(0.05)  # a real process is looked at again


def _inherited() -> dict[str, str]:
    """Our environment without proxies, which loopback does not want, and without the wish to compile all modules at each start."""
    dropped = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "VIRTUAL_ENV"}
    kept = {k: v for k, v in os.environ.items() if k not in dropped and not k.lower().endswith("_proxy")}
    return kept | {"LC_ALL": "C.UTF-8"}


def began(pid: int) -> int | None:
    """When a living process began, in the kernel's ticks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
