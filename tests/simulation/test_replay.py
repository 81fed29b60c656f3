"""What was found can be played again: the same seed gives the same bytes wherever it is played, and so do scripts and strikes."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import yaml

from ha_agent.controller.engine import Engine
from ha_agent.errors import UsageError
from ha_agent.sim import strikes
from ha_agent.sim.simulate import Life, lived, replay_script, run
from ha_agent.sim.workers import Workers
from tests.simulation.test_planted import partitioned_is_down, twice

DAYS = 1.0
NEEDS_TIME = ("store locked", "loss from a host", "Keystone down", "panic")  # what they do goes by when they began


def simulate(*args: str, cwd: Path | None = None, hash_seed: str = "0", code: int = 0) -> str:
    """What `ha-agent simulate` prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ha_agent", "simulate", *args],
        cwd=cwd,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code == 2 else done.stdout


def logged(seeds: int, first_seed: int) -> dict[int, str]:
    """The log of each life, by its seed."""
    out = io.StringIO()
    run(seeds, first_seed, DAYS, False, out, log=True)
    lives = out.getvalue().split("--- seed ")[1:]
    return {int(life.split("\n", 1)[0]): life.split("\n", 1)[1] for life in lives}


# --- the same bytes ---


@pytest.mark.parametrize(
    "args",
    [
        ("--seeds", "2", "--first-seed", "7", "--days", "0.3", "--log"),
        ("--seeds", "1", "--first-seed", "-4", "--days", "1", "--json"),
        ("--strike", "fence/BMC hanging", "--first-seed", "-10"),
    ],
    ids=["lives", "a negative seed", "a strike"],
)
def test_the_same_bytes_in_any_process_and_directory(args: Sequence[str], tmp_path: Path) -> None:
    first = simulate(*args, hash_seed="1")
    assert "sha256" in first
    assert simulate(*args, hash_seed="2", cwd=tmp_path) == first


@pytest.mark.parametrize("seed", [3, 2**70])
def test_the_same_log_alone_and_among_others(seed: int) -> None:
    alone, among = logged(1, seed), logged(3, seed - 2)
    assert sorted(among) == [seed - 2, seed - 1, seed]
    log, again = alone[seed].splitlines()[:-1], among[seed].splitlines()[:-1]  # without the summary
    assert len(log) > 20
    assert again == log
    assert len({tuple(life.splitlines()[:-1]) for life in among.values()}) == 3


def test_a_strike_played_alone_is_the_one_that_was_copied() -> None:
    faults = ["Nova 503", "controller paused", "packet loss 20 %", "crash after a write", *NEEDS_TIME]
    for seed in (-1, 4):
        struck = strikes.strikes(seed, dict.fromkeys(strikes.STEPS, faults))
        assert len(struck) >= 2 * len(faults)
        for strike in struck[:: len(faults) - 1]:
            out = io.StringIO()
            assert strikes.replay(seed, strike.step, strike.fault, out) == bool(strike.violations)
            assert out.getvalue().splitlines()[-1] == f"log sha256 {strike.log_sha256}"
            assert f"fault: {strike.fault}: {strike.lines[0]}" in out.getvalue()


