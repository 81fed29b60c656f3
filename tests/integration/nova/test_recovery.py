"""A host of a real Nova dies, and comes back: the whole controller, real BMCs, remotes and gates; Nova's records and the guests' files are
the judges."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ha_agent.model import Phase, ServerStage
from ha_agent.plans import RECOVER
from tests.integration.nova.controlled import Controlled
from tests.integration.nova.servers import Servers

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first test also waits for the lab

TAG = "automatic-recovery"
DEAD, OTHER = "compute-1", "compute-2"
STORY_S = 180.0


async def play(rig: Controlled, failure: str) -> None:
    """One host fails and comes back. `power`: it and its guests are gone at once. `cable`: it is cut off, its nova-compute hangs, and its
    guests run on until its BMC switches it off."""
    host = rig.lab.hosts[DEAD]
    if failure == "power":
        host.power(False)
    else:
        rig.cables[DEAD].cut()
        host.freeze()

    def over() -> bool:
        assert not rig.doubles, f"on two hosts at once: {rig.doubles}"
        mine = [incident for incident in rig.incidents() if incident.host == DEAD and incident.plan == RECOVER]
        return bool(mine) and mine[-1].phase is Phase.CLOSED

    await rig.until(over, STORY_S, "the incident ends")
    await rig.until_true(rig.all_alive, 30, "every host is heard")


@pytest.mark.parametrize("failure", ["power", "cable"])
async def test_a_dead_hosts_servers_live_on(servers: Servers, tmp_path: Path, failure: str) -> None:
    """Each protected one in its prior state on exactly one other host, by one evacuation; nothing else is touched."""
    async with Controlled(tmp_path / "rig", servers.lab) as rig:
        made = await rig.ask_nova(lambda: populate(servers))
        await rig.start_controller()
        await rig.ready()
        await play(rig, failure)
        await asyncio.to_thread(judge, rig, servers, made)
        assert rig.doubles == set()


def populate(servers: Servers) -> dict[str, str]:
    """Ids by name."""
    for name in servers.lab.hosts:  # they have just booted
        servers.is_up(name)
    made = {
        "db": servers.boot(DEAD, "db", tags=[TAG, "recovery-priority:10"]),
        "web": servers.boot(DEAD, "web", tags=[TAG]),
        "spare": servers.boot(DEAD, "spare", tags=[TAG]),
        "scratch": servers.boot(DEAD, "scratch"),
        "cache": servers.boot(DEAD, "cache", tags=[TAG], image=True),
        "bystander": servers.boot(OTHER, "bystander", tags=[TAG]),
    }
    servers.settled(list(made.values()))
    assert servers.api.act(made["spare"], "os-stop").status_code == 202
    servers.settled([made["spare"]], "SHUTOFF")
    return made


def judge(rig: Controlled, servers: Servers, made: dict[str, str]) -> None:
    """From Nova's records, the guests' files, the switches and the journal."""
    api = servers.api
    rows = {name: api.server(id) for name, id in made.items()}
    on = {name: row["OS-EXT-SRV-ATTR:host"] for name, row in rows.items()}
    runs = {name: servers.where(id) for name, id in made.items()}
    records = {name: [record["status"] for record in api.evacuations(id)] for name, id in made.items()}
    for name, status in (("db", "ACTIVE"), ("web", "ACTIVE"), ("spare", "SHUTOFF")):
        assert on[name] != DEAD
        assert (rows[name]["status"], rows[name]["OS-EXT-STS:task_state"]) == (status, None)
        assert runs[name] == ([on[name]] if status == "ACTIVE" else [])
        assert records[name] == ["completed"]
        assert servers.actions(made[name]).count("evacuate") == 1
        assert [n for n, host in servers.lab.hosts.items() if made[name] in host.guests()] == [on[name]]
    for name in ("scratch", "cache"):
        assert (on[name], records[name], servers.actions(made[name])) == (DEAD, [], ["create"])
        assert runs[name] == [], "nobody started it again"
    assert (on["bystander"], runs["bystander"], records["bystander"]) == (OTHER, [OTHER], [])
    assert servers.actions(made["bystander"]) == ["create"]
    for name in servers.lab.hosts:
        servers.is_up(name)  # Nova calls it up at its next report
        service = api.service(name)
        assert (service["state"], service["forced_down"], service["status"]) == ("up", False, "enabled")
    assert {incident.host for incident in rig.incidents()} == {DEAD}
    stages = {server.name: server.stage for server in rig.servers()}
    verified, left = ServerStage.VERIFIED, ServerStage.NOT_MOVED
    assert stages == {"db": verified, "web": verified, "spare": verified, "scratch": left, "cache": left}
    for name, host in servers.lab.hosts.items():
        # an off of a host that has no power leaves no line, so both failures end alike
        assert host.bmc.log()[rig.switched[name] :] == (["off", "on"] if name == DEAD else [])
