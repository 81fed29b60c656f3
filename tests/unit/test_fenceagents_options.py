"""What fence agents are told: FenceAgentAPI's stdin, the command line, and secrets that stay out of both where others look."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path

import pytest

from ha_agent.errors import ConfigError, UsageError
from ha_agent.fenceagents import agent, ipmi, secrets
from ha_agent.fenceagents.options import STDIN_MAX, Option, Options, told

SECRET = "tiger-\udcff 7= "  # a byte that is no UTF-8, a blank at its end


def by_stdin(text: str, table: tuple[Option, ...] = ipmi.OPTIONS) -> Options:
    return told(table, [], io.BytesIO(text.encode("utf-8", "surrogateescape")))


def by_words(*words: str, table: tuple[Option, ...] = ipmi.OPTIONS) -> Options:
    return told(table, words, io.BytesIO(b"ip=never-read"))


def refused(problem: ConfigError) -> list[str]:
    return [field for field, _, _ in problem.problems]


def test_stdin_as_the_api_says() -> None:
    options = by_stdin(
        f"#ip=a comment\n\nagent=fence_wti\n  ip=first\nnodename=red.example.org\nno equals\nip=bmc-1=x\r\n"
        f"action=off\npassword={SECRET}\nusername=\n"
    )
    assert options.text("ip") == "bmc-1=x", "the last one counts, all after the first equals sign"
    assert options.text("action") == "off"
    assert options.secret("password") == b"tiger-\xff 7= ", "as it came"
    assert options.text("username") == "", "nothing is not a name"
    assert (options.number("ipport"), options.seconds("power_timeout"), options.flag("verbose")) == (623, 20.0, False)


def test_older_names_count_where_the_newer_is_not_given() -> None:
    options = by_stdin("ipaddr=old\nlogin=ann\npasswd=tiger\noption=status\n")
    assert [options.text(n) for n in ("ip", "username", "password", "action")] == ["old", "ann", "tiger", "status"]
    assert by_stdin("ip=new\nipaddr=old\n").text("ip") == "new"
    for text, name in (
        ("nodename=c1\n", "c1"),
        ("nodename=c1\nport=c2\n", "c2"),
        ("port=c2\nplug=c3\nnodename=c1\n", "c3"),
    ):
        assert by_stdin(text, agent.OPTIONS).text("plug") == name


def test_the_command_line() -> None:
    options = by_words("-o", "off", "--ip=bmc-1", "-l", "ann", "--password-file", "/x", "-v", "--power-timeout=2.5")
    told_them = [options.text(n) for n in ("action", "ip", "username", "password_file")]
    assert told_them == ["off", "bmc-1", "ann", "/x"]
    assert (options.flag("verbose"), options.seconds("power_timeout")) == (True, 2.5)
    assert by_words("-v").text("action") == "reboot", "FenceAgentAPI's default"


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("-p", "tiger"), "-p"),
        (("--password=tiger",), "--password"),
        (("--passwd=tiger",), "--passwd"),
        (("--nonsense",), "--nonsense"),
        (("-o",), "-o"),
        (("off", "tiger"), "arguments"),
    ],
)
def test_a_wrong_command_line_shows_no_value(words: tuple[str, ...], field: str) -> None:
    with pytest.raises(ConfigError) as problem:
        by_words(*words)
    assert refused(problem.value) == [field]
    assert "tiger" not in str(problem.value)
    assert ("--password-file" in str(problem.value)) == (field[:5] in ("-p", "--pas"))


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as problem:
        by_stdin("ipport=x\npower_timeout=0\nlogin_timeout=-1\nprivlvl=god\nverbose=maybe\nip=\x1b[2J\n")
    assert refused(problem.value) == ["ip", "ipport", "privlvl", "login_timeout", "power_timeout", "verbose"]
    assert "\x1b" not in str(problem.value)
    for value in ("1e9", "inf", "nan", "86401", "٣", ".5", "1.x"):
        with pytest.raises(ConfigError):
            by_stdin(f"power_timeout={value}\n")


def test_stdin_is_bounded() -> None:
    with pytest.raises(ConfigError, match="longer than"):
        by_stdin("x" * (STDIN_MAX + 1))


def test_values_are_in_no_text_of_the_options() -> None:
    assert repr(by_stdin("password=tiger\n")) == (
        "Options(action, ipport, login_timeout, password, power_timeout, privlvl)"
    )


# --- secrets ---


def password(**values: str) -> bytes:
    return secrets.password(Options(values))


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "a script"
    path.write_text(body)
    return f"{sys.executable} '{path}'"


def test_a_password_comes_from_a_script_a_file_or_stdin(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"from file\xff \r\n")
    printed = script(tmp_path, "print('from script')")
    assert password(password=SECRET) == b"tiger-\xff 7= "
    assert password(password=SECRET, password_file=str(file)) == b"from file\xff "
    assert password(password_file=str(file), password_script=printed) == b"from script"
    assert password() == b""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import sys; print('tiger'); sys.exit(3)", "ends with 3"),
        ("pass", "empty"),
        ("print('tiger' * 1000)", "too long"),
        ("import sys; sys.stderr.write('tiger'); sys.exit(1)", "ends with 1"),
    ],
)
def test_a_script_that_fails_tells_nothing_of_what_it_prints(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], body: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says) as problem:
        password(password_script=script(tmp_path, body))
    assert "tiger" not in str(problem.value) + "".join(capfd.readouterr())


def test_a_script_that_hangs_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "SCRIPT_S", 1.0)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(UsageError, match="does not end"):  # it waits for its child, which holds the pipe open
        password(password_script=f"sh -c 'sleep 600 > {pipe}; true'")
    end = time.monotonic() + 10
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b"", "the child is dead too"
    assert time.monotonic() < end
    os.close(reader)


@pytest.mark.parametrize("option", ["password_file", "password_script"])
def test_a_source_that_is_not_there_is_named(option: str) -> None:
    with pytest.raises(UsageError, match=option):
        password(**{option: "/nowhere/at-all"})
    with pytest.raises(UsageError, match="password_script"):
        password(password_script="'unbalanced")


def test_a_file_that_cannot_end_is_bounded() -> None:
    with pytest.raises(UsageError, match="too long"):
        password(password_file=os.devnull.replace("null", "zero"))
