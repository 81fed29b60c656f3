"""`ha-agent readiness` against a real controller, real remotes and real BMCs: what would stop a recovery is known before there is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.debian import need
from tests.integration.ipmi_sim import PASSWORD
from tests.integration.rig import HOSTS, Rig

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


async def test_what_would_stop_a_recovery_is_known_before_there_is_one(tmp_path: Path) -> None:
    need("openipmi")
    async with Rig(tmp_path / "rig") as rig:
        await rig.start_controller()
        await rig.ready()
        assert (await rig.cli("fencing", "check"))[0] == 0

        async def counted() -> bool:
            _, text = await rig.cli("readiness", "--json")
            return all(host["servers"] is not None for host in json.loads(text)["hosts"])

        await rig.until_true(counted, 30.0, "the servers of every host are counted")
        code, text = await rig.cli("readiness", "--all")
        assert code == 0, text
        assert "3 of 3 hosts ready" in text
        assert f"{HOSTS[0]}: ready; servers: " in text

        secret = rig.directory / "bmc-password"
        secret.write_text("not the password")
        await rig.cli("fencing", "check", HOSTS[1])
        code, text = await rig.cli("readiness")
        assert code == 1, text
        assert f"{HOSTS[1]}: NOT READY" in text
        assert f"ha-agent fencing check {HOSTS[1]}" in text
        assert "not the password" not in text, "a secret is never printed"
        secret.write_text(PASSWORD)
        assert (await rig.cli("fencing", "check"))[0] == 0
        assert (await rig.cli("readiness"))[0] == 0

        await rig.ask("POST", "/v1/orders", {"order": "disarm"})
        code, text = await rig.cli("readiness")
        assert (code, text.splitlines()[0]) == (
            1,
            "NOT READY: the controller is disarmed; release it with: ha-agent arm",
        )
