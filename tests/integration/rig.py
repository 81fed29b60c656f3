"""A small cloud of real processes, whose controller may be killed at any moment.

    async with Rig(directory) as rig:
        await rig.start_controller()
        await rig.ready()
        rig.lose("compute-1")            # cut off from everybody, its guests run on: only an off ends them
        await rig.kill_controller()      # SIGKILL; its fencing workers must be gone with it
        await rig.start_controller()

Real: OpenIPMI's ipmi_sim, whose off kills a process group; remotes, gate, TLS; the controller with SQLite on disk. Simulated: Nova, over
HTTP, in this process, so that it outlives every controller.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import msgspec
import yaml

from ha_agent.controller import journal
from ha_agent.heartbeat.files import write_durably
from ha_agent.heartbeat.pki import Pki
from ha_agent.model import CommandKind, Incident, ServerProgress
from ha_agent.programs import below
from ha_agent.sim.nova_api import NovaApi
from ha_agent.sim.nova_state import NovaState, SimHost
from tests.integration.ipmi_sim import PASSWORD, USER, IpmiSim
from tests.integration.rig_cable import PowerWire

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("compute-1", "compute-2", "compute-3")
TAG = "automatic-recovery"
# (name, tags, stopped): what runs on compute-1. All boot from volumes.
SERVERS = (
    ("db", (TAG, "recovery-priority:10"), False),
    ("web-1", (TAG,), False),
    ("web-2", (TAG,), False),
    ("web-3", (TAG,), False),
    ("spare", (TAG,), True),
    ("scratch", (), False),
)
LOOK_S = 0.004


class WatchedNova(NovaState):
    """Nova's simulator, and a list of what it was told of services: (host, forced_down)."""

    def __init__(self, clock: Callable[[], float], rng: random.Random) -> None:
        super().__init__(clock, rng)
        self.told: list[tuple[str, bool]] = []
        self.slow(False)

    def slow(self, yes: bool) -> None:
        """Whether evacuations that are asked for from now on outlast a restart of the controller."""
        self._evacuation_s = (7.0, 8.0) if yes else (1.2, 1.6)

    def force_down(self, service_id: str, value: bool) -> SimHost:
        """Kept where Nova accepted it."""
        row = super().force_down(service_id, value)
        self.told.append((row.name, value))
        return row


