"""The controller is killed (-9) and started again in the middle of everything: the end is the same, and nothing destructive happens
twice but an off that changes nothing. Real processes, real BMCs, SQLite on disk."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ha_agent.model import CommandKind, Phase, ServerStage
from ha_agent.plans import RECOVER
from ha_agent.sim.nova_state import Fault
from tests.integration.debian import need
from tests.integration.rig import HOSTS, SERVERS, TAG, Rig

pytestmark = [pytest.mark.root, pytest.mark.timeout(200)]  # a test also waits for stories before its own

HOST = HOSTS[0]
PROTECTED = {name: stopped for name, tags, stopped in SERVERS if TAG in tags}
AT_A_TIME = 3  # stories on two cores; more of them would disturb each other's heartbeats
STORY_S = 60.0  # one moment to the next; on an idle machine a few seconds

Moment = Callable[[Rig], Awaitable[None]]


async def fence_is_journalled(rig: Rig) -> None:
    await rig.until(lambda: rig.pending(CommandKind.FENCE) > 0, STORY_S, "a fence is journalled")


async def off_is_under_way(rig: Rig) -> None:
    """The BMC has taken the off and takes its time; the worker looks until the host is off."""
    rig.bmcs[HOST].fault("slow_off", 1.5)
    await fence_is_journalled(rig)
    await asyncio.sleep(0.7)
    assert rig.workers(), "one of them waits for the host to be off"
    rig.bmcs[HOST].fault(None)  # what was taken is carried out all the same


async def force_down_is_unanswered(rig: Rig) -> None:
    rig.nova.fail_next("force_down", Fault.LOST_DONE)
    await rig.until(lambda: (HOST, True) in rig.nova.told, STORY_S, "Nova is told that the host is down")
    assert rig.pending(CommandKind.FORCE_DOWN) == 1


async def evacuations_are_in_flight(rig: Rig) -> None:
    """One is unanswered, others are under way, and all of them still are when the next controller leads."""
    rig.nova.slow(True)
    rig.nova.fail_next("evacuate", Fault.LOST_DONE)
    await rig.until(lambda: len(rig.nova.evacuate_calls) >= 3, STORY_S, "evacuations are accepted")
    rig.nova.slow(False)
    assert rig.pending(CommandKind.EVACUATE) >= 1


async def power_on_is_journalled(rig: Rig) -> None:
    await rig.until(lambda: rig.pending(CommandKind.POWER_ON) > 0, STORY_S, "a power on is journalled")


async def gate_is_being_opened(rig: Rig) -> None:
    """The answer comes within milliseconds: just afterwards will do, where we were too slow to see it pending."""

    def begun() -> bool:
        opened = any(incident.cleared_boot_id for incident in rig.incidents())
        return opened or rig.pending(CommandKind.OPEN_GATE) > 0

    await rig.until(begun, STORY_S, "the gate is being opened")


async def unfence_is_unanswered(rig: Rig) -> None:
    await rig.until(lambda: rig.boots.count(HOST) == 2, STORY_S, "the host boots again")
    rig.nova.fail_next("force_down", Fault.LOST_DONE)
    await rig.until(lambda: (HOST, False) in rig.nova.told, STORY_S, "forced_down is cleared")
    assert rig.pending(CommandKind.CLEAR_FORCE_DOWN) == 1


MOMENTS: dict[str, Moment] = {
    "off under way": off_is_under_way,
    "fence journalled": fence_is_journalled,
    "force_down": force_down_is_unanswered,
    "evacuate": evacuations_are_in_flight,
    "power on": power_on_is_journalled,
    "gate": gate_is_being_opened,
    "unfence": unfence_is_unanswered,
}
STORIES = {
    "every moment": tuple(MOMENTS.values()),  # the longest one begins first
    "no kill": (),
    **{name: (moment,) for name, moment in MOMENTS.items()},
}


@dataclass(frozen=True)
class Same:
    """What must be the same at the end of every story."""

    servers: dict[
        str, tuple[str, bool, int, str]
    ]  # name: status, still on the host, runs on so many, stage in the journal
    incidents: tuple[tuple[str, Phase], ...]
    forced_down: bool
    up: bool
    evacuations: dict[str, int]  # accepted, by name of the server
    records: frozenset[str]
    switched: dict[str, tuple[str, ...]]  # what really changed at each BMC
    told: tuple[tuple[str, bool], ...]  # what Nova was told of services
    changes: dict[str, int]  # requests to Nova that change something, refused ones included, by method
    boots: int


@dataclass(frozen=True)
class Ended:
    """A story, when it is over."""

    same: Same
    kills: int
    doubles: tuple[object, ...]
    ruined: tuple[str, ...]
    log: str


async def play(directory: Path, moments: tuple[Moment, ...]) -> Ended:
    """One host is lost, and comes back; the controller is killed at each of the moments."""
    async with Rig(directory) as rig:
        rig.api.lost_s = 3.0
        await rig.start_controller()
        await rig.ready()
        rig.lose(HOST)
        for moment in moments:
            await moment(rig)
            await rig.kill_controller()
            await rig.start_controller()
        await rig.until(lambda: over(rig), STORY_S, "the incident ends")
        await rig.until_true(rig.all_alive, 10, "every host is heard")
        return ended(rig)


def over(rig: Rig) -> bool:
    incidents = rig.incidents()
    return bool(incidents) and all(incident.phase is Phase.CLOSED for incident in incidents)


def ended(rig: Rig) -> Ended:
    nova = rig.nova
    nova.tick()
    names = {row.id: row.name for row in nova.servers.values()}
    stages = {server.name: server.stage for server in rig.servers()}
    return Ended(
        same=Same(
            servers={
                row.name: (
                    row.status,
                    row.host == HOST,
                    len(nova.runs.get(row.id, ())),
                    stages.get(row.name, "unknown"),
                )
                for row in nova.servers.values()
            },
            incidents=tuple(
                (incident.host, incident.phase) for incident in rig.incidents() if incident.plan == RECOVER
            ),
            forced_down=nova.hosts[HOST].forced_down,
            up=nova.is_up(HOST),
            evacuations=dict(Counter(names[server] for _, server in nova.evacuate_calls)),
            records=frozenset(record.status for record in nova.migrations),
            switched={name: tuple(bmc.log()) for name, bmc in rig.bmcs.items()},
            told=tuple(nova.told),
            changes=dict(Counter(r.split()[0] for r in rig.api.requests if not r.startswith("GET "))),
            boots=len(rig.boots),
        ),
        kills=rig.kills,
        doubles=tuple(nova.double_history),
        ruined=tuple(nova.ruined),
        log=rig.log(),
    )


@pytest.fixture(scope="module")
def stories(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Ended]]]:
    """Every story that a test asks for, a few at a time."""
    need("openipmi")
    chosen = {item.callspec.params["story"] for item in request.session.items if item.path == request.path}  # type: ignore[attr-defined]
    directory = tmp_path_factory.mktemp("rig")
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        running = {
            name: pool.submit(asyncio.run, play(directory / str(number), moments))
            for number, (name, moments) in enumerate(STORIES.items())
            if name in chosen
        }
        yield running
        for story in running.values():
            story.cancel()


@pytest.mark.parametrize("story", STORIES)
def test_the_end_is_the_same(stories: dict[str, Future[Ended]], story: str) -> None:
    end = stories[story].result()
    print(end.log)
    assert end.kills == len(STORIES[story])
    assert end.doubles == ()
    assert end.ruined == ()
    verified, left = ServerStage.VERIFIED, ServerStage.NOT_MOVED
    moved = {
        name: ("SHUTOFF", False, 0, verified) if stopped else ("ACTIVE", False, 1, verified)
        for name, stopped in PROTECTED.items()
    }
    assert {name: row for name, row in end.same.servers.items() if name in PROTECTED} == moved
    assert end.same == Same(
        servers={**moved, "scratch": (end.same.servers["scratch"][0], True, 0, left)},
        incidents=((HOST, Phase.CLOSED),),
        forced_down=False,
        up=True,
        evacuations=dict.fromkeys(PROTECTED, 1),
        records=frozenset({"completed"}),
        switched={HOSTS[0]: ("on", "off", "on"), HOSTS[1]: ("on",), HOSTS[2]: ("on",)},
        told=((HOST, True), (HOST, False)),
        changes={"PUT": 2, "POST": len(PROTECTED)},
        boots=len(HOSTS) + 1,
    )
