"""What the demo is asked for, and the configuration that it makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ha_agent import config
from ha_agent.errors import UsageError
from ha_agent.sim.demo import DemoOptions, run
from ha_agent.sim.demo_compose import configuration
from ha_agent.sim.demo_failures import FAILURES
from ha_agent.sim.demo_stories import STORIES
from ha_agent.sim.demo_world import World
from ha_agent.system import SystemClock


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (DemoOptions(failure="flood"), "no failure 'flood'"),
        (DemoOptions(hosts=2), "2 hosts"),
        (DemoOptions(hosts=6, instances=5), "5 instances"),
    ],
)
def test_what_cannot_be_shown_is_refused(options: DemoOptions, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refusal:
        run(options)
    assert refusal.value.hint


def test_every_failure_has_a_story() -> None:
    assert set(STORIES) == set(FAILURES)


@pytest.mark.parametrize("name", FAILURES)
async def test_the_configuration_of_every_failure_is_valid_and_says_what_the_judge_assumes(
    name: str, tmp_path: Path
) -> None:
    failure = FAILURES[name]
    world = World(tmp_path, failure, 3, 6, 1, SystemClock())
    try:
        world.ports = dict(zip(world.hosts, (7001, 7002, 7003), strict=True))
        raw = yaml.safe_dump(configuration(world, failure, tmp_path))
        loaded = config.loads(raw, tmp_path / "controller.yaml", check_files=False)
    finally:
        for hypervisor in world.hosts.values():
            await hypervisor.close()
    for host, policy in loaded.policy.hosts.items():
        assert policy.detection == failure.detection
        assert policy.fencing == failure.fencing
        assert loaded.levels[host][0][0].port == world.ports[host]


def test_every_host_has_a_server_to_recover(tmp_path: Path) -> None:
    for seed in range(5):
        directory = tmp_path / str(seed)
        directory.mkdir()
        world = World(directory, FAILURES["power"], 6, 30, seed, SystemClock())
        guests = world.books.guests.values()
        assert {g.host for g in guests if g.protected and g.runs} == set(world.hosts)
        assert len(guests) == 30
