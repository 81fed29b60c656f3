"""`ha-agent fencing check` and `plan` against a real controller and real BMCs: what is wrong with a device is said before it is needed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.integration.debian import need
from tests.integration.ipmi_sim import PASSWORD
from tests.integration.rig import HOSTS, Rig
from tests.integration.rig_controller import ROOT

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


async def cli(rig: Rig, *words: str) -> tuple[int, str]:
    """The command as its user types it. Says how it ended, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ha_agent",
        *words,
        env={"PYTHONPATH": str(ROOT), "HA_AGENT_SOCKET": str(rig.directory / "controller.sock")},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_what_is_wrong_with_a_device_is_said_before_it_is_needed(tmp_path: Path) -> None:
    need("openipmi")
    async with Rig(tmp_path / "rig") as rig:
        await rig.start_controller()
        await rig.ready()

        code, text = await cli(rig, "fencing", "check")
        assert code == 0, text
        assert "3 devices of 3 hosts read, 0 failed" in text
        code, text = await cli(rig, "fencing", "plan", HOSTS[0])
        assert code == 0, text
        assert "level 1: off is sent to bmc; each must read off twice" in text
        assert "proven off within 12.5 s of silence" in text
        assert "NOT NOW" not in text

        secret = rig.directory / "bmc-password"
        secret.write_text("not the password")
        code, text = await cli(rig, "fencing", "check", HOSTS[1])
        assert code == 1, text
        assert "1 device of 1 host read, 1 failed" in text
        assert "not the password" not in text, "a secret is never printed"
        code, text = await cli(rig, "fencing", "plan", HOSTS[1])
        assert "at the last look:" in text, "what a check finds is known at once"
        secret.write_text(PASSWORD)
        assert (await cli(rig, "fencing", "check", HOSTS[1]))[0] == 0

        rig.bmcs[HOSTS[2]].freeze()
        code, text = await cli(rig, "fencing", "check")
        rig.bmcs[HOSTS[2]].thaw()
        assert code == 1, text
        assert "3 devices of 3 hosts read, 1 failed" in text
        assert [line.split()[0] for line in text.splitlines() if " unknown " in line] == [HOSTS[2]]
        assert await rig.all_alive()

        await rig.ask("POST", "/v1/orders", {"order": "disarm"})
        code, text = await cli(rig, "fencing", "plan", HOSTS[0])
        assert "NOT NOW: the controller is disarmed (release: ha-agent arm)" in text
        assert rig.incidents() == [], "nothing was switched, and nobody suspected"