class Rig:
    """See the module. One event loop runs all of it."""

    def __init__(
        self,
        directory: Path,
        second_level: Mapping[str, object] | None = None,
        notifications: Mapping[str, object] | None = None,
    ) -> None:
        self.directory = directory
        self._notifications = notifications or {}  # as it stands in the config
        self._second_level = second_level  # a device of compute-1, as it stands in the config
        self.nova = WatchedNova(time.monotonic, random.Random(7))
        self.api = NovaApi(self.nova)
        self.bmcs: dict[str, IpmiSim] = {}
        self.cables = {name: PowerWire() for name in HOSTS}
        self.boots: list[str] = []  # hosts, in the order in which they booted
        self.kills = 0
        self.orphans: set[str] = set()  # ids of commands whose controller was killed before it knew their answers
        self._guests: dict[str, frozenset[str]] = {}
        self._controller: subprocess.Popen[bytes] | None = None
        self._server: asyncio.Server | None = None
        self._lives: set[asyncio.Task[None]] = set()
        self._clerk: asyncio.Task[None] | None = None

    # --- coming and going ---

    async def __aenter__(self) -> Rig:
        self.directory.mkdir(parents=True)
        try:
            await self._build()
        except BaseException:
            await self._tear_down()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tear_down()

    async def _build(self) -> None:
        pki = Pki(self.directory / "ca")
        pki.init()
        pki.issue("controller", "controller-1", self.directory / "pki")
        await self.api.start()
        for name in HOSTS:
            self.nova.add_host(name)
            (self.directory / name).mkdir()
            pki.issue("host", name, self.directory / name / "pki")
        for server, tags, stopped in SERVERS:
            self.nova.add_server(HOSTS[0], server, tags=tags, stopped=stopped)
        self._note_guests()
        self._server = await asyncio.start_unix_server(self._host_lives, self.directory / "rig.sock")
        for name in HOSTS:
            program = [sys.executable, "-m", "tests.integration.rig_host", str(self.directory / name)]
            log = shlex.quote(str(self.directory / name / "log"))
            command = f"PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.join(program)} >> {log} 2>&1"
            self.bmcs[name] = IpmiSim(self.directory / "bmc", name, command)
        starts = [asyncio.to_thread(bmc.start) for bmc in self.bmcs.values()]
        for result in await asyncio.gather(*starts, return_exceptions=True):  # none is left behind in the middle of it
            if result is not None:
                raise result
        self._configure()
        self._clerk = asyncio.create_task(self._write_down())
        await self.until(lambda: set(self.boots) == set(HOSTS), 30, "the hosts boot")

    async def _tear_down(self) -> None:
        if self._controller is not None:
            self._controller.kill()
            self._controller.wait()
        if self._clerk is not None:
            self._clerk.cancel()
            await asyncio.gather(self._clerk, return_exceptions=True)
        for name, bmc in self.bmcs.items():
            if (self.directory / "bmc" / name / "switch").exists():  # it was started
                await asyncio.to_thread(bmc.stop)
        if self._server is not None:
            self._server.close()
        for task in self._lives:
            task.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)
        for cable in self.cables.values():
            await cable.close()
        await self.api.stop()

    def _configure(self) -> None:
        """Short times, so that a story takes seconds."""
        (self.directory / "clouds.yaml").write_text(yaml.safe_dump({"clouds": {"rig": self.api.cloud()}}))
        secret = self.directory / "bmc-password"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        device = {"driver": "ipmi", "address": IpmiSim.address, "username": USER, "password_file": str(secret)}
        device["options"] = {"privilege": "administrator"}  # type: ignore[assignment]
        second = (
            {"devices": {"second": dict(self._second_level)}, "levels": [["bmc"], ["second"]]}
            if self._second_level
            else {}
        )
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
                "devices": {"bmc": {**device, "port": self.bmcs[HOSTS[0]].port}},
                "levels": [["bmc"]],
            },
            "recovery": {
                "poll_s": 0.5,
                "retry": {"min_s": 0.5, "max_s": 2},
                "api_max_s": 4,
                "settle_after_s": 60,
                "concurrency": {"min": 3, "max": 4},
            },
            "notifications": dict(self._notifications),
            "http": {"listen": "127.0.0.1:0", "socket": "controller.sock"},
            "store": {"url": "sqlite:///store.db", "lease_s": 3},
            "hosts": {name: {"address": "127.0.0.1", "port": self.cables[name].port} for name in HOSTS},
            "overrides": [
                {"match": {"hosts": HOSTS[0]}, "fencing": second},
                *(
                    {
                        "match": {"hosts": name},
                        "fencing": {"devices": {"bmc": {**device, "port": self.bmcs[name].port}}},
                    }
                    for name in HOSTS[1:]
                ),
            ],
        }
        (self.directory / "controller.yaml").write_text(yaml.safe_dump(config))

    # --- the controller ---

    async def start_controller(self, stderr: int | None = None) -> None:
        """Returns when its socket answers. `stderr`: a descriptor; None: its log."""
        with (self.directory / "controller.log").open("ab") as log:
            self._controller = subprocess.Popen(  # noqa: ASYNC220 -- the kill must be ours, at once
                [sys.executable, "-m", "ha_agent", "controller", "--config", str(self.directory / "controller.yaml")],
                cwd=self.directory,
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(ROOT),
                    "OS_CLIENT_CONFIG_FILE": str(self.directory / "clouds.yaml"),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if stderr is None else stderr,
                start_new_session=True,
            )
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
        return len(hosts) == len(HOSTS) and all(host["view"]["verdict"] == "alive" for host in hosts)

    async def _is_ready(self) -> bool:
        if (await self.ask("GET", "/readyz"))[0] != 200 or not await self.all_alive():
            return False
        machines = [d.host.machine for d in self._documents("host", journal.HostDocument)]
        return len(machines) == len(HOSTS) and all(machines)

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

    # --- hosts ---

    def lose(self, name: str) -> None:
        """The host is cut off from everybody. It runs on, and so do its guests, until somebody switches it off."""
        self.cables[name].cut()
        self.nova.isolate(name)

    async def _host_lives(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One boot of one host: it ends when the kernel closes the connection of its killed process."""
        task = asyncio.current_task()
        assert task is not None
        self._lives.add(task)
        name = ""
        try:
            while line := (await reader.readline()).decode().split():
                if line[0] == "boot":
                    name = line[1]
                    self.nova.power_on(name)
                    self.nova.join(name)
                    await self.cables[name].plug(int(line[2]))
                    self.boots.append(name)
                else:
                    self.nova.compute_start(name)
                writer.write(b"ok\n")
        except ConnectionError:
            pass
        finally:
            if name:
                self.nova.power_cut(name)
                self.cables[name].cut()
            writer.close()
            self._lives.discard(task)

    async def _write_down(self) -> None:
        """Time passes in Nova, and each host's "libvirt" lists its domains."""
        while True:
            self.nova.tick()
            self._note_guests()
            await asyncio.sleep(0.05)

    def _note_guests(self) -> None:
        for name in HOSTS:
            guests = frozenset(self.nova.domains[name])
            if self._guests.get(name) != guests:
                self._guests[name] = guests
                listed = msgspec.json.encode({server: {} for server in sorted(guests)})
                write_durably(self.directory / name / "guests.json", listed)

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