@pytest.mark.parametrize("seed", [-7, 2**70])
def test_a_worker_of_the_matrix_plays_what_is_played_here(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {step: ["Nova 503", "packet loss 20 %"] for step in strikes.STEPS}
    monkeypatch.setenv("PYTHONHASHSEED", "17")  # workers inherit it; this very process has another one
    with Workers(2) as workers:
        plays = [workers.play(seed + n, wanted) for n in (0, 1, 0)]
        struck = [play.result(60) for play in plays]
    assert struck[0] == struck[2] == strikes.strikes(seed, wanted)
    assert struck[1] == strikes.strikes(seed + 1, wanted)
    assert len({s.log_sha256 for s in struck[0] + struck[1]}) > len(wanted)


def test_a_shell_takes_the_command_of_every_strike() -> None:
    for step, fault in strikes.PAIRS:
        words = shlex.split(strikes.Strike(-3, step, fault, False, [], []).replay)
        assert words == ["ha-agent", "simulate", "--first-seed", "-3", "--strike", f"{step}/{fault}"]


def test_what_is_found_in_a_story_without_a_strike_can_be_played_again() -> None:
    """A twin that breaks a rule is told as a strike of nothing, and its command is taken."""
    make = partial(Engine, decide=twice)
    found = strikes.strikes(14, {}, make)
    assert [s.replay for s in found] == ["ha-agent simulate --first-seed 14 --strike none/none"]
    out = io.StringIO()
    assert strikes.replay(14, "none", "none", out, make) == 1
    assert f"violation: {found[0].violations[0]}" in out.getvalue()


# --- what was found ---


def test_a_violation_prints_its_command_and_a_smaller_script(tmp_path: Path) -> None:
    """A planted bug: the script has fewer faults than the life, breaks the same rule, and breaks none without the bug."""
    make = partial(Engine, decide=partitioned_is_down)
    lives = (lived(Life(seed, make), 1.0) for seed in range(1, 40))
    life = next(each for each in lives if any(v.rule == "S5" for v in each.sim.violations[:1]) and len(each.struck) > 3)
    out, first, again = io.StringIO(), io.StringIO(), io.StringIO()
    assert run(1, life.seed, 1.0, False, out, make) == 1
    assert f"ha-agent simulate --seeds 1 --first-seed {life.seed} --days 1\n" in out.getvalue()
    script = out.getvalue().split("minimised:\n")[1].split("\n{")[0]
    assert 0 < len(yaml.safe_load(script)["faults"]) < len(life.struck)
    file = tmp_path / "script.yaml"
    file.write_text(script)
    assert replay_script(file, first, make) == 1
    assert replay_script(file, again, make) == 1
    assert first.getvalue() == again.getvalue()
    assert "violation: S5 " in first.getvalue()
    assert replay_script(file, io.StringIO()) == 0


def test_a_script_is_played_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "script.yaml"
    file.write_text("seed: 5\ndays: 0.3\nfaults:\n  1: [kill h1]\n")
    assert "fault 1: kill h1" in simulate("--script", str(file))


# --- what cannot be played ---


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ("faults: [", "while parsing"),
        ("seed: 1\ndays: 1\n", "'faults'"),
        ("seed: x\ndays: 1\nfaults: {}\n", "invalid literal"),
        ("seed: 1\ndays: -1\nfaults: {}\n", "days is -1"),
        ("seed: 1\ndays: .nan\nfaults: {}\n", "days is nan"),
        ("seed: 1\ndays: 1\nfaults: {1: [explode h1]}\n", "no action 'explode'"),
        ("seed: 1\ndays: 1\nfaults: {1: [kill]}\n", "want kill HOST"),
        ("seed: 1\ndays: 1\nfaults: {1: [kill h77]}\n", "seed 1 has no host h77"),
    ],
)
def test_a_wrong_script_is_refused(text: str, shows: str, tmp_path: Path) -> None:
    file = tmp_path / "script.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        replay_script(file, io.StringIO())
    assert shows in " ".join(map(str, refused.value.args))


@pytest.mark.parametrize(
    ("args", "shows"),
    [
        (("--script", "none.yaml"), "none.yaml cannot be read"),
        (("--script", "x", "--seeds", "3"), "--seeds cannot be used with --script"),
        (("--matrix", "0"), "--matrix is 0"),
        (("--matrix", "1", "--jobs", "0"), "--jobs is 0"),
        (("--matrix", "1", "--days", "2"), "--days cannot be used with --matrix"),
        (("--jobs", "2"), "--jobs goes with --matrix only"),
        (("--strike", "fence"), "--strike wants STEP/FAULT"),
        (("--strike", "fence/malice"), "add --first-seed"),
        (("--strike", "fence/none such", "--first-seed", "1"), "use one of: host death"),
        (("--strike", "none such/malice", "--first-seed", "1"), "use one of: suspect, fence"),
        (("--strike", "reboot/malice", "--first-seed", "0"), "does not come to 'reboot'"),
        (("--log", "--json"), "leave one of them out"),
        (("--explain",), "use it with --strike, --script, or --seeds 1"),
        (("--explain", "--seeds", "1", "--json"), "--explain tells of one cloud, in text"),
        (("--explain", "--matrix", "1"), "--explain cannot be used with --matrix"),
        (("--first-seed", "x"), "valid integer"),
    ],
)
def test_what_makes_no_sense_is_refused(args: Sequence[str], shows: str, tmp_path: Path) -> None:
    assert shows in simulate(*args, cwd=tmp_path, code=2)


def test_a_strike_is_explained_as_a_real_incident_is(tmp_path: Path) -> None:
    out = simulate("--first-seed", "14", "--strike", "evacuate/lost answer, not done", "--explain", cwd=tmp_path)
    told = out.split("\n\n")
    assert any(part.startswith("h2 is alive") for part in told)
    assert "the answer was lost; looking again" in out.split("What happened:")[1]
    assert "Evidence that it is off: every device of level 1 read off, twice" in out
    assert "--:--:--" not in out, "a reading without its time"


def test_so_is_a_life_and_that_of_a_script(tmp_path: Path) -> None:
    file = tmp_path / "script.yaml"
    file.write_text("seed: 5\ndays: 0.3\nfaults:\n  1: [kill h1]\n")
    for args in (("--script", str(file)), ("--seeds", "1", "--first-seed", "7")):
        plain, out = simulate(*args, cwd=tmp_path), simulate(*args, "--explain", cwd=tmp_path)
        assert "What happened:" not in plain
        assert "What happened:" in out
        assert plain.splitlines()[-1] in out
