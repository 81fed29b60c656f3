"""The controller of a rig: a process that may be killed at any moment, and its journal as it is on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml

from ha_agent.controller import journal
from ha_agent.model import CommandKind, Incident, ServerProgress
from ha_agent.programs import below
from tests.integration.controller_process import ROOT, launch
from tests.integration.ipmi_sim import PASSWORD, USER, IpmiSim

LOOK_S = 0.004


class ControllerProcess:
    """Of the hosts `names`. Everything of it is below the directory."""

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self.directory = directory
        self.names = tuple(names)
        self.kills = 0
        self.orphans: set[str] = set()  # ids of commands whose controller was killed before it knew their answers
        self._controller: subprocess.Popen[bytes] | None = None

    def end_controller(self) -> None:
        """It runs no more."""
        if self._controller is not None:
            self._controller.kill()
            self._controller.wait()

    def configure(
        self,
        cloud: dict[str, Any],
        bmcs: Mapping[str, int],
        remotes: Mapping[str, int],
        second_level: Mapping[str, object] | None = None,
        notifications: Mapping[str, object] | None = None,
    ) -> None:
        """Short times, so that a story takes seconds. `cloud`: an entry of clouds.yaml. `bmcs`, `remotes`: each host's ports.

        `second_level`: a device of the first host, `notifications`: the section; both as they stand in the config.
        """
        (self.directory / "clouds.yaml").write_text(yaml.safe_dump({"clouds": {"rig": cloud}}))
        secret = self.directory / "bmc-password"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        device: dict[str, object] = {"driver": "ipmi", "address": IpmiSim.address, "username": USER}
        device |= {"password_file": str(secret), "options": {"privilege": "administrator"}}
        second = {"devices": {"second": dict(second_level)}, "levels": [["bmc"], ["second"]]} if second_level else {}
        config = {
            "version": 1,
            "cloud": "rig",
            "pki": {"directory": "pki"},
            "detection": {
                "heartbeat_interval_s": 0.5,
                "suspect_after_s": 1.5,
                "down_after_s": 3,
                "probe_interval_s": 0.8,
                "probe_timeout_s": 0.7,
                "pause_s": 1,
                "verdict_max_age_s": 3,
                "witnesses": {"fresh_s": 60},
            },
            "fencing": {
                "evidence_max_age_s": 10,
                "attempt_s": 8,
                "read_s": 3,
                "check_interval_s": 3,
                "retry": {"min_s": 0.5, "max_s": 2},
                "devices": {"bmc": {**device, "port": bmcs[self.names[0]]}},
                "levels": [["bmc"]],
            },
            "recovery": {
                "poll_s": 0.5,
                "retry": {"min_s": 0.5, "max_s": 2},
                "api_max_s": 4,
                "settle_after_s": 60,
                "concurrency": {"min": 3, "max": 4},
            },
            "notifications": dict(notifications or {}),
            "http": {"listen": "127.0.0.1:0", "socket": "controller.sock"},
            "store": {"url": "sqlite:///store.db", "lease_s": 3},
            "hosts": {name: {"address": "127.0.0.1", "port": remotes[name]} for name in self.names},
            "overrides": [
                {"match": {"hosts": self.names[0]}, "fencing": second},
                *(
                    {
                        "match": {"hosts": name},
                        "fencing": {"devices": {"bmc": {**device, "port": bmcs[name]}}},
                    }
                    for name in self.names[1:]
                ),
            ],
        }
        (self.directory / "controller.yaml").write_text(yaml.safe_dump(config))

    # --- the controller ---

    async def start_controller(self, stderr: int | None = None) -> None:
        """Returns when its socket answers. `stderr`: a descriptor; None: its log."""
        self._controller = launch(self.directory, stderr=stderr)
        end = time.monotonic() + 30
        while True:
            try:
                await self.ask("GET", "/healthz")
                return
            except aiohttp.ClientError:
                assert self._controller.poll() is None, f"the controller ended\n{self.log()}"
                assert time.monotonic() < end, f"the controller does not answer\n{self.log()}"
                await asyncio.sleep(0.05)

    async def kill_controller(self) -> None:
        """kill -9. Its fencing workers must not outlive it."""
        assert self._controller is not None
        helpers = below.living(self._controller.pid)
        self._controller.send_signal(signal.SIGKILL)
        self._controller.wait()
        self.kills += 1
        self.orphans |= {command.id for incident in self.incidents() for command in incident.pending}
        await self.until(lambda: not any(alive(pid) for pid in helpers), 0.3, "the fencing workers die with it")

    def workers(self) -> list[int]:
        """The controller's living fencing workers: what its nursery has forked."""
        assert self._controller is not None
        return [worker for nursery in children(self._controller.pid) for worker in children(nursery)]

    async def ready(self) -> None:
        """Every host is heard, has witnesses and a device that works; the controller is armed."""
        await self.until_true(self._leads, 30, "the controller leads")
        status, text = await self.ask("POST", "/v1/orders", {"order": "arm", "reason": "rig"})
        assert status == 200, text
        await self.until_true(self._is_ready, 30, "everything is ready")

    async def _leads(self) -> bool:
        return "does not lead" not in (await self.ask("GET", "/readyz"))[1]

    async def all_alive(self) -> bool:
        """Whether the controller hears every host."""
        hosts = msgspec.json.decode((await self.ask("GET", "/v1/hosts"))[1])
        return len(hosts) == len(self.names) and all(host["view"]["verdict"] == "alive" for host in hosts)

    async def _is_ready(self) -> bool:
        if (await self.ask("GET", "/readyz"))[0] != 200 or not await self.all_alive():
            return False
        machines = [d.host.machine for d in self._documents("host", journal.HostDocument)]
        return len(machines) == len(self.names) and all(machines)

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Over the controller's own socket. Raises aiohttp.ClientError where nobody answers."""
        connector = aiohttp.UnixConnector(str(self.directory / "controller.sock"))
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(5)) as session,
            session.request(method, f"http://localhost{path}", json=body) as answer,
        ):
            return answer.status, await answer.text()

    async def cli(self, *words: str) -> tuple[int, str]:
        """The command as its user types it. Says how it ended, and what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ha_agent",
            *words,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "HA_AGENT_SOCKET": str(self.directory / "controller.sock"),
                "OS_CLIENT_CONFIG_FILE": str(self.directory / "clouds.yaml"),
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()

    def log(self) -> str:
        """What the controllers said."""
        path = self.directory / "controller.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- the journal, as it is on the disk ---

    def incidents(self) -> list[Incident]:
        """Without their servers and history."""
        return [d.incident for d in self._documents("incident", journal.IncidentDocument)]

    def pending(self, kind: CommandKind) -> int:
        """How many intents of this kind the living controller has journalled, and no answer to them."""
        commands = [command for incident in self.incidents() for command in incident.pending]
        return sum(command.kind is kind and command.id not in self.orphans for command in commands)

    def servers(self) -> list[ServerProgress]:
        """Of all incidents."""
        return [d.server for d in self._documents("server", journal.ServerDocument)]

    def _documents(self, kind: str, cls: type[Any]) -> list[Any]:
        path = self.directory / "store.db"
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
            rows = db.execute("SELECT key, body FROM documents WHERE kind = ?", (kind,)).fetchall()
        found = [journal.decode(kind, key, body) for key, body in rows]
        assert all(isinstance(one, cls) for one in found)
        return found

    # --- waiting ---

    async def until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Looks often. Raises AssertionError with the controller's log."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"in vain: {what}\n{self.log()[-12000:]}"
            await asyncio.sleep(LOOK_S)

    async def until_true(self, condition: Callable[[], Any], timeout_s: float, what: str) -> None:
        """The same for a question that takes time."""
        end = time.monotonic() + timeout_s
        while not await condition():
            assert time.monotonic() < end, f"in vain: {what}\n{self.log()[-12000:]}"
            await asyncio.sleep(0.1)


def children(pid: int) -> list[int]:
    """Living child processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and alive(int(entry.name)):
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    """Whether it runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
