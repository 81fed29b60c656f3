"""Hooks as real programs: what they are told, how each way to end is noted, and that nothing of them stays alive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path

import pytest

from ha_agent.config.hookdir import find
from ha_agent.errors import DriverError, Rejected
from ha_agent.notify.hook_run import TAIL_MAX, tail
from ha_agent.notify.hooks import Hook
from tests.unit.heartbeat_support import until
from tests.unit.test_notify_webhook import NOTE


def program(directory: Path, text: str, name: str = "hook") -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def hook(path: Path, timeout_s: float = 20.0, slots: int = 4) -> Hook:
    return Hook(path, "ha-agent/cloud", asyncio.Semaphore(slots), time.monotonic, timeout_s=timeout_s)


def alive(file: Path) -> bool:
    """Whether the process whose number a hook left behind still runs."""
    return file.exists() and runs(file.read_text().strip())


def runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except (OSError, ValueError):
        return False


async def test_it_reads_the_event_and_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_PASSWORD", "hunter2")  # the helper inherits it, as every child of the daemon does
    subject = hook(program(tmp_path, f"cat > {tmp_path}/event; env > {tmp_path}/env; echo done"))
    await subject.publish(NOTE)
    event = json.loads((tmp_path / "event").read_text())
    assert (event["type"], event["subject"]) == ("ha_agent.host.suspected", "compute-1")
    assert "hunter2" not in (tmp_path / "env").read_text()
    assert subject.last is not None
    assert (subject.last.code, subject.last.tail) == (0, "done")


@pytest.mark.parametrize(
    ("text", "raised", "says"),
    [
        ("echo no >&2; exit 3", Rejected, "it ended with 3; it said: no"),
        ("kill -9 $$", Rejected, "it ended with -9"),
        ("echo later; exit 75", DriverError, r"asks to be told again \(75\); it said: later"),
        ("sleep 60", Rejected, "did not end within 0.5 s and was killed"),
        ("trap '' TERM; while :; do :; done", Rejected, "did not end within 0.5 s and was killed"),
    ],
)
async def test_how_it_ends_is_noted(tmp_path: Path, text: str, raised: type[Exception], says: str) -> None:
    with pytest.raises(raised, match=says) as told:
        await hook(program(tmp_path, text), timeout_s=0.5 if "within" in says else 20).publish(NOTE)
    assert type(told.value) is raised


async def test_one_that_cannot_be_started_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "hook"
    path.write_bytes(b"\x7fELF rubbish")
    path.chmod(0o755)
    with pytest.raises(Rejected, match="cannot be started"):
        await hook(path).publish(NOTE)


async def test_megabytes_are_cut_to_their_end(tmp_path: Path) -> None:
    subject = hook(program(tmp_path, "head -c 5000000 /dev/zero | tr '\\0' x; printf ' the end\\033[2J\\n'; exit 1"))
    with pytest.raises(Rejected) as told:
        await subject.publish(NOTE)
    assert subject.last is not None
    assert subject.last.tail.endswith("x the end?[2J")
    assert len(subject.last.tail) == TAIL_MAX
    assert len(str(told.value)) < TAIL_MAX + 100


async def test_nothing_that_it_started_outlives_it(tmp_path: Path) -> None:
    left = tmp_path / "left"
    text = f"setsid sh -c 'echo $$ > {left}; while :; do echo y; done' & while [ ! -s {left} ]; do :; done"
    await hook(program(tmp_path, text)).publish(NOTE)
    assert not alive(left)
    await asyncio.sleep(0)
    left.unlink()
    with pytest.raises(Rejected, match="killed"):
        await hook(program(tmp_path, f"{text}; sleep 60"), timeout_s=1).publish(NOTE)
    assert not alive(left)


async def test_an_event_larger_than_a_pipe_need_not_be_read(tmp_path: Path) -> None:
    large = NOTE.__class__(**{**{f: getattr(NOTE, f) for f in NOTE.__struct_fields__}, "payload": {"x": "y" * 500_000}})
    await hook(program(tmp_path, "exit 0")).publish(large)
    await hook(program(tmp_path, f"wc -c > {tmp_path}/size")).publish(large)
    assert int((tmp_path / "size").read_text()) > 500_000


async def test_who_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    left, below = tmp_path / "left", tmp_path / "below"
    text = f"echo $$ > {left}; setsid sleep 60 & echo $! > {below}; sleep 60"
    task = asyncio.create_task(hook(program(tmp_path, text)).publish(NOTE))
    await until(lambda: alive(left) and alive(below))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(left)
    assert not alive(below)


async def test_a_helper_that_is_told_to_end_at_once_leaves_nothing_behind(tmp_path: Path) -> None:
    """Also where it has hardly started the hook, and does not know yet that it has."""
    mark = f"6000.{os.getpid()}"  # seconds that nobody else sleeps
    path = program(tmp_path, f"kill -TERM $PPID; sleep {mark}")
    for _ in range(20):
        with pytest.raises(DriverError, match="its helper ended with 1"):
            await hook(path).publish(NOTE)
    assert with_argument(mark) == []


def with_argument(text: str) -> list[str]:
    """The commands of all processes that have it."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            found += [" ".join(command)] * (process.name.isdigit() and text in command)
    return found


