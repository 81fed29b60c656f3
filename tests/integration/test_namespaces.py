"""What a real network does to real processes, and what the controller makes of it: each verdict, and whether an off reached a BMC.

Every test finds a cloud in which all is well, and leaves one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.debian import need
from tests.integration.netns import MANAGEMENT, STORAGE
from tests.integration.netns_rig import (
    CONTROLLER,
    HEARTBEAT_S,
    HOSTS,
    HUNG_PATIENCE_S,
    SUSPECT_AFTER_S,
    TWO_PLANES,
    Rig,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

STANDS_STILL_S = 9.0  # more than the time after which a host is down, and than a lease
ROUNDS_S = 3.0  # several rounds of probes, each of which ends in a verdict


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cloud(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    need("openipmi")
    directory = tmp_path_factory.mktemp("netns")
    async with Rig(directory) as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(cloud: Rig) -> AsyncIterator[Rig]:
    """All is well before the test and after it."""
    yield cloud
    await cloud.heal()
    assert cloud.nova.double_history == []


class Books:
    """What BMCs and Nova were told since now."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._before = self._read()

    def switched(self, name: str) -> list[str]:
        """What really changed at the host's BMC."""
        return self._rig.hosts[name].bmc.log()[len(self._before[0][name]) :]

    def untouched(self) -> bool:
        """Whether no power was switched, and Nova was told nothing that changes anything."""
        return self._read() == self._before

    def _read(self) -> tuple[dict[str, list[str]], list[str]]:
        changes = [each for each in self._rig.api.requests if not each.startswith("GET ")]
        return {name: self._rig.hosts[name].bmc.log() for name in HOSTS}, changes


@pytest.mark.parametrize("both_ways", [True, False], ids=["both ways", "one way"])
async def test_a_cut_between_controller_and_host(rig: Rig, both_ways: bool) -> None:
    """Its peers reach it: the path is broken, not the host."""
    books, host = Books(rig), HOSTS[0]
    rig.network.cut(host, CONTROLLER, both_ways=both_ways)
    await rig.until_verdict(host, "partitioned")
    await asyncio.sleep(ROUNDS_S)
    assert await rig.verdict(host) == "partitioned"
    (incident,) = await rig.incidents()
    assert incident["host"] == host
    assert "got a signed answer" in incident["reason"]
    assert rig.network.dropped() > 0
    await rig.heal()
    assert books.untouched()


async def test_every_path_of_a_host_is_cut(rig: Rig) -> None:
    """Down, fenced, and its server runs elsewhere."""
    books, host = Books(rig), HOSTS[1]
    here = sorted(rig.nova.guests[host])
    rig.lose(host)
    await rig.until_verdict(host, "down")
    await rig.until(lambda: _is(books.switched(host) == ["off"]), 20, "the off reaches its BMC")
    await rig.heal()  # somebody finds the cable
    assert books.switched(host) == ["off", "on"]
    assert [books.switched(other) for other in HOSTS if other != host] == [[], [], []]
    assert here
    assert all(rig.nova.servers[server].host != host for server in here)


async def test_a_host_loses_one_plane_and_then_the_other(rig: Rig) -> None:
    """Without its management plane it is reached over the other one by its peers, not by the controller: it lives. Without both it is down."""
    books, host, before = Books(rig), TWO_PLANES, len(rig.log())
    rig.lose(host, MANAGEMENT)
    await rig.until_verdict(host, "partitioned")
    await asyncio.sleep(ROUNDS_S)
    assert await rig.verdict(host) == "partitioned"
    (incident,) = await rig.incidents()
    assert incident["host"] == host
    assert incident["reason"].endswith("got a signed answer over storage; the management plane is lost")
    assert "this controller" not in incident["reason"]
    assert books.untouched()
    rig.lose(host, STORAGE)
    await rig.until(lambda: _is(books.switched(host) == ["off"]), 30, "the off reaches its BMC")
    said = rig.log()[before:]
    assert f"{host} [fence] now down: " in said
    assert "cannot reach it either; the management and storage planes are lost" in said
    await rig.heal()
    assert books.switched(host) == ["off", "on"]


