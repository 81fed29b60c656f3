"""The command line and a controller: the real API on a real unix socket, the CLI in processes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ha_agent.api.facade import DeviceHealth, FencingLevel, FencingPlan, LeaderInfo
from ha_agent.cli import fencing_tests
from ha_agent.cli.fencings import told
from ha_agent.model import Mode, Order, Phase
from tests.unit.cli_support import INCIDENT, OPENED, Controller, cli, incident, process, served


@pytest.fixture
def controller() -> Controller:
    return Controller(incident())


@pytest.fixture
def sock(controller: Controller, tmp_path: Path) -> Iterator[Path]:
    with served(controller, tmp_path) as path:
        yield path


def test_status_is_plain_without_a_terminal(sock: Path) -> None:
    done = cli("status", socket=sock)
    assert done.returncode == 0, done.stderr
    assert "controller-1 leads (epoch 3" in done.stdout
    assert "armed by ann" in done.stdout
    for host in ("compute-1", "compute-2", "compute-3"):
        assert host in done.stdout
    assert "ha-agent confirm-fenced compute-2" in done.stdout
    assert "\x1b" not in done.stdout
    assert not set("─│┃━┏╭") & set(done.stdout)


def test_health_says_who_leads_and_fails_where_the_loop_stands_still(
    sock: Path, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cli("health", socket=sock)
    assert (done.returncode, done.stdout) == (0, "alive: leads (epoch 3)\n")
    # the facade is a fake already: two of its answers change
    monkeypatch.setattr(controller, "leader", lambda: LeaderInfo(name="controller-2", epoch=4))
    assert cli("health", socket=sock).stdout == "alive: standby: controller-2 leads\n"
    monkeypatch.setattr(controller, "alive", lambda: False)
    done = cli("health", socket=sock)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the loop makes no progress" in done.stderr


def test_a_large_cloud_is_counted_and_only_trouble_named(tmp_path: Path) -> None:
    with served(Controller(incident(), hosts=200), tmp_path) as path:
        short, whole = cli("status", socket=path), cli("status", "--all", socket=path)
    assert "199 alive" in short.stdout
    assert "compute-150" not in short.stdout
    assert "compute-2" in short.stdout
    assert "compute-150" in whole.stdout


def test_status_as_json(sock: Path) -> None:
    found = json.loads(cli("status", "--json", socket=sock).stdout)
    assert found["status"]["armed"] is True
    assert [row["view"]["host"] for row in found["hosts"]] == ["compute-1", "compute-2", "compute-3"]


def test_explain_tells_the_story(sock: Path) -> None:
    done = cli("explain", "compute-2", socket=sock)
    assert done.returncode == 0, done.stderr
    told = [
        "compute-2 is down",
        "it was believed down, because: silent for 10.0 s, and 2 of 2 witnesses do not reach it",
        "+3.5 s  [fence] fencing failed",
        "no evidence that it is off",
        "it has no tag automatic-recovery",
        "BLOCKED: fencing failed: bmc does not answer",
        "It is released by: ha-agent confirm-fenced compute-2",
        "It waits: again in 5 s",
        "ha-agent maintenance on compute-2",
    ]
    at = [done.stdout.find(text) for text in told]
    assert -1 not in at, done.stdout
    assert at == sorted(at)  # in the order of a story
    assert "\x1b" not in done.stdout  # the name of a server is its owner's choice


def test_explain_as_json(sock: Path) -> None:
    found = json.loads(cli("explain", "compute-2", "--json", socket=sock).stdout)
    assert found["incidents"][0]["id"] == INCIDENT
    assert found["incidents"][0]["opened_wall"] == OPENED


def test_a_calm_host_has_a_story_too(sock: Path) -> None:
    done = cli("explain", "compute-1", socket=sock)
    assert done.returncode == 0
    assert "compute-1 is alive" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "compute-22"),
        ("evacuate", "compute-22", "--dry-run"),
        ("fence", "compute-22"),
        ("confirm-fenced", "compute-22", "--yes"),
        ("maintenance", "on", "compute-22"),
        ("release", "compute-22"),
        ("ack", "compute-22"),
    ],
)
def test_an_unknown_host_names_the_nearest(sock: Path, controller: Controller, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments, socket=sock)
    assert done.returncode == 2
    assert "'compute-22' is not in the inventory" in done.stderr
    assert "did you mean compute-2" in done.stderr
    assert controller.orders == []


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "compute-2?x", "compute-2\n", "\udcff", "%2e%2e"])
def test_names_that_cannot_be_are_bad_input(sock: Path, controller: Controller, name: str) -> None:
    for command in ("explain", "ack"):
        done = cli(command, "--", name, socket=sock)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "Traceback" not in done.stderr
    assert controller.orders == []


def test_the_socket_is_found_by_the_environment(sock: Path) -> None:
    done = process("status", socket=sock)
    assert (done.returncode, done.stderr) == (0, "")
    assert "compute-3" in done.stdout


def test_incidents(sock: Path, controller: Controller) -> None:
    assert INCIDENT in cli("incidents", socket=sock).stdout
    controller.incidents = {INCIDENT: incident(phase=Phase.CLOSED, closed_wall=OPENED + 60)}
    assert cli("incidents", "--open", socket=sock).stdout.strip() == "no incidents"
    assert json.loads(cli("incidents", "--json", socket=sock).stdout)[0]["phase"] == "closed"


def test_a_dry_run_says_what_stays_and_why(sock: Path, controller: Controller) -> None:
    done = cli("evacuate", "compute-1", "--dry-run", socket=sock)
    assert "1 of 2 servers would be moved" in done.stdout
    assert "no tag" in done.stdout
    assert controller.orders == []


@pytest.mark.parametrize(
    ("arguments", "order", "host", "reason"),
    [
        (("arm",), Order.ARM, "", ""),
        (("disarm", "--reason", "storage work"), Order.DISARM, "", "storage work"),
        (("pause", "--reason", "storage work"), Order.PAUSE, "", "storage work"),
        (("unpause",), Order.UNPAUSE, "", ""),
        (("maintenance", "on", "compute-1", "--reason", "RAM"), Order.MAINTENANCE_ON, "compute-1", "RAM"),
        (("maintenance", "off", "compute-1"), Order.MAINTENANCE_OFF, "compute-1", ""),
        (("fence", "compute-1", "--reason", "smoke"), Order.FENCE, "compute-1", "smoke"),
        (("release", "compute-2"), Order.RELEASE, "compute-2", ""),
        (("ack", "compute-2"), Order.ACK, "compute-2", ""),
        (("report", "compute-2", "--reason", "no ping"), Order.REPORT, "compute-2", "no ping"),
    ],
)
def test_orders(
    sock: Path, controller: Controller, arguments: tuple[str, ...], order: Order, host: str, reason: str
) -> None:
    done = cli(*arguments, socket=sock)
    assert (done.returncode, done.stdout.strip()) == (0, f"{order} is done"), done.stderr
    assert [(each.order, each.host, each.reason) for each in controller.orders] == [(order, host, reason)]
    assert controller.orders[0].actor  # the kernel says who we are


def test_a_confirmation_is_bound_to_the_open_incident(sock: Path, controller: Controller) -> None:
    done = cli("confirm-fenced", "compute-2", "--yes", socket=sock)
    assert done.returncode == 0, done.stderr
    assert [(each.order, each.incident) for each in controller.orders] == [(Order.CONFIRM_FENCED, INCIDENT)]


def test_a_confirmation_is_never_assumed(sock: Path, controller: Controller) -> None:
    """No terminal and no --yes: somebody has to say it."""
    done = cli("confirm-fenced", "compute-2", socket=sock)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert INCIDENT in done.stderr
    assert controller.orders == []


@pytest.mark.parametrize("arguments", [("compute-2", "--incident", "another"), ("compute-1",)])
def test_a_confirmation_of_another_incident_is_refused(
    sock: Path, controller: Controller, arguments: tuple[str, ...]
) -> None:
    done = cli("confirm-fenced", *arguments, "--yes", socket=sock)
    assert done.returncode == 2
    assert controller.orders == []


def strange(path: Path, answer: bytes) -> socket.socket:
    """Something that listens, answers each connection with these bytes, and closes it."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(8)

    def run() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    threading.Thread(target=run, daemon=True).start()
    return server


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot json!",
        b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}',
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{",
        b"HTTP/1.1 503 Oh\r\nContent-Length: 2\r\n\r\n[]",
    ],
)  # fmt: skip
def test_what_is_no_controller_is_one_sentence(tmp_path: Path, answer: bytes) -> None:
    server = strange(tmp_path / "odd.sock", answer)
    try:
        for arguments in (("status",), ("arm",)):
            done = cli(*arguments, socket=tmp_path / "odd.sock")
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith("ha-agent: ")
            assert "Traceback" not in done.stderr
    finally:
        server.close()


