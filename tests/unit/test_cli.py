"""The command line without a controller: help is quick, bad input is told in one sentence and ends with 2, nothing ever with a traceback."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.cli_support import ROOT, cli, process

COMMANDS = [
    "status",
    "health",
    "readiness",
    "explain",
    "incidents",
    "evacuate",
    "fence",
    "confirm-fenced",
    "release",
    "ack",
    "maintenance",
    "arm",
    "disarm",
    "pause",
    "unpause",
    "controller",
    "remote",
    "config",
    "pki",
    "demo",
    "simulate",
]


def test_help_names_every_command() -> None:
    done = process("--help")
    assert done.returncode == 0
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line.strip()}
    assert set(COMMANDS) <= listed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = cli(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_help_loads_nothing_heavy() -> None:
    """What makes it slow are libraries; counting them is steadier than a clock."""
    code = (
        "import sys\nsys.argv = ['ha-agent', '--help']\n"
        "from ha_agent.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'openstack', 'pyghmi', 'kombu', 'aiohttp', 'cryptography', 'pydantic', 'prometheus_client', 'yaml'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("explain",),
        ("maintenance", "perhaps", "compute-1"),
        ("status", "--nonsense"),
        ("evacuate", "compute-1"),  # only --dry-run exists
        ("demo", "--failure", "earthquake"),
        ("demo", "--hosts", "many"),
        ("demo", "--hosts", "1"),
        ("simulate", "--seeds", "0"),
        ("simulate", "--days", "nan"),
        ("pki", "issue", "king", "compute-1"),
        ("pki", "show", "/nonexistent/cert.pem"),
        ("config", "check", "/nonexistent/controller.yaml"),
        ("config", "check", "/"),
        ("controller", "--config", "/nonexistent/controller.yaml"),
        ("remote", "--config", "/nonexistent/remote.yaml"),
        ("remote", "gate", "--reason", "because"),
        ("remote", "gate", "--override"),
    ],
)
def test_bad_input_ends_with_2(arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("health",),
        ("readiness",),
        ("status", "--json"),
        ("explain", "compute-1"),
        ("incidents",),
        ("evacuate", "compute-1", "--dry-run"),
        ("fence", "compute-1"),
        ("confirm-fenced", "compute-1", "--yes"),
        ("maintenance", "on", "compute-1"),
        ("arm",),
    ],
)
def test_without_a_controller_it_fails_and_says_where_it_looked(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments, socket=tmp_path / "nobody.sock")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no controller at {tmp_path / 'nobody.sock'}" in done.stderr
    assert "HA_AGENT_SOCKET" in done.stderr
    assert "Traceback" not in done.stderr


def config(directory: Path, text: str = "") -> Path:
    (directory / "bmc").write_text("geheim\n", encoding="utf-8")
    (directory / "bmc").chmod(0o400)
    file = directory / "controller.yaml"
    file.write_text(
        text
        or "version: 1\ncloud: mycloud\nfencing:\n  levels: [[bmc]]\n  devices:\n"
        "    bmc: {driver: ipmi, address: 192.0.2.111, username: admin, password_file: bmc}\n"
        "notifications:\n  bus: {url: 'amqp://nova:hunter2@192.0.2.1:5672//'}\n"
        "hosts:\n  compute-1: {address: 192.0.2.11}\n",
        encoding="utf-8",
    )
    return file


def test_config_check_looks_at_the_certificate_and_the_cloud_too(tmp_path: Path) -> None:
    done = cli("config", "check", config(tmp_path))
    assert done.returncode == 2
    assert "pki.directory: " in done.stderr
    assert "cloud: mycloud cannot be used" in done.stderr


def test_config_check_prints_the_bounds(tmp_path: Path) -> None:
    done = cli("config", "check", config(tmp_path), "--no-files")
    assert done.returncode == 0, done.stderr
    assert "silence to alarm: at most" in done.stdout
    assert "does nothing else): at most" in done.stdout
    assert "fencing level 1 works: at most" in done.stdout
    machine = json.loads(cli("config", "check", tmp_path / "controller.yaml", "--json", "--no-files").stdout)
    assert machine["ok"] is True
    assert 0 < machine["silence_to_alarm_s"] < machine["silence_to_evidence_s"][0] < machine["silence_to_hung_s"]


def test_config_check_names_every_problem_at_once(tmp_path: Path) -> None:
    file = config(tmp_path, "version: 1\nclod: x\nstore: {lease_s: -1}\nhosts: {compute-1: {}}\n")
    done = cli("config", "check", file)
    assert done.returncode == 2
    for field in ("cloud", "store.lease_s", "hosts.compute-1.address"):
        assert field in done.stderr
    problems = json.loads(cli("config", "check", file, "--json").stdout)["problems"]
    assert len(problems) >= 3
    assert all(each["field"] and each["fix"] for each in problems)


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_config_show_holds_no_secret(tmp_path: Path, option: tuple[str, ...]) -> None:
    done = cli("config", "show", config(tmp_path), *option)
    assert done.returncode == 0, done.stderr
    assert "hunter2" not in done.stdout
    assert "geheim" not in done.stdout
    assert "192.0.2.11" in done.stdout


def test_pki_makes_what_a_remote_needs(tmp_path: Path) -> None:
    assert cli("pki", "init", "-d", tmp_path).returncode == 0
    assert cli("pki", "issue", "host", "compute-1", "-d", tmp_path).returncode == 0
    shown = json.loads(cli("pki", "show", tmp_path / "host" / "compute-1", "--json").stdout)
    assert (shown["role"], shown["name"]) == ("host", "compute-1")
    again = cli("pki", "issue", "host", "compute-1", "-d", tmp_path)
    assert again.returncode == 2
    assert "not overwritten" in again.stderr


def remote_yaml(directory: Path, port: int, name: str = "compute-1") -> Path:
    file = directory / "remote.yaml"
    file.write_text(
        f"version: 1\nname: {name}\nlisten: '127.0.0.1:{port}'\npki: {{directory: host/compute-1}}\nsocket: remote.sock\n"
        f"state_directory: state\nhealth: {{file: health.json}}\nuser: {pwd.getpwuid(os.geteuid()).pw_name}\n",
        encoding="utf-8",
    )
    return file


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_remote_lives_and_ends(tmp_path: Path) -> None:
    """READY to systemd, status and gate on its socket, and a clean end by SIGTERM."""
    cli("pki", "init", "-d", tmp_path)
    cli("pki", "issue", "host", "compute-1", "-d", tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        remote = subprocess.Popen(
            [sys.executable, "-m", "ha_agent", "remote", "--config", str(remote_yaml(tmp_path, free_port()))],
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert "READY=1" in systemd.recv(4096).decode()
            seen = ""
            while "WATCHDOG=1" not in seen or "STATUS=compute-1" not in seen:
                seen += systemd.recv(4096).decode() + "\n"
            control = tmp_path / "remote.sock"
            told = json.loads(cli("remote", "status", "--socket", control, "--json").stdout)
            assert (told["name"], told["gate_open"]) == ("compute-1", False)
            opened = cli("remote", "gate", "--override", "--reason", "a test", "--socket", control)
            assert opened.returncode == 0, opened.stderr
            passed = cli("remote", "gate", "--socket", control)
            assert passed.returncode == 0
            assert "open" in passed.stdout
            assert "a test" in (tmp_path / "state" / "gate-audit.jsonl").read_text(encoding="utf-8")
            remote.send_signal(signal.SIGTERM)
            assert remote.wait(10) == 0
            assert not control.exists()
        finally:
            remote.kill()
            remote.communicate()


def test_a_remote_with_anothers_certificate_does_not_start(tmp_path: Path) -> None:
    cli("pki", "init", "-d", tmp_path)
    cli("pki", "issue", "host", "compute-1", "-d", tmp_path)
    started = time.monotonic()
    done = process("remote", "--config", remote_yaml(tmp_path, free_port(), name="compute-2"))
    assert done.returncode == 2
    assert "the certificate is of compute-1" in done.stderr
    assert "listens" not in done.stderr
    assert time.monotonic() - started < 20


def test_simulate_prints_json_lines() -> None:
    done = cli("simulate", "--seeds", "1", "--first-seed", "1", "--days", "0.005", "--json")
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, summary["seeds"], summary["violations"]) == (0, 1, [])
