"""One lab for all tests: the one that is up in build/nova-lab, else one that lasts as long as the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.nova.lab import Lab
from tests.integration.nova.servers import Servers
from tests.integration.nova.settings import ROOT


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Up."""
    there = Lab.of(ROOT / "build" / "nova-lab")
    if there is not None:
        assert not there.dead(), f"of the lab in build/nova-lab these have ended: {there.dead()}; make lab-down lab-up"
        yield there
        return
    made = Lab.up(tmp_path_factory.mktemp("nova-lab"))
    try:
        yield made
        assert not made.dead(), f"ended by themselves: {made.dead()}"
    finally:
        made.down()


@pytest.fixture
def servers(lab: Lab) -> Servers:
    """None yet, and every host is as new."""
    servers = Servers(lab)
    servers.heal()
    return servers
