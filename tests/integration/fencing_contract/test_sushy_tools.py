"""Redfish against OpenStack's own emulator (sushy-tools), which shares no code with our BMC. Its machines take 1 to 11 s to switch."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import bcrypt
import pytest

from ha_agent.fencing.fencer import WorkerFencer
from ha_agent.fencing.pool import WorkerPool
from ha_agent.fencing.topology import Device, Topology
from ha_agent.model import Power
from ha_agent.system import SystemClock
from tests.integration.fencing_contract.redfish_bmc import certificate

UUID = "27946b59-9e44-4fa7-8e91-f3527a1ef094"
USER, PASSWORD = "admin", "s3cret"
START_S = 20.0
ATTEMPT_S = 20.0  # the default of fencing.attempt_s

_CONFIG = """\
SUSHY_EMULATOR_FAKE_DRIVER = True
SUSHY_EMULATOR_STATE_DIR = {state!r}
SUSHY_EMULATOR_AUTH_FILE = {auth!r}
SUSHY_EMULATOR_FAKE_SYSTEMS = [
    {{"uuid": {uuid!r}, "name": "host", "power_state": "On", "external_notifier": False, "nics": []}}
]
"""


class Emulator(NamedTuple):
    device: Device
    process: subprocess.Popen[bytes]
    log: Path

    def resets(self) -> int:
        """How many orders to switch arrived."""
        return self.log.read_text().count("/Actions/ComputerSystem.Reset")


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    cert, key = certificate(tmp_path)
    (tmp_path / "state").mkdir()
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"{USER}:{hashed}\n")
    (tmp_path / "config").write_text(
        _CONFIG.format(state=str(tmp_path / "state"), auth=str(tmp_path / "htpasswd"), uuid=UUID)
    )
    (tmp_path / "password").write_text(PASSWORD)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from sushy_tools.emulator.main import main; main()"]
    arguments = ["--config", str(tmp_path / "config"), "--fake", "-i", "127.0.0.1", "-p", str(port)]
    tls = ["--ssl-certificate", str(cert), "--ssl-key", str(key)]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *arguments, *tls], stdout=output, stderr=output, cwd=tmp_path)
    try:
        end = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
        device = Device(
            name="bmc",
            driver="redfish",
            address="127.0.0.1",
            port=port,
            username=USER,
            password_file=str(tmp_path / "password"),
            options={"ca_file": str(cert), "auth": "basic"},
        )
        yield Emulator(device, process, log)
    finally:
        process.kill()
        process.wait()


def fencing(emulator: Emulator, expect: str | None = None) -> WorkerFencer:
    return WorkerFencer(
        Topology(levels={"host": ((emulator.device,),)}),
        SystemClock(),
        lambda host, device: expect,
        pool=WorkerPool(idle=1, drivers=("redfish",)),
        send_within_s=5.0,
    )


async def test_off_is_waited_for_and_sent_once(emulator: Emulator) -> None:
    fencer = fencing(emulator, UUID)
    [reading] = await fencer.read("host", 0, 5.0)
    assert (reading.power, reading.machine) == (Power.ON, UUID)
    started = time.monotonic()
    readings = await fencer.off("host", 0, ATTEMPT_S)
    print(f"off after {time.monotonic() - started:.1f} s")
    assert [r.power for r in readings] == [Power.OFF, Power.OFF]
    assert emulator.resets() == 1
    await fencer.close()


async def test_a_wrong_password_and_another_machine(emulator: Emulator, tmp_path: Path) -> None:
    fencer = fencing(emulator, UUID.replace("2", "3"))
    [reading] = await fencer.off("host", 0, 5.0)
    assert reading.error.startswith(f"wrong machine: bmc says that it is {UUID}")
    (tmp_path / "password").write_text("changed-since")
    [reading] = await fencer.off("host", 0, 5.0)
    assert reading.error.startswith("wrong password for user admin")
    assert "changed-since" not in reading.error
    assert emulator.resets() == 0
    await fencer.close()


async def test_one_that_freezes_is_unknown_in_time(emulator: Emulator) -> None:
    fencer = fencing(emulator)
    os.kill(emulator.process.pid, signal.SIGSTOP)
    started = time.monotonic()
    [reading] = await fencer.off("host", 0, 4.0)
    assert time.monotonic() - started < 5.5
    assert reading.power is Power.UNKNOWN
    assert "timed out" in reading.error
    os.kill(emulator.process.pid, signal.SIGCONT)
    await asyncio.sleep(1.0)  # whatever came late would arrive now
    assert emulator.resets() == 0
    await fencer.close()
