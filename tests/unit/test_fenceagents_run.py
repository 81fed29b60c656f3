"""The frame of fence agents: metadata, help, exit codes, and that nothing but what an action says is ever a success."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from ha_agent.errors import HaAgentError
from ha_agent.fenceagents import agent, ipmi
from ha_agent.fenceagents.options import Options
from ha_agent.fenceagents.run import OFF, Agent, Answer, World, run
from ha_agent.fencing.window import Boottime

AGENTS = (ipmi.AGENT, agent.AGENT)
ROOT = Path(__file__).parents[2]
IPMI_OPTIONS = "ip=bmc-1\nusername=ann\npassword=tiger\n"


def told(subject: Agent, stdin: str = "", *words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = run(subject, words, io.BytesIO(stdin.encode()), out, err, Boottime())
    return code, out.getvalue(), err.getvalue()


def acting(act: Callable[[str, Options, World], Answer]) -> Agent:
    import dataclasses

    return dataclasses.replace(ipmi.AGENT, act=act)


@pytest.mark.parametrize("subject", AGENTS, ids=lambda a: a.name)
def test_metadata(subject: Agent) -> None:
    """In the shape of ClusterLabs' schema; an integration test holds it against the schema itself."""
    code, out, err = told(subject, "action=metadata\n")
    assert (code, err) == (0, "")
    assert told(subject, "", "-o", "metadata")[1] == out
    root = ElementTree.fromstring(out.encode())
    assert (root.tag, root.get("name")) == ("resource-agent", subject.name)
    assert [child.tag for child in root] == ["longdesc", "vendor-url", "parameters", "actions"]
    parameters = {p.get("name", ""): p for p in root.iterfind("parameters/parameter")}
    assert len(parameters) == len(root.findall("parameters/parameter")), "each name once"
    for option in subject.options:
        mine = parameters[option.name]
        content = mine.find("content")
        assert content is not None
        assert (content.get("type"), content.get("default", "")) == (option.kind, option.default)
        assert tuple(c.get("value") for c in content) == option.choices
        assert mine.get("required") == str(int(option.required))
        assert (mine.findtext("shortdesc") or "").strip()
        for alias in option.aliases:
            assert (parameters[alias].get("deprecated"), parameters[alias].get("required")) == ("1", "0")
    actions = [a.get("name") for a in root.iterfind("actions/action")]
    expected = {"on", "off", "reboot", "status", "monitor", "metadata", "validate-all"}
    assert set(actions) == expected | ({"list"} if subject is agent.AGENT else set())
    unfencing = [a.get("automatic") for a in root.iterfind("actions/action") if a.get("name") == "on"]
    assert unfencing == ["0"], "Pacemaker must not unfence by itself when a node joins"
    assert any(p.get("name") == "port" for p in parameters.values()) == (subject is agent.AGENT)


def test_a_password_is_no_word_of_the_command_line() -> None:
    root = ElementTree.fromstring(told(ipmi.AGENT, "action=metadata\n")[1].encode())
    typed = {p.get("name"): p.find("getopt") for p in root.iterfind("parameters/parameter")}
    for name in ("password", "passwd"):
        found = typed[name]
        assert found is not None
        assert found.get("mixed") == ""


@pytest.mark.parametrize("subject", AGENTS, ids=lambda a: a.name)
def test_help_and_version(subject: Agent) -> None:
    for word in ("-h", "--help"):
        code, out, _ = told(subject, "", word)
        assert code == 0
        assert all(option.usage in out and option.help in out for option in subject.options)
        assert all(action in out for action in (*subject.actions, "metadata", "validate-all"))
    assert told(subject, "", "-V")[1].startswith(f"{subject.name} ")


@pytest.mark.parametrize("subject", AGENTS, ids=lambda a: a.name)
def test_an_unknown_action_fails(subject: Agent) -> None:
    code, out, err = told(subject, f"action=explode\n{IPMI_OPTIONS}plug=c1\n")
    assert (code, out) == (1, "")
    assert "use one of on, off" in err


def test_options_on_stdin_that_nobody_knows_are_ignored() -> None:
    stdin = f"action=validate-all\n{IPMI_OPTIONS}lanplus=1\nagent=fence_ha_ipmi\nnodename=c1\n"
    assert told(ipmi.AGENT, stdin) == (0, "", "")


