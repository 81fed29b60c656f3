"""The examples are run: a hook by our runner, a receiver by our webhook."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ha_agent.config.hookdir import find
from ha_agent.errors import DriverError
from ha_agent.notify import cloudevent
from ha_agent.notify.webhook import Webhook
from tests.unit.heartbeat_support import closed_port, until
from tests.unit.test_notify_webhook import NOTE

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_hook_appends_a_line(tmp_path: Path) -> None:
    assert [path.name for path in find(EXAMPLES / "hooks").programs] == ["note-to-file"]
    text = (EXAMPLES / "hooks" / "note-to-file").read_text().replace("/tmp/ha-agent-events", str(tmp_path / "events"))
    hook = tmp_path / "hook"
    hook.write_text(text.replace("#!/usr/bin/python3", f"#!{sys.executable}"))
    hook.chmod(0o755)
    for _ in range(2):
        subprocess.run([hook], input=cloudevent.encode(NOTE, "ha-agent/c"), check=True, timeout=20)
    line = "2023-11-14T22:13:20.250Z ha_agent.host.suspected compute-1 silent\n"
    assert (tmp_path / "events").read_text() == 2 * line


@contextmanager
def receiver(secret: Path, out: Path) -> Iterator[int]:
    port = closed_port()
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, EXAMPLES / "webhook_receiver.py", str(secret), str(port)], stdout=file
        )
        try:
            yield port
        finally:
            process.kill()
            process.wait()


async def test_the_receiver_takes_what_is_signed_once(tmp_path: Path) -> None:
    secret, out = tmp_path / "secret", tmp_path / "out"
    secret.write_text("whsec_aGk=\n")
    with receiver(secret, out) as port:
        url = f"http://127.0.0.1:{port}/"
        good = Webhook(url, "ha-agent/c", time.time, secret=b"hi")

        async def up() -> bool:
            try:
                await good.publish(NOTE)
            except DriverError:
                return False
            return True

        async with asyncio.timeout(20):
            while not await up():  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.02)
        await good.publish(NOTE)
        await good.close()
        for wrong in (Webhook(url, "x", time.time, secret=b"ho"), Webhook(url, "x", lambda: 1.0, secret=b"hi")):
            with pytest.raises(DriverError, match="answered 401"):
                await wrong.publish(NOTE)
            await wrong.close()
        await until(lambda: out.read_text() == "2023-11-14T22:13:20.250Z ha_agent.host.suspected compute-1\n")