def test_an_order_whose_answer_is_lost_may_have_been_carried_out(tmp_path: Path) -> None:
    server = strange(tmp_path / "odd.sock", b"")
    try:
        done = cli("arm", socket=tmp_path / "odd.sock")
    finally:
        server.close()
    assert done.returncode == 1
    assert "may have been carried out" in done.stderr


# --- fencing, looked at before it is needed ---


def test_devices_that_answer_are_listed(sock: Path) -> None:
    done = cli("fencing", "check", "compute-1", socket=sock)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4c4c" in done.stdout
    assert "1 device of 1 host read, 0 failed" in done.stdout


def test_one_that_does_not_answer_is_named_and_ends_with_one(sock: Path) -> None:
    done = cli("fencing", "check", socket=sock)
    assert done.returncode == 1
    assert "wrong password" in done.stdout
    assert "4 devices of 3 hosts read, 1 failed" in done.stdout
    looks = json.loads(cli("fencing", "check", "--json", socket=sock).stdout)
    assert [(look["host"], look["error"]) for look in looks if look["error"]] == [("compute-2", "wrong password")]


def test_fencing_is_tested_and_each_line_told_once(sock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fencing_tests, "POLL_S", 0.0)  # the command asks in real time: nothing is waited for here
    done = cli("fencing", "test", "compute-1", "--yes", socket=sock)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, header, row, last = done.stdout.splitlines()
    assert (first, second) == ("level 1: bmc reads on", "level 1: off is sent")
    assert header.split() == ["LEVEL", "DEVICE", "DRIVER", "BEFORE", "OFF", "ON", "HEARD", "VERDICT", "WHY"]
    assert row.split() == ["1", "bmc", "on", "off", "1.2", "s", "on", "0.1", "s", "2", "min", "works"]
    assert last == "the fencing of compute-1 works"
    assert cli("fencing", "test", "compute-1", "--follow", socket=sock).returncode == 0


