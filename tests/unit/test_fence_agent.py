"""What a fence agent is given, and what of its answers is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ha_agent.errors import DriverError
from ha_agent.fencing.fence_agent import FenceAgent, find, given, power_of
from ha_agent.fencing.secret import scrubbed
from ha_agent.fencing.topology import Device
from ha_agent.fencing.window import Window
from ha_agent.model import Power
from ha_agent.programs.run import OUTPUT_MAX, Ran

PDU = Device(
    name="pdu",
    driver="fence_agent",
    agent="fence_apc",
    address="pdu-1",
    port=161,
    username="apc",
    plug="4",
    options={"power_wait": "2"},
)


class Still:
    def now(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("code", "out", "power"),
    [
        (0, b"Status: ON\n", Power.ON),
        (2, b"Status: OFF\n", Power.OFF),
        (2, b"some noise\nstatus: off\r\n", Power.OFF),
        (2, b"", None),  # a shell or a parser that was called wrongly
        (2, b"usage: fence_apc [-o action]\n", None),
        (2, b"Status: ON\n", None),
        (0, b"Status: OFF\n", None),
        (0, b"", None),
        (1, b"Status: OFF\n", None),
        (-15, b"Status: OFF\n", None),
        (2, b"Status: OFF\nStatus: ON\n", None),
        (2, b"Status: OFF?\n", None),
        (2, b"Status: OFFLINE\n", None),
        (2, b"Status: POWERING OFF\n", None),
        (2, b"the Status: OFF\n", None),
        (2, b"Status:\nOFF\n", None),
        (2, b"Status: OFF\n" + b"x" * OUTPUT_MAX, None),
    ],
)
def test_only_a_code_and_a_line_that_agree_are_believed(code: int, out: bytes, power: Power | None) -> None:
    assert power_of(Ran(code, out[:OUTPUT_MAX], b"")) is power


def test_options_go_in_as_lines() -> None:
    assert given(PDU, b"s3cret", "off").decode().splitlines() == [
        "power_wait=2",
        "ip=pdu-1",
        "ipport=161",
        "username=apc",
        "plug=4",
        "action=off",
        "password=s3cret",
    ]


def test_what_an_agent_would_take_away_is_quoted() -> None:
    assert b'password=" ends "\n' in given(PDU, b" ends ", "status")
    assert b'password=""quoted""\n' in given(PDU, b'"quoted"', "status")
    assert b'password=in"side\n' in given(PDU, b'in"side', "status")


def test_no_option_and_no_password_adds_a_line_or_another_action() -> None:
    def with_options(**options: str) -> Device:
        return Device(name="x", driver="fence_agent", agent="fence_x", port=0, options=options)

    assert given(with_options(action="off"), b"", "status") == b"action=status\n"
    for bad in (with_options(method="x\naction=off"), with_options(**{"a=b": "c"}), with_options(**{"x\n": "c"})):
        with pytest.raises(DriverError, match="not a line of plain text"):
            given(bad, b"", "status")
    with pytest.raises(DriverError, match="not a line of plain text"):
        given(PDU, b"two\nlines", "status")
    with pytest.raises(DriverError, match="longer than"):
        given(with_options(**{f"o{n}": "x" * 1000 for n in range(20)}), b"", "status")


def test_programs_are_found_in_fixed_places_only(tmp_path: Path) -> None:
    program = tmp_path / "fence_mine"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(DriverError, match="not a program"):
        find(str(program))
    program.chmod(0o755)
    assert find(str(program)) == str(program)
    program.chmod(0o757)
    with pytest.raises(DriverError, match="written by everyone"):
        find(str(program))
    for name, words in (
        ("fence_nobody_has_this", "not installed"),
        ("sbin/fence_apc", "absolute"),
        ("/usr/sbin/../sbin/fence_apc", "absolute"),
        ("reboot", "not named like"),
        ("fence_x;reboot", "not named like"),
        (str(tmp_path), "not a program"),
        (str(tmp_path / "none"), "No such file"),
    ):
        with pytest.raises(DriverError, match=words):
            find(name)


@pytest.mark.parametrize(
    "form",
    [
        "p4 ss'w\"",
        r"p4 ss\'w" + '"',
        r"p4 ss'w\"",
        "p4%20ss%27w%22",
        "p4+ss%27w%22",
        "cDQgc3Mndw==",
        """'p4 ss'"'"'w"'""",
    ],
)
def test_a_password_is_hidden_in_whatever_form_it_comes(form: str) -> None:
    password = b"p4 ss'w" if form == "cDQgc3Mndw==" else b"p4 ss'w\""
    assert "[hidden]" in scrubbed(f"login as x with {form} failed", password)


def said(ran: Ran, password: bytes = b"s3cret") -> str:
    return FenceAgent(PDU, "/usr/sbin/fence_apc", password, Window(Still(), 1, 1, "x"))._said(ran)


def test_an_agent_s_complaint_is_its_last_line_without_the_password() -> None:
    log = b"2026-01-01 10:00:00,123 INFO: Executing x -P s3cret\n2026-01-01 10:00:00,456 ERROR: no login with s3cret\n\n\n"
    assert said(Ran(1, b"", log)) == "no login with [hidden] (exit code 1)"
    assert said(Ran(3, b"", b"")) == "login denied (exit code 3)"
    assert said(Ran(99, b"", b"")) == "it said nothing (exit code 99)"
    assert said(Ran(-9, b"", b"x")) == "it was ended by signal 9 (Killed)"
    assert said(Ran(1, b"", b"\x1b[31mRot\x1b[0m")) == "?[31mRot?[0m (exit code 1)"
    assert len(said(Ran(1, b"x" * 5000, b""))) < 250


def test_half_a_password_at_the_end_of_what_was_kept_is_not_told() -> None:
    output = (b"x\n" * OUTPUT_MAX)[: OUTPUT_MAX - 3] + b"s3c"
    assert "s3c" not in said(Ran(1, b"", output))
