"""Our units under a real systemd: ready, status, reload, a loop that hangs, a stop in the middle of a fence; the remote and its gate."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ha_agent.model import CommandKind, Phase
from tests.integration.debian import need
from tests.integration.honest import World, monitored
from tests.integration.ipmi_sim import PASSWORD
from tests.integration.netns import Network
from tests.integration.rig import HOSTS
from tests.integration.systemd_rig import CONTROLLER, REMOTE, WATCHDOG_S, Installation, SystemdRig

pytestmark = [pytest.mark.root, pytest.mark.timeout(100), pytest.mark.usefixtures("network")]

HOST = HOSTS[0]
HERE = "controller-1"
STORY_S = 60.0
SLOW_OFF_S = 3.0
STOP_S = 20.0  # TimeoutStopSec


@pytest.fixture
def network() -> Iterator[None]:
    """Everything a test starts is on a network of its own, of which there is only the loopback."""
    need("openipmi")
    with Network((HERE,)) as made, made.inside(HERE):
        yield


def play(directory: Path, story: Callable[[SystemdRig], Awaitable[None]]) -> None:
    """The controller runs as a service, and all is well when the story begins."""

    async def played() -> None:
        async with SystemdRig(directory / "rig") as rig:
            await rig.start_controller()
            assert (await rig.show("StatusText")).startswith("leading (epoch 1), DISARMED"), (
                "READY is not before the loop"
            )
            await rig.ready()
            await story(rig)

    asyncio.run(played())


def test_status_and_reload(tmp_path: Path) -> None:
    play(tmp_path, status_and_reload)


async def status_and_reload(rig: SystemdRig) -> None:
    await rig.status_until("leading (epoch 1): 3 of 3 hosts heard, no open incident")
    assert set(await asyncio.to_thread(seen_first, rig)) == set(HOSTS)
    process = await rig.show("MainPID")

    # a good one
    rig.change(without(HOSTS[2]))
    await rig.systemctl("reload", CONTROLLER)
    await rig.status_until("2 of 2 hosts heard")

    # a bad one: nothing of it is taken, and everybody sees why
    def misspelt(config: dict[str, Any]) -> None:
        without(HOSTS[1])(config)
        config["hosts"][HOST]["adress"] = "127.0.0.1"

    rig.change(misspelt)
    await rig.systemctl("reload", CONTROLLER)
    status = await rig.status_until("NOT reloaded: ")
    assert f"hosts.{HOST}.adress" in status
    assert status.startswith("leading (epoch 1): 2 of 2 hosts heard")
    assert await rig.show("ActiveState") == "active"
    journal = await asyncio.to_thread(rig.machine.journal, CONTROLLER)
    errors = [entry["MESSAGE"] for entry in journal if entry["PRIORITY"] == "3"]
    assert len(errors) == 1
    assert errors[0].startswith(f"not reloaded: hosts.{HOST}.adress")

    # a secret that came after the start
    def needs_more(config: dict[str, Any]) -> None:
        config["fencing"]["devices"]["bmc"]["password_file"] = "secrets/new"

    (rig.installation.etc / "secrets" / "new").write_text("new")
    (rig.installation.etc / "secrets" / "new").chmod(0o600)
    rig.change(needs_more)
    await rig.systemctl("reload", CONTROLLER)
    assert "secrets/new" in await rig.status_until("systemd hands on what is there at a start")

    # and a good one again
    rig.change(lambda config: None)
    await rig.systemctl("reload", CONTROLLER)
    assert "NOT reloaded" not in await rig.status_until("3 of 3 hosts heard")
    assert await rig.show("MainPID") == process, "it is the same one all along"

    # what is secret is neither on the disk for the daemon nor in what it was started with
    secret = ["runuser", "-u", "ha-agent", "--", "cat", "/etc/ha-agent/secrets/bmc-password"]
    assert "Permission denied" in (await asyncio.to_thread(rig.machine.run, *secret, check=False)).stderr
    for file in ("cmdline", "environ"):
        told = await asyncio.to_thread(rig.machine.run, "cat", f"/proc/{process}/{file}")
        assert told.stdout
        assert PASSWORD not in told.stdout


def without(host: str) -> Callable[[dict[str, Any]], None]:
    """Edits a configuration: the host is not in it."""

    def edit(config: dict[str, Any]) -> None:
        del config["hosts"][host]
        config["overrides"] = [each for each in config["overrides"] if each["match"]["hosts"] != host]

    return edit


def seen_first(rig: SystemdRig) -> list[str]:
    """The hosts of which the journal says so, by its field."""
    said = rig.machine.journal(CONTROLLER)
    return [entry["HA_AGENT_HOST"] for entry in said if "seen for the first time" in entry["MESSAGE"]]


def test_a_loop_that_hangs_is_ended_and_its_incident_goes_on(tmp_path: Path) -> None:
    play(tmp_path, hangs_in_a_fence)


async def hangs_in_a_fence(rig: SystemdRig) -> None:
    incident = await fence_under_way(rig)
    before = await asyncio.to_thread(rig.machine.processes, CONTROLLER)
    began = time.monotonic()
    await rig.systemctl("kill", "--kill-who=main", "--signal=USR2", CONTROLLER)
    while await rig.show("NRestarts") == "0":
        assert time.monotonic() - began < WATCHDOG_S + 5.0, "systemd lets it hang"
        await asyncio.sleep(0.1)
    await rig.status_until(f"{HOST} [")
    assert not set(before) & set(await asyncio.to_thread(rig.machine.processes, CONTROLLER)), "a worker outlived it"
    await resumed(rig, incident)
    log = rig.log()
    assert "Watchdog timeout" in log
    assert "Fatal Python error: Aborted" in log
    assert "bin/ha-agent" in log, "where it hung"
    assert await rig.show("NRestarts") == "1"


def test_a_stop_in_the_middle_of_a_fence(tmp_path: Path) -> None:
    play(tmp_path, stops_in_a_fence)


async def stops_in_a_fence(rig: SystemdRig) -> None:
    incident = await fence_under_way(rig)
    began = time.monotonic()
    await rig.systemctl("stop", CONTROLLER)
    assert time.monotonic() - began < STOP_S / 2
    assert [await rig.show(name) for name in ("ActiveState", "Result", "ExecMainStatus")] == [
        "inactive",
        "success",
        "0",
    ]
    assert await asyncio.to_thread(rig.machine.processes, CONTROLLER) == [], "an attempt is alive"
    assert "failed" not in rig.log(), "a stop is no attempt that failed"
    await rig.start_controller()
    await resumed(rig, incident)
    assert await rig.show("NRestarts") == "0"


async def fence_under_way(rig: SystemdRig) -> str:
    """A host is lost, its BMC has taken the off and takes its time. Returns the incident."""
    rig.bmcs[HOST].fault("slow_off", SLOW_OFF_S)
    rig.lose(HOST)
    await rig.until(lambda: rig.pending(CommandKind.FENCE) > 0, STORY_S, "a fence is journalled")
    await rig.status_until(f"2 of 3 hosts heard, {HOST} [fence]")
    assert len(await asyncio.to_thread(rig.machine.processes, CONTROLLER)) > 2, "a worker waits for the host to be off"
    rig.bmcs[HOST].fault(None)  # what was taken is carried out all the same
    (incident,) = rig.incidents()
    return incident.id


async def resumed(rig: SystemdRig, incident: str) -> None:
    """The same incident goes on to its end, and the host was switched off once."""

    def over() -> bool:
        (found,) = rig.incidents()
        assert found.id == incident
        return found.phase is Phase.CLOSED

    await rig.until(over, STORY_S, "the incident ends")
    assert rig.bmcs[HOST].log() == ["on", "off", "on"]
    assert rig.nova.double_history == []
    assert rig.nova.told == [(HOST, True), (HOST, False)]
    journal = await asyncio.to_thread(rig.machine.journal, CONTROLLER)
    of_it = [entry for entry in journal if entry.get("HA_AGENT_INCIDENT") == incident]
    assert {"fence", "evacuate", "unfence"} <= {entry.get("HA_AGENT_STEP") for entry in of_it}
    assert {entry["HA_AGENT_HOST"] for entry in of_it} == {HOST}
    assert "closed" in of_it[-1]["MESSAGE"]


def test_the_remote_and_its_gate(tmp_path: Path) -> None:
    asyncio.run(a_host_boots(tmp_path))


async def a_host_boots(directory: Path) -> None:
    """nova-compute waits until a controller opens the gate. A remote that hangs is started again; nova-compute is none the worse."""
    world = World(directory / "world", (HOST,))
    computes = {"nova-compute.service": "[Service]\nExecStart=/bin/sleep infinity\n"}
    installed = Installation(directory / "installed", computes)
    with installed:
        await asyncio.to_thread(installed.keys, world.home / "pki")
        installed.write("remote.yaml", {"version": 1, "listen": f"127.0.0.1:{world.port}"})
        machine = installed.machine
        # Before=nova-compute.service holds, although only the gate asks for the remote.
        await asyncio.to_thread(machine.run, "systemctl", "start", "--no-block", "nova-compute.service")
        await shown(installed, REMOTE, "StatusText", f"{HOST}: 0 controllers connected, gate closed")
        await shown(installed, "nova-compute.service", "SubState", "start-pre")
        assert await asyncio.to_thread(machine.show, REMOTE, "ActiveState") == "active"
        async with monitored(world, world.ports, 0.5) as (watch, heard):
            await shown(installed, REMOTE, "StatusText", f"{HOST}: 1 controller connected, gate closed")
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()  # noqa: ASYNC240  # procfs does not block
            assert await asyncio.to_thread(machine.show, "nova-compute.service", "SubState") == "start-pre"
            await watch.open_gate(HOST, boot_id, 10.0)
            await shown(installed, "nova-compute.service", "SubState", "running")
            await shown(installed, REMOTE, "StatusText", f"{HOST}: 1 controller connected, gate open")
            compute = await asyncio.to_thread(machine.show, "nova-compute.service", "MainPID")

            await asyncio.to_thread(machine.run, "systemctl", "kill", "--kill-who=main", "--signal=STOP", REMOTE)
            await shown(installed, REMOTE, "NRestarts", "1", WATCHDOG_S + 5.0)
            await shown(installed, REMOTE, "StatusText", f"{HOST}: 1 controller connected, gate open")
            assert {beat.boot_id for beat in heard.beats[HOST]} == {boot_id}, "it is the same boot"
        assert await asyncio.to_thread(machine.show, "nova-compute.service", "MainPID") == compute
        began = time.monotonic()
        await asyncio.to_thread(machine.run, "systemctl", "restart", "nova-compute.service")  # the gate is open
        await asyncio.to_thread(machine.run, "systemctl", "stop", REMOTE)
        assert time.monotonic() - began < STOP_S / 2
        assert await asyncio.to_thread(machine.show, REMOTE, "Result") == "success"


async def shown(installed: Installation, unit: str, name: str, value: str, timeout_s: float = 15.0) -> None:
    """Returns when the unit has this property."""
    end = time.monotonic() + timeout_s
    while (found := await asyncio.to_thread(installed.machine.show, unit, name)) != value:
        log = await asyncio.to_thread(installed.machine.log, unit)
        assert time.monotonic() < end, f"{unit} has {name} {found!r}, not {value!r}\n{log}"
        await asyncio.sleep(0.1)


def test_who_cannot_work_is_not_ready(tmp_path: Path) -> None:
    play(tmp_path, cannot_read_its_journal)


async def cannot_read_its_journal(rig: SystemdRig) -> None:
    """A start that fails after the configuration was found good; and it works by itself once the cause is gone."""
    await rig.systemctl("stop", CONTROLLER)
    (fleet,) = documents(rig, "SELECT body FROM documents WHERE kind = 'fleet'")
    documents(rig, "UPDATE documents SET body = x'00' WHERE kind = 'fleet'")
    with pytest.raises(AssertionError, match=f"Job for {CONTROLLER} failed"):
        await rig.systemctl("start", CONTROLLER)
    assert "fleet cannot be read" in rig.log()
    documents(rig, "UPDATE documents SET body = ? WHERE kind = 'fleet'", *fleet)
    await rig.status_until("3 of 3 hosts heard, no open incident", STORY_S)
    assert await rig.show("ActiveState") == "active"


def documents(rig: SystemdRig, statement: str, *values: bytes) -> list[tuple[bytes, ...]]:
    """The controller's store, which it has closed."""
    with contextlib.closing(sqlite3.connect(rig.installation.state / "store.db")) as db, db:
        return db.execute(statement, values).fetchall()