def test_fencing_that_fails_its_test_ends_with_one(sock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fencing_tests, "POLL_S", 0.0)  # the command asks in real time: nothing is waited for here
    done = cli("fencing", "test", "compute-2", "-y", "--level", "1", "--with-servers", socket=sock)
    assert done.returncode == 1
    assert "bmc reads on" in done.stdout
    assert "the fencing of compute-2 FAILED its test" in done.stdout
    done = cli("fencing", "test", "compute-2", "--follow", "--json", socket=sock)
    found = json.loads(done.stdout)
    assert (done.returncode, found["id"], found["passed"]) == (1, "1 True", False)


def test_no_fencing_is_tested_unless_somebody_is_sure(sock: Path) -> None:
    done = cli("fencing", "test", "compute-1", socket=sock)
    assert done.returncode == 2
    assert "nobody is there to be asked; nothing was done" in done.stderr
    assert "no fencing of compute-1 was tested" in cli("fencing", "test", "compute-1", "--follow", socket=sock).stderr
    done = cli("fencing", "test", "compute-11", "--yes", socket=sock)
    assert (done.returncode, "did you mean compute-1" in done.stderr) == (2, True)


def test_the_plan_of_a_fence_is_told(sock: Path, controller: Controller) -> None:
    done = cli("fencing", "plan", "compute-1", socket=sock)
    assert done.returncode == 0
    assert "level 1: off is sent to bmc; each must read off twice" in done.stdout
    assert "proven off within 31.5 s" in done.stdout
    assert "NOT NOW: x (release: y)" in done.stdout
    assert json.loads(cli("fencing", "plan", "compute-1", "--json", socket=sock).stdout)["alarm_s"] == 11.5
    assert controller.orders == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fence": False}, "never fenced by its policy"),
        ({"levels": ()}, "it waits for a person (ha-agent confirm-fenced h1)"),
        ({"mode": Mode.NOTIFY}, "others move its servers"),
        ({}, "its tagged servers are evacuated"),
    ],
)
def test_a_plan_in_sentences(changes: dict[str, object], says: str) -> None:
    mute = DeviceHealth(host="h1", device="bmc", level=1, driver="ipmi", error="wrong password")
    found = FencingPlan(
        host="h1",
        mode=Mode.AUTO,
        fence=True,
        alarm_s=11.5,
        attempt_s=20.0,
        levels=(FencingLevel(level=1, evidence_s=31.5, devices=(mute,)),),
    )
    text = "\n".join(told(msgspec.structs.replace(found, **changes)))
    assert says in text
    assert ("bmc: ipmi (at the last look: wrong password)" in text) is bool(
        changes.get("fence", True) and changes.get("levels", True)
    )
    assert "NOT NOW" not in text
