"""A fence agent that misbehaves as it is told: a real program, run by the real driver, with its machine's state in a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.fencing_contract.bad import SLOW_S, Bad

PASSWORD = 'p4ss"w0rd $(x) &'

_SCRIPT = """\
#!{python} -SE
import os, signal, sys, time
D, BAD, SLOW, PASSWORD = {directory!r}, {bad!r}, {slow!r}, {password!r}

def get(name):
    try:
        with open(os.path.join(D, name)) as file:
            return file.read()
    except OSError:
        return ""

def put(name, text):
    with open(os.path.join(D, name + ".new"), "w") as file:
        file.write(text)
    os.rename(os.path.join(D, name + ".new"), os.path.join(D, name))

def add(name, text):
    with open(os.path.join(D, name), "a") as file:
        file.write(text + "\\n")
    return get(name).count("\\n")

def is_on():
    at = get("off_at")
    if at and time.time() >= float(at):
        put("power", "off")
    return get("power") == "on"

def says(state):
    print("Status: " + state)
    sys.exit({{"ON": 0, "OFF": 2}}.get(state, 8))

add("argv", " ".join(sys.argv))
add("pids", str(os.getpid()))
lines = [line.rstrip("\\n").split("=", 1) for line in sys.stdin]
options = {{name: value[1:-1] if value[:1] == value[-1:] == '"' else value for name, value in lines}}
put("options", repr(options))
put("environment", repr(dict(os.environ)))
if BAD == "hangs_before_login" or get("silent"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)
if options.get("password") != PASSWORD:
    sys.stderr.write("2026-01-01 10:00:00,123 ERROR: Unable to connect/login with " + options.get("password", "") + "\\n")
    sys.exit(1)
print("logged in")
if BAD == "hangs_after_login":
    if os.fork() == 0:
        os.setsid()  # a helper that gets away from its parent's group
        add("pids", str(os.getpid()))
    time.sleep(1000)
if BAD == "drops_second" and add("runs", "x") % 2 == 0:
    sys.stderr.write("ERROR: Connection lost\\n")
    sys.exit(4)
if options["action"] == "status":
    if BAD == "reports_unknown":
        print("Status: UNKNOWN")
        sys.exit(8)
    if is_on():
        says("ON")
    looks = add("looks", "x")
    if BAD == "flaps" and looks % 2 == 0:
        says("ON")
    if BAD == "comes_back":
        put("power", "on")
    says("OFF")
if options["action"] == "on":
    put("power", "on")
    sys.exit(0)
add("offs", "off")
if BAD == "dies_in_the_middle":
    put("silent", "yes")
    os.kill(os.getpid(), signal.SIGKILL)
elif BAD == "slow":
    put("off_at", str(time.time() + SLOW))
elif BAD != "stays_on":
    put("power", "off")
print("Success: Powered OFF")
"""


class AgentScript:
    """`path`: the program. `on`: the truth."""

    def __init__(self, directory: Path, bad: Bad) -> None:
        self._directory = directory / "agent"
        self._directory.mkdir()
        (self._directory / "power").write_text("on")
        self.path = self._directory / "fence_scripted"
        self.path.write_text(
            _SCRIPT.format(
                python=sys.executable, directory=str(self._directory), bad=str(bad), slow=SLOW_S, password=PASSWORD
            )
        )
        self.path.chmod(0o755)

    @property
    def on(self) -> bool:
        return self.file("power") == "on"

    @property
    def offs(self) -> int:
        return self.file("offs").count("\n")

    @property
    def pids(self) -> list[int]:
        """Of every process that it ever was."""
        return [int(word) for word in self.file("pids").split()]

    def file(self, name: str) -> str:
        """What it noted: argv, options, environment, offs, pids, power."""
        path = self._directory / name
        return path.read_text() if path.exists() else ""