def test_what_is_missing_is_named_and_is_never_a_status() -> None:
    code, out, err = told(ipmi.AGENT, "action=status\n")
    assert (code, out) == (1, ""), "2 would be `off`"
    assert [line.split(": ")[1] for line in err.splitlines()] == ["ip", "username", "password"]
    for action in ("off", "on", "reboot", "status"):
        code, _, err = told(agent.AGENT, f"action={action}\n")
        assert code == 1
        assert "plug: missing" in err
    assert told(agent.AGENT, "action=validate-all\n")[0] == 0
    assert told(agent.AGENT, "action=validate-all\nmode=pretend\n")[0] == 1


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [("ipport", "0", "ipport"), ("ipport", "65536", "ipport"), ("username", "a" * 17, "username")],
)
def test_what_ipmi_does_not_know_is_refused(name: str, value: str, field: str) -> None:
    code, _, err = told(ipmi.AGENT, f"action=validate-all\n{IPMI_OPTIONS}{name}={value}\n")
    assert code == 1
    assert f"{field}: " in err


def test_the_codes_and_texts_of_an_action() -> None:
    assert told(acting(lambda *_: Answer(OFF, "Status: OFF")), f"action=STATUS\n{IPMI_OPTIONS}") == (
        2,
        "Status: OFF\n",
        "",
    )

    def fails(*_: object) -> Answer:
        raise HaAgentError("it did not", "look \x1b[2J there")

    code, out, err = told(acting(fails), f"action=off\n{IPMI_OPTIONS}")
    assert (code, out) == (1, "")
    assert "it did not (look" in err
    assert "\x1b" not in err


def test_a_bug_is_a_failure_and_tells_no_secret() -> None:
    def broken(*_: object) -> Answer:
        raise RuntimeError("tiger")

    code, out, err = told(acting(broken), f"action=off\n{IPMI_OPTIONS}")
    assert (code, out) == (1, "")
    assert "RuntimeError" in err
    assert "tiger" not in err


def test_only_the_verbose_murmur() -> None:
    def murmurs(action: str, options: Options, world: World) -> Answer:
        world.murmur("sending off")
        return Answer(0)

    assert told(acting(murmurs), f"action=off\n{IPMI_OPTIONS}")[2] == ""
    assert "sending off" in told(acting(murmurs), f"action=off\nverbose=1\n{IPMI_OPTIONS}")[2]


def test_the_limit_is_set_before_the_action() -> None:
    order: list[object] = []

    def act(*_: object) -> Answer:
        order.append("act")
        return Answer(0)

    run(
        acting(act),
        [],
        io.BytesIO(f"action=reboot\nlogin_timeout=3\npower_timeout=7\n{IPMI_OPTIONS}".encode()),
        io.StringIO(),
        io.StringIO(),
        Boottime(),
        order.append,
    )
    assert order == [20.0, "act"]


# --- as processes ---


@pytest.mark.parametrize("name", ["fence_ha_ipmi", "fence_ha_agent"])
def test_the_executables_are_the_entry_points(name: str) -> None:
    file, entry = ROOT / "fence_agents" / name, Path(sys.executable).with_name(name)
    assert os.access(file, os.X_OK)
    outputs = [
        subprocess.run(
            command, input="action=metadata\n", capture_output=True, text=True, check=True, timeout=30
        ).stdout
        for command in ([sys.executable, str(file)], [str(entry)])
    ]
    assert outputs[0] == outputs[1]
    assert f'name="{name}"' in outputs[0]


def test_a_process_ends_itself_whatever_hangs(tmp_path: Path) -> None:
    """A library may catch every exception: only an exit ends it."""
    program = tmp_path / "hangs"
    program.write_text(
        "import dataclasses, sys, time\n"
        "from ha_agent.fenceagents import ipmi, run\n"
        "run.GRACE_S = 0.2\n"
        "def act(*_):\n"
        "    while True:\n"
        "        try:\n"
        "            time.sleep(0.01)\n"
        "        except BaseException:\n"
        "            pass\n"
        "subject = dataclasses.replace(ipmi.AGENT, act=act, limit_s=lambda *_: 0.3)\n"
        "sys.exit(run.main(subject))\n"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(program)],
        input=f"action=off\n{IPMI_OPTIONS}",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "fence_ha_ipmi: timed out\n")
    assert time.monotonic() - begun < 20


def test_nothing_of_the_answer_is_lost_when_nobody_reads_it() -> None:
    done = subprocess.run(
        f"{sys.executable} fence_agents/fence_ha_ipmi -h | head -1",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("fence_ha_ipmi")


def test_options_are_values() -> None:
    """What the metadata is made of cannot be changed behind its back."""
    with pytest.raises(AttributeError):
        ipmi.OPTIONS[0].name = "x"  # type: ignore[misc]
    assert msgspec.structs.replace(ipmi.OPTIONS[0], name="x").name == "x"
