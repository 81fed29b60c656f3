"""The fence agents for Pacemaker: real processes against real BMCs, a real controller, and Pacemaker's own fencer.

What is asserted of every `off`: it succeeds only when the host is dead, our evidence of it is journalled and Nova knows it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from ha_agent.api.views import HostDetail
from ha_agent.fenceagents import proof
from ha_agent.model import Phase
from tests.integration.controller_process import ROOT
from tests.integration.debian import need
from tests.integration.ipmi_sim import PASSWORD, USER, IpmiSim
from tests.integration.pacemaker import PacemakerFencer
from tests.integration.rig import HOSTS, Rig

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

HOST = HOSTS[0]
NAMES = ("fence_ha_agent", "fence_ha_ipmi")
SCHEMA = "/usr/share/cluster/relaxng/metadata.rng"
Done = subprocess.CompletedProcess[str]


def agent(name: str, options: Mapping[str, object], timeout_s: float = 100.0) -> Done:
    """As Pacemaker runs it: options on stdin, no arguments."""
    return subprocess.run(
        [sys.executable, str(ROOT / "fence_agents" / name)],
        input="".join(f"{key}={value}\n" for key, value in options.items()),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def bmc_options(sim: IpmiSim, **more: object) -> dict[str, object]:
    return {"ip": sim.address, "ipport": sim.port, "username": USER, "password": PASSWORD, **more}


@pytest.mark.parametrize("name", NAMES)
def test_the_metadata_is_valid_by_clusterlabs_schema(name: str, tmp_path: Path) -> None:
    need("fence-agents", "libxml2-utils")
    said = agent(name, {"action": "metadata"}).stdout

    def judged(xml: str) -> Done:
        (tmp_path / "metadata.xml").write_text(xml)
        command = ["xmllint", "--noout", "--relaxng", SCHEMA, str(tmp_path / "metadata.xml")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = judged(said)
    assert done.returncode == 0, done.stderr
    assert judged(said.replace('unique="0"', 'unique="no"')).returncode != 0, "the schema sees what is wrong"


# --- fence_ha_ipmi ---


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[IpmiSim]:
    need("openipmi")
    sim = IpmiSim(tmp_path, "compute-1")
    sim.start()
    yield sim
    sim.stop()


def test_ipmi_switches_a_real_machine(sim: IpmiSim, tmp_path: Path) -> None:
    def act(action: str, **more: object) -> int:
        return agent("fence_ha_ipmi", bmc_options(sim, action=action, **more)).returncode

    first = sim.host_pid()
    assert [act(action) for action in ("status", "monitor", "validate-all")] == [0, 0, 0]
    assert act("off", machine="00000000-0000-0000-0000-000000000001") == 1, "another machine's BMC"
    assert sim.host_pid() == first
    assert act("off") == 0
    assert not sim.host_alive()
    assert [act(action) for action in ("off", "status", "monitor")] == [0, 2, 0], "already off is success"
    assert act("on") == 0
    second = sim.host_pid()
    assert second not in (None, first)
    assert act("reboot") == 0
    assert sim.host_pid() not in (None, first, second)
    assert sim.log() == ["on", "off", "on", "off", "on"]
    assert act("status", cipher="3") == 0
    assert act("status", cipher="17") == 1, "this BMC has only 3"
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD + "\n")
    for source in ({"password_file": secret}, {"passwd_script": f"cat '{secret}'"}):
        assert act("status", password="", **source) == 0


def test_ipmi_never_says_success_of_what_it_did_not_read(sim: IpmiSim) -> None:
    quick = {"action": "off", "login_timeout": 6, "power_timeout": 2}

    def fails(says: str, **more: object) -> None:
        begun = time.monotonic()
        done = agent("fence_ha_ipmi", bmc_options(sim, **{**quick, **more}))
        assert (done.returncode, done.stdout) == (1, ""), done
        assert says in done.stderr
        assert PASSWORD not in done.stderr
        assert "wrong-one" not in done.stderr
        assert time.monotonic() - begun < 6 + 2 + 2 + 5, "bounded (and the start of Python on a busy machine)"

    fails("wrong password", password="wrong-one")
    sim.fault("ignore_off")
    fails("not off")
    assert sim.host_alive()
    sim.fault("unreadable")
    fails("", action="status")
    sim.fault(None)
    sim.freeze()
    fails("no answer")
    fails("no answer", action="monitor")
    sim.thaw()


# --- fence_ha_agent ---


async def ask(rig: Rig, action: str, host: str = HOST, **more: object) -> Done:
    options = {"action": action, "plug": host, "socket": rig.directory / "controller.sock", "power_timeout": 40, **more}
    return await asyncio.to_thread(agent, "fence_ha_agent", options)


async def look(rig: Rig, host: str = HOST) -> HostDetail:
    status, text = await rig.ask("GET", f"/v1/hosts/{host}")
    assert status == 200, text
    return msgspec.json.decode(text, type=HostDetail)


async def off_is_proven(rig: Rig, done: Done) -> None:
    """What an `off` that succeeded must have found."""
    assert done.returncode == 0, f"{done.stderr}\n{rig.log()[-6000:]}"
    assert "read off twice; forced_down is set" in done.stdout
    assert (HOST, True) in rig.nova.told
    assert "off" in rig.bmcs[HOST].log()
    incidents = (await look(rig)).incidents
    assert any("evidence" in each.stage_at and "force_down" in each.stage_at for each in incidents)


async def nothing_was_done(rig: Rig) -> None:
    assert rig.nova.told == []
    assert not any(each.evidence for each in rig.incidents())


async def back(rig: Rig) -> None:
    """`on` waits until the host is clean, and says so."""
    done = await ask(rig, "on", return_timeout=60)
    assert done.returncode == 0, f"{done.stderr}\n{rig.log()[-6000:]}"
    assert all(each.phase is Phase.CLOSED for each in rig.incidents())
    assert rig.nova.told[-1] == (HOST, False)
    assert rig.nova.is_up(HOST)
    assert proof.not_clean(await look(rig)) == ""
    assert (await ask(rig, "status")).returncode == 0


async def test_the_controller_fences_for_pacemaker_and_says_so_only_with_evidence(tmp_path: Path) -> None:
    need("openipmi")
    async with Rig(tmp_path / "rig") as rig:
        assert (await ask(rig, "monitor")).returncode == 1, "there is no controller"
        await rig.start_controller()
        await rig.until_true(rig._leads, 30, "the controller leads")
        for action in ("monitor", "off"):
            done = await ask(rig, action)
            assert done.returncode == 1
            assert "disarmed" in done.stderr
        await rig.ready()
        listed = await ask(rig, "list")
        assert (listed.returncode, listed.stdout.split()) == (0, [f"{name}," for name in HOSTS])
        assert [(await ask(rig, action)).returncode for action in ("monitor", "status", "validate-all")] == [0, 0, 0]
        assert rig.incidents() == []

        rig.bmcs[HOST].freeze()
        begun = time.monotonic()
        done = await ask(rig, "off", power_timeout=8)
        assert (done.returncode, done.stdout) == (1, "")
        assert "after 8 s compute-1 is not proven off" in done.stderr
        assert time.monotonic() - begun < 8 + 2 * 10
        await nothing_was_done(rig)

        rig.bmcs[HOST].thaw()
        await off_is_proven(rig, await ask(rig, "off"))
        await back(rig)


async def test_what_pacemaker_fenced_is_looked_at_before_it_is_believed(tmp_path: Path) -> None:
    need("openipmi")
    async with Rig(tmp_path / "rig") as rig:
        await rig.start_controller()
        await rig.ready()
        done = await ask(rig, "off", mode="told", power_timeout=6)
        assert (done.returncode, done.stdout) == (1, ""), "it was told so, but the host lives"
        await nothing_was_done(rig)
        assert rig.bmcs[HOST].log() == ["on"], "a report never fences"

        level_1 = await asyncio.to_thread(agent, "fence_ha_ipmi", bmc_options(rig.bmcs[HOST], action="off"))
        assert level_1.returncode == 0, level_1.stderr
        done = await ask(rig, "off", mode="told")
        await off_is_proven(rig, done)
        assert rig.bmcs[HOST].log()[:2] == ["on", "off"]
        assert any(each.verdict in ("off", "down") for each in rig.incidents())
        await back(rig)


# --- by Pacemaker ---


async def test_pacemaker_drives_both(tmp_path: Path) -> None:
    """Both agents in one level, as in docs/fence-agents.md: the BMC first, then our controller, which looks for itself."""
    need("openipmi", "corosync", "pacemaker", "pacemaker-cli-utils")
    binaries = Path(sys.executable).parent
    fencer = PacemakerFencer(tmp_path / "pacemaker", {name: binaries / name for name in NAMES})
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD)
    async with Rig(tmp_path / "rig") as rig:
        try:
            await asyncio.to_thread(fencer.start)
            await rig.start_controller()
            await rig.ready()
            await _pacemaker_fences(rig, fencer, secret)
        finally:
            fencer.stop()


async def _pacemaker_fences(rig: Rig, fencer: PacemakerFencer, secret: Path) -> None:
    sim = rig.bmcs[HOST]

    async def admin(*words: str, check: bool = True) -> Done:
        return await asyncio.to_thread(fencer.admin, *words, check=check)

    def options(**values: object) -> list[str]:
        return [word for name, value in values.items() for word in ("-o", f"{name}={value}")]

    bmc = options(
        ip=sim.address,
        ipport=sim.port,
        username=USER,
        password_file=secret,
        pcmk_host_list=HOST,
        pcmk_reboot_action="off",
        pcmk_on_action="monitor",  # nobody but the controller switches the host on
    )
    told = options(socket=rig.directory / "controller.sock", mode="told", power_timeout=40, pcmk_reboot_action="off")
    for name, given in zip(NAMES, (told, bmc), strict=True):
        assert f'name="{name}"' in (await admin("--metadata", "--agent", name)).stdout
        assert "succeeded" in (await admin("--validate", "--agent", name, *given)).stdout
        done = await admin("--validate", "--agent", name, "-o", "mode=pretend", check=False)
        assert done.returncode != 0
        assert {"fence_ha_agent": "mode: ", "fence_ha_ipmi": "ip: missing"}[name] in done.stdout
    await admin("--register", "bmc-1", "--agent", "fence_ha_ipmi", *bmc)
    await admin("--register", "controller", "--agent", "fence_ha_agent", *told)
    for device in ("bmc-1", "controller"):
        await admin("--query", device)  # monitor
    assert (await admin("--list-targets", "controller")).stdout.split()[: len(HOSTS)] == list(HOSTS)
    await admin("--register-level", HOST, "--index", "1", "--device", "bmc-1", "--device", "controller")

    alone = HOSTS[1]  # in no level: only our controller can fence it, and it sees that the host lives
    done = await admin("--fence", alone, "--timeout", "4", check=False)
    assert done.returncode != 0
    await nothing_was_done(rig)
    assert rig.bmcs[alone].log() == ["on"]

    await admin("--reboot", HOST, "--timeout", "60")
    assert (HOST, True) in rig.nova.told, "not before Nova knew it"
    assert any("evidence" in each.stage_at for each in rig.incidents())
    assert sim.log()[:2] == ["on", "off"]
    await admin("--unfence", HOST, "--timeout", "60")
    assert (await look(rig)).row.incident == ""
    assert rig.nova.is_up(HOST)
    assert sim.log() == ["on", "off", "on"], "nobody switched it on in the middle of its recovery"
    history = (await admin("--history", HOST, "--verbose")).stdout
    assert "turn off" in history or "reboot" in history, history
    assert f"{HOST} is reported failed by root" in rig.log()
