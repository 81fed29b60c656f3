"""The simulated Nova behaves as the real one: every case is played in both, and must see the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.nova.api import until
from tests.integration.nova.cases import ALONE, CASES, DEAD, FRAIL, LAND_S, Seen, evacuate, returned
from tests.integration.nova.lab import Lab
from tests.integration.nova.servers import Servers
from tests.integration.nova.worlds import Real, Simulated, World

pytestmark = [
    pytest.mark.root,
    pytest.mark.full,
    pytest.mark.timeout(900),
]  # the first test also waits for the lab and for the story

AT_A_TIME = 6
HOST = "the host itself"
Story = dict[str, Seen]


def play(world: World, names: Iterable[str]) -> Story:
    """One death of one host, and its return. All cases share it."""
    story: Story = {name: {} for name in names}
    plays = {name: CASES[name](world, seen) for name, seen in story.items()}

    def act(name: str) -> None:
        try:
            next(plays[name], None)
        except Exception as error:  # told with its case; the others go on
            story[name]["broke"] = f"{type(error).__name__}: {error}"

    def acts(chosen: Iterable[str]) -> None:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(act, chosen))

    host: Seen = {}
    acts(plays)
    victim = world.boot(DEAD, "victim")
    host["evacuate while it is up"] = evacuate(world, victim)
    world.power(DEAD, False)
    host["evacuate before Nova knows"] = evacuate(world, victim)
    host["force down"] = world.api.set_service(DEAD, forced_down=True).status_code
    host["forced down"] = service(world)
    world.api.set_service(FRAIL, status="disabled")
    acts(name for name in plays if name not in ALONE)
    world.api.set_service(FRAIL, status="enabled")
    for name in plays:
        if name in ALONE:
            act(name)
    host["clear before its return"] = world.api.set_service(DEAD, forced_down=False).status_code
    returned(world, DEAD)
    host["back"] = service(world)
    host["clear"] = world.api.set_service(DEAD, forced_down=False).status_code
    if (
        host["clear"] != 200
    ):  # a server that was evacuated twice has two records to clean up, and a start does one of each
        world.power(DEAD, False)
        returned(world, DEAD)
        host["clear after another start"] = world.api.set_service(DEAD, forced_down=False).status_code
    host["clear again"] = world.api.set_service(DEAD, forced_down=False).status_code
    until("it is up", lambda: world.api.service(DEAD)["state"] == "up", LAND_S)
    host["cleared"] = service(world)
    acts(plays)
    return story | {HOST: host}


def service(world: World) -> dict[str, object]:
    row = world.api.service(DEAD)
    return {key: row[key] for key in ("binary", "status", "state", "forced_down", "disabled_reason")}


@pytest.fixture(scope="module")
def stories(request: pytest.FixtureRequest, lab: Lab) -> Iterator[tuple[Story, Story]]:
    """Of the real Nova and of the simulated one, for the cases that were asked for."""
    asked = [item.callspec.params["name"] for item in request.session.items if item.path == request.path]  # type: ignore[attr-defined]
    names = [name for name in asked if name in CASES]
    servers = Servers(lab)
    servers.heal()
    simulated = Simulated()
    try:
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(play, world, names) for world in (Real(servers), simulated)]
            yield both[0].result(), both[1].result()
    finally:
        simulated.close()


# Where they differ, and how.
DIFFERS = {
    "destination freezes": "when it thaws, Nova leaves the server in ERROR, though it runs on its new host; the simulator leaves it ACTIVE",
}


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.xfail(reason=DIFFERS[name], strict=True)] if name in DIFFERS else []


@pytest.mark.parametrize("name", [HOST, *(pytest.param(name, marks=_marks(name)) for name in CASES)])
def test_the_simulator_agrees_with_nova(stories: tuple[Story, Story], name: str) -> None:
    nova, simulator = (story[name] for story in stories)
    assert "broke" not in nova, nova["broke"]
    assert simulator == nova
