"""The units are what systemd understands, hardened, and start what is there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.debian import need

SYSTEMD = Path(__file__).parents[2] / "systemd"
CONTROLLER = SYSTEMD / "ha-agent-controller.service"
REMOTE = SYSTEMD / "ha-agent-remote.service"
GATE = SYSTEMD / "nova-compute.service.d" / "ha-agent-gate.conf"
PROGRAM = "/opt/ha-agent/bin/ha-agent"


def settings(path: Path) -> dict[str, list[str]]:
    """Key -> values of a unit file, all sections together."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            found.setdefault(key, []).append(value)
    return found


def standing(tmp_path: Path) -> Path:
    """The units with paths that exist on this machine, as `systemd-analyze verify` wants to see every program; and a nova-compute
    for the drop-in."""
    for source in (CONTROLLER, REMOTE, GATE):
        target = tmp_path / source.relative_to(SYSTEMD)
        target.parent.mkdir(exist_ok=True)
        target.write_text(source.read_text(encoding="utf-8").replace(PROGRAM, "/bin/true"), encoding="utf-8")
    (tmp_path / "nova-compute.service").write_text("[Service]\nExecStart=/bin/true\n", encoding="utf-8")
    return tmp_path


def analyze(*arguments: str | Path, units: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", **({"SYSTEMD_UNIT_PATH": f"{units}:"} if units else {})},
    )


@pytest.mark.root
@pytest.mark.parametrize("unit", ["ha-agent-controller.service", "ha-agent-remote.service", "nova-compute.service"])
def test_systemd_accepts_every_line(tmp_path: Path, unit: str) -> None:
    need("systemd")
    units = standing(tmp_path)
    done = analyze("verify", "--man=no", "--recursive-errors=yes", units / unit, units=units)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.root
@pytest.mark.parametrize("name", ["ha-agent-controller.service", "nova-compute.service.d/ha-agent-gate.conf"])
def test_a_misspelt_key_would_be_seen(tmp_path: Path, name: str) -> None:
    need("systemd")
    units = standing(tmp_path)
    file = units / name
    file.write_text(file.read_text(encoding="utf-8") + "\n[Service]\nNoNewPrivilegs=yes\n", encoding="utf-8")
    unit = units / name.partition(".d/")[0]
    assert "NoNewPrivilegs" in analyze("verify", "--man=no", "--recursive-errors=yes", unit, units=units).stderr


@pytest.mark.root
@pytest.mark.parametrize(("unit", "exposure"), [(CONTROLLER, 2.0), (REMOTE, 2.0)])
def test_units_are_hardened(unit: Path, exposure: float) -> None:
    """systemd's own measure, 0 (safe) to 10."""
    need("systemd")
    done = analyze("security", "--no-pager", "--offline=true", f"--threshold={exposure * 10:.0f}", unit)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= exposure
    assert done.returncode == 0


@pytest.mark.root
@pytest.mark.parametrize("unit", [CONTROLLER, REMOTE])
def test_what_is_not_hardened_has_its_reason_in_the_unit(unit: Path) -> None:
    """And no reason is left behind for what is hardened meanwhile."""
    need("systemd")
    rows = json.loads(analyze("security", "--no-pager", "--offline=true", "--json=short", unit).stdout)
    counted = {short(row["name"]) for row in rows if row["set"] is False and row["exposure"]}
    comment = unit.read_text(encoding="utf-8").partition("still counts")[2].partition("[Install]")[0]
    given = {
        name for names in re.findall(r"^#   (\S+(?:, \S+)*)  +\S", comment, re.MULTILINE) for name in names.split(", ")
    }
    assert counted == given - {"AF_INET6"}  # AF_INET and AF_INET6 are counted as one


def short(name: str) -> str:
    """What systemd-analyze calls a point, in the word that the units use: "SystemCallFilter=~@resources" is "@resources"."""
    key, _, member = name.partition("=~")
    return member.replace("AF_(INET|INET6)", "AF_INET") or key.partition("=")[0]


@pytest.mark.parametrize("unit", [CONTROLLER, REMOTE])
def test_daemons_tell_systemd_and_are_not_root(unit: Path) -> None:
    found = settings(unit)
    assert found["Type"] == ["notify"]
    assert found["User"] == ["ha-agent"]
    assert float(found["WatchdogSec"][0]) > 0
    assert found["Restart"] == ["always"]
    assert found["StartLimitIntervalSec"] == ["0"]  # a crash loop never ends in "failed for good"


def test_only_one_line_runs_as_root() -> None:
    """It writes the machine's id for the remote; a machine without DMI starts nevertheless."""
    assert [v for unit in (CONTROLLER, REMOTE) for v in settings(unit).get("ExecStartPre", []) if "+" in v[:3]] == [
        "+-/usr/bin/install -m 0444 /sys/class/dmi/id/product_uuid /run/ha-agent/machine"
    ]


def test_no_time_out_opens_the_gate() -> None:
    found = settings(GATE)
    assert found["TimeoutStartSec"] == ["infinity"]
    assert found["ExecStartPre"] == [f"+{PROGRAM} remote gate"]  # no "-": a refusal keeps nova-compute down


def test_the_kernel_still_tells_who_we_are() -> None:
    """PrivateUsers hides who gives an order, ProcSubset=pid the boot id."""
    for unit in (CONTROLLER, REMOTE):
        assert "PrivateUsers" not in settings(unit)
        assert "ProcSubset" not in settings(unit)


def test_state_and_sockets_are_where_the_daemons_look() -> None:
    for unit in (CONTROLLER, REMOTE):
        found = settings(unit)
        assert found["StateDirectory"] == found["RuntimeDirectory"] == found["ConfigurationDirectory"] == ["ha-agent"]
        assert found["RuntimeDirectoryPreserve"] == ["yes"]  # both daemons may share one machine


def test_secrets_are_credentials() -> None:
    """Their directory is there before anybody has put something into it: without it systemd starts nothing."""
    assert settings(CONTROLLER)["LoadCredential"] == ["secrets:/etc/ha-agent/secrets"]
    tmpfiles = (SYSTEMD / "tmpfiles.d" / "ha-agent.conf").read_text(encoding="utf-8").splitlines()
    assert "d /etc/ha-agent/secrets 0700 root root -" in tmpfiles


def test_the_controller_ends_its_workers_itself() -> None:
    """A signal to a worker in the middle of an off could look like an attempt that failed, and the next level would be tried."""
    assert settings(CONTROLLER)["KillMode"] == ["mixed"]


def test_fencing_workers_may_give_up_core_files() -> None:
    assert not any("@resources" in value for value in settings(CONTROLLER)["SystemCallFilter"])