async def test_the_controller_is_cut_from_all(rig: Rig) -> None:
    """It reaches every BMC, and nobody else: it doubts itself."""
    books, before = Books(rig), len(rig.log())
    rig.network.pull(CONTROLLER)
    for host in HOSTS:
        await rig.until_verdict(host, "unknown")
    await asyncio.sleep(ROUNDS_S)
    assert [await rig.verdict(host) for host in HOSTS] == ["unknown"] * len(HOSTS)
    said = rig.log()[before:]
    assert "it is more likely this controller's network" in said
    await rig.heal()
    assert books.untouched()


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_only_the_remote_is_lost(rig: Rig, how: str) -> None:
    """The kernel answers, nova-compute reports: nothing that a fence would help."""
    books, host = Books(rig), HOSTS[2]
    if how == "frozen":
        rig.hosts[host].freeze_remote()
    else:
        rig.hosts[host].break_remote()
    await rig.until_verdict(host, "agent_lost")
    await asyncio.sleep(ROUNDS_S)
    assert await rig.verdict(host) == "agent_lost"
    await rig.heal()
    assert books.untouched()


async def test_a_whole_host_is_frozen(rig: Rig) -> None:
    """Its kernel answers, and nothing else: after a while of patience it is fenced."""
    books, host = Books(rig), HOSTS[3]
    rig.freeze(host)
    frozen_at = time.monotonic()
    await rig.until_verdict(host, "unknown")
    assert books.untouched()
    await rig.until(lambda: _is(books.switched(host)[:1] == ["off"]), 40, "the off reaches its BMC")
    # patience begins with the suspicion; before it, the last heartbeat may be an interval old
    assert time.monotonic() - frozen_at >= SUSPECT_AFTER_S - HEARTBEAT_S + HUNG_PATIENCE_S
    assert f"{host} [fence] now hung: " in rig.log()
    await rig.all_well()
    assert books.switched(host) == ["off", "on"]


async def test_a_host_is_switched_off_by_somebody(rig: Rig) -> None:
    """Silent, and its BMC reads off: it is fenced without a doubt, its server runs elsewhere, and it is switched on again."""
    books, host, before = Books(rig), HOSTS[1], len(rig.log())
    here = sorted(rig.nova.guests[host])
    await asyncio.to_thread(rig.hosts[host].bmc.press, False)
    await rig.until_verdict(host, "off")
    await rig.all_well()
    assert f"{host} [fence] opened: off: " in rig.log()[before:]
    assert books.switched(host) == ["off", "on"], "by the button, and by us"
    assert [books.switched(other) for other in HOSTS if other != host] == [[], [], []]
    assert here
    assert all(rig.nova.servers[server].host != host for server in here)


async def test_the_controller_stands_still(rig: Rig) -> None:
    """When it goes on, the last word of every host is older than it may be; it looks before it acts."""
    books, before = Books(rig), len(rig.log())
    rig.freeze_controller()
    await asyncio.sleep(STANDS_STILL_S)
    rig.thaw_controller()
    await asyncio.sleep(ROUNDS_S)
    await rig.all_well()
    assert books.untouched()
    said = rig.log()[before:]
    assert "[fence]" not in said
    assert "[announce]" not in said


async def test_a_host_boots_anew_before_it_is_missed(rig: Rig) -> None:
    """Its guests are gone and are started in place; there is nothing to fence."""
    books, host = Books(rig), HOSTS[0]
    before = len(rig.log())
    boot_id = rig.hosts[host].reboot()
    await rig.until(lambda: _is(f"to {boot_id[:8]}" in rig.log()[before:]), 20, f"{host} is rebooted")
    await rig.all_well()
    assert all(books.switched(each) == [] for each in HOSTS)


async def _is(yes: bool) -> bool:
    return yes
