"""A journal that does not read must not stop a controller: its log lines wait, and in the end are dropped; hosts are watched and recovered."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import pytest

from ha_agent.model import Phase
from tests.integration.debian import need
from tests.integration.rig import HOSTS, Rig

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


def full_pipe() -> tuple[int, int]:
    """A pipe that takes not one byte more: whoever writes to it waits for ever."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    return reader, writer


async def test_a_host_is_recovered_although_nobody_takes_the_log(tmp_path: Path) -> None:
    need("openipmi")
    reader, writer = full_pipe()
    try:
        async with Rig(tmp_path / "rig") as rig:
            await rig.start_controller(writer)
            await rig.ready()
            rig.lose(HOSTS[0])
            await rig.until(lambda: (HOSTS[0], True) in rig.nova.told, 30, "the host is fenced, and Nova told")
            await rig.until(lambda: (HOSTS[0], False) in rig.nova.told, 60, "the host is taken back")
            await rig.until(lambda: {i.phase for i in rig.incidents()} == {Phase.CLOSED}, 30, "all is over")
            assert "\n" not in os.read(reader, 4096).decode(), "nothing of the log had passed until here"
    finally:
        os.close(reader)
        os.close(writer)