async def test_who_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    """The kernel tells the helper that its daemon is gone."""
    left, below = tmp_path / "left", tmp_path / "below"
    path = program(tmp_path, f"echo $$ > {left}; setsid sleep 60 & echo $! > {below}; sleep 60")
    daemon = (
        "import asyncio, time, sys, pathlib; from ha_agent.notify.hooks import Hook; "
        "from tests.unit.test_notify_webhook import NOTE; "
        "asyncio.run(Hook(pathlib.Path(sys.argv[1]), 'x', asyncio.Semaphore(1), time.monotonic).publish(NOTE))"
    )
    root = str(Path(__file__).parents[2])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", daemon, str(path), cwd=root, env={**os.environ, "PYTHONPATH": root}
    )
    await until(lambda: alive(left) and alive(below))
    process.kill()
    await process.wait()
    await until(lambda: not alive(left) and not alive(below))


async def test_no_more_run_at_once_than_there_are_slots(tmp_path: Path) -> None:
    text = f"mkdir {tmp_path}/busy || exit 9; sleep 0.05; rmdir {tmp_path}/busy"
    slots = asyncio.Semaphore(1)
    hooks = [
        Hook(program(tmp_path, text, f"h{n}"), "ha-agent/cloud", slots, time.monotonic, timeout_s=20) for n in range(3)
    ]
    await asyncio.gather(*(each.publish(NOTE) for each in hooks))


def test_which_files_of_the_directory_are_run(tmp_path: Path) -> None:
    for name in ("20-page", "10-ticket", ".hidden", "old~", "page.rpmsave", "not executable", "sh", "ours"):
        program(tmp_path, "exit 0", name)
    (tmp_path / "20-page").chmod(0o757)
    (tmp_path / "sh").chmod(0o644)
    (tmp_path / "directory").mkdir()
    found = find(tmp_path)
    assert [path.name for path in found.programs] == ["10-ticket", "ours"]
    assert found.left == ("sh",)
    assert [(name, why.split(",")[0]) for name, why in found.problems] == [
        ("20-page", "everybody may change it"),
        ("not executable", "its name has letters other than A-Z a-z 0-9 _ . -"),
    ]
    tmp_path.chmod(0o777)
    assert find(tmp_path).problems == ((str(tmp_path), "everybody may change it"),)
    assert find(tmp_path).programs == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_one_that_belongs_to_somebody_else_is_not_run(tmp_path: Path) -> None:
    os.chown(program(tmp_path, "exit 0"), 12345, 0)
    assert find(tmp_path).problems == (("hook", "it belongs to user 12345, neither root nor the daemon's"),)


def test_the_tail_is_one_printable_line() -> None:
    assert tail(b"a\nb\xff\x1b[2J\x00") == "a b�?[2J?"
    assert tail(b"") == ""
