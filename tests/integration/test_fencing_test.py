"""`ha-agent fencing test` against a real controller and real BMCs: what is switched off really dies, and what comes back is another boot."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from ha_agent.api.fencing_tests import FencingTest
from tests.integration.debian import need
from tests.integration.rig import HOSTS, Rig

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
EMPTY, FULL = HOSTS[1], HOSTS[0]  # compute-1 is the one that has servers
PATH = f"/v1/hosts/{EMPTY}/fencing-test"


async def boot_of(rig: Rig, host: str) -> str:
    found = msgspec.json.decode((await rig.ask("GET", f"/v1/hosts/{host}"))[1])
    return str(found["row"]["view"]["boot_id"])


async def cycled(rig: Rig) -> tuple[int, str]:
    """The command, again where a busy machine was too slow for the short lease of the rig: nothing was sent then."""
    for _ in range(4):
        code, text = await rig.cli("fencing", "test", EMPTY, "--yes", "--with-servers", "--wait", "40")
        if "off was not sent" not in text:
            break
    return code, text


async def test_a_host_in_maintenance_is_cycled_and_comes_back(tmp_path: Path) -> None:
    need("openipmi")
    async with Rig(tmp_path / "rig") as rig:
        await rig.start_controller()
        await rig.ready()
        bmc = rig.bmcs[EMPTY]

        # refused: nothing was switched
        code, text = await rig.cli("fencing", "test", EMPTY, "--yes")
        assert (code, f"ha-agent maintenance on {EMPTY}" in text) == (2, True), text
        for host in (EMPTY, FULL):
            assert (await rig.cli("maintenance", "on", host, "--reason", "test"))[0] == 0
        code, text = await rig.cli("fencing", "test", EMPTY)
        assert (code, "--yes" in text) == (2, True), text
        code, text = await rig.cli("fencing", "test", FULL, "--yes")
        assert (code, "Nova has 6 servers on compute-1" in text, "--with-servers" in text) == (2, True, True), text
        await rig.api.stop()  # Nova is away
        code, text = await rig.cli("fencing", "test", EMPTY, "--yes")
        assert (code, "Nova cannot say which servers are on" in text) == (2, True), text
        assert [line for each in rig.bmcs.values() for line in each.log()] == ["on"] * len(HOSTS)

        # done
        before, pid = await boot_of(rig, EMPTY), bmc.host_pid()
        code, text = await cycled(rig)
        assert code == 0, text + rig.log()
        assert "level 1: every device read off twice" in text
        assert re.search(r"1 +bmc +ipmi +on +off [\d.]+ s +on [\d.]+ s +[\d.]+ s +works", text), text
        assert f"the fencing of {EMPTY} works" in text
        assert bmc.log() == ["on", "off", "on"]
        assert bmc.host_pid() not in (None, pid)
        assert await boot_of(rig, EMPTY) != before
        assert all(incident.evidence is None for incident in rig.incidents()), "a test is evidence of nothing (S2)"
        assert rig.nova.told == [], "Nova was told nothing"
        assert f"{EMPTY}: root tests its fencing" in rig.log()

        # a BMC that accepts, and stays on
        bmc.fault("ignore_off")
        code, text = await cycled(rig)
        bmc.fault(None)
        assert code == 1, text
        assert "bmc reads on" in text
        assert f"the fencing of {EMPTY} FAILED its test" in text
        assert bmc.host_alive()
        assert (await rig.cli("fencing", "test", EMPTY, "--follow"))[0] == 1, "its last result stays known"


async def test_nobody_fences_a_host_that_is_tested_and_a_caller_who_leaves_ends_nothing(tmp_path: Path) -> None:
    need("openipmi")
    async with Rig(tmp_path / "rig") as rig:
        await rig.start_controller()
        await rig.ready()
        await rig.cli("maintenance", "on", EMPTY)
        bmc = rig.bmcs[EMPTY]
        bmc.fault("slow_off", 2.0)
        status, text = await rig.ask("POST", PATH, {"return_s": 60})  # nobody watches it
        assert status == 200, text
        for order in ("fence", "confirm_fenced"):
            status, text = await rig.ask("POST", "/v1/orders", {"order": order, "host": EMPTY})
            assert (status, "root tests the fencing" in text) == (400, True), text
        status, text = await rig.ask("POST", PATH, {})
        assert (status, "root tests the fencing of" in text) == (400, True), text

        async def ended() -> bool:
            return msgspec.json.decode((await rig.ask("GET", PATH))[1], type=FencingTest).ended

        await rig.until_true(ended, 60, "the test ends by itself")
        if "off was not sent" in rig.log():  # see `cycled`
            assert (await cycled(rig))[0] == 0
        bmc.fault(None)
        assert bmc.log() == ["on", "off", "on"]
        await rig.until_true(rig.all_alive, 20, "the host is back")
        assert rig.nova.told == []
