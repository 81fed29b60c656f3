"""The pki commands: what is typed, what is said, what is refused; and where a controller says that a certificate ends."""

from __future__ import annotations

import datetime
import json
import stat
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner

from ha_agent.api import views
from ha_agent.cli.app import app
from ha_agent.controller.daemon import Controller
from ha_agent.errors import HaAgentError
from ha_agent.heartbeat import certs
from ha_agent.heartbeat.expiry import DAY_S
from ha_agent.heartbeat.link import Endpoint
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.heartbeat.peer import peer_of
from ha_agent.heartbeat.pki import Pki
from ha_agent.metrics import Snapshot, render
from ha_agent.policy import HostPolicy, Policy
from ha_agent.store.memory import MemoryStore
from ha_agent.system import SystemClock, SystemRandom
from tests.unit.test_executor import Cloud


def pki(directory: Path, *words: object) -> str:
    """What the command says. Raises the error that it ends with."""
    done = CliRunner().invoke(app, ["pki", *map(str, words), "-d", str(directory)])
    if isinstance(done.exception, HaAgentError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_from_the_first_certificate_to_the_end_of_an_authority(tmp_path: Path) -> None:
    pki(tmp_path, "init")
    for role, name in (("controller", "c"), ("host", "h1"), ("host", "h2")):
        assert f"issued {role} {name}" in pki(tmp_path, "issue", role, name)
    assert "nothing needs to be renewed" in pki(tmp_path, "renew", "--all")
    assert "renewed host h1" in pki(tmp_path, "renew", "host", "h1")
    assert "superseded" in pki(tmp_path, "list")
    said = pki(tmp_path, "replace", "host", "h1")
    assert "revoked" in said
    assert "crl.pem" in said
    assert pki(tmp_path, "list").count("REVOKED") == 2
    assert "next authority" in pki(tmp_path, "rotate", "start")
    assert "next: ha-agent pki rotate switch" in pki(tmp_path, "list")
    assert "issues from now on" in pki(tmp_path, "rotate", "switch")
    with pytest.raises(HaAgentError, match="controller c, host h1, host h2 would be refused"):
        pki(tmp_path, "rotate", "finish")
    assert pki(tmp_path, "renew", "--all").count("renewed") == 3
    assert "old authority's key is deleted" in pki(tmp_path, "rotate", "finish")
    listed = json.loads(pki(tmp_path, "list", "--json"))
    assert listed["rotation"] == ""
    newest = [each for each in listed["certificates"] if each["newest"]]
    assert [(each["info"]["name"], each["authority"], each["revoked"]) for each in newest] == [
        ("c", "current", False),
        ("h1", "current", False),
        ("h2", "current", False),
    ]
    for key in tmp_path.rglob("*key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert key.read_text().splitlines()[1] not in pki(tmp_path, "list")


@pytest.mark.parametrize(
    "words",
    [
        ("renew",),
        ("renew", "--all", "host", "h"),
        ("renew", "king", "h"),
        ("renew", "host", "nobody"),
        ("replace", "host", "nobody"),
        ("revoke",),
        ("revoke", "host", "nobody"),
        ("revoke", "host", "h", "--certificate", "x"),
        ("revoke", "--certificate", "/nonexistent"),
        ("rotate", "switch"),
        ("rotate", "finish"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    pki(tmp_path, "init")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pem")}
    with pytest.raises(HaAgentError) as caught:
        pki(tmp_path, *words)
    assert caught.value.exit_code == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.pem")} == before


def controller(directory: Path, planes: tuple[str, ...] = ()) -> Controller:
    """One that runs nothing yet; its monitor is real."""

    def unused(*_: object) -> Any:
        return object()

    clock, random = SystemClock(), SystemRandom()
    hosts = {"h": Endpoint(address="127.0.0.1", port=1)}
    return Controller(
        name="c",
        policy=Policy(controller="c", hosts={"h": HostPolicy(name="h", planes=planes)}),
        store=MemoryStore(),
        clock=clock,
        random=random,
        cloud=Cloud(),
        monitor=lambda observe: Monitor(directory, hosts, observe, clock, random),
        fencer=unused,
        outboxes=None,
    )


@pytest.mark.parametrize(("left", "noted", "unready"), [(60, 0, 0), (20, 2, 0), (5, 0, 2)])
def test_a_controller_says_that_certificates_end(tmp_path: Path, left: float, noted: int, unready: int) -> None:
    """Its own and a host's, of one day."""
    day = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=730 - left)
    authority = Pki(tmp_path, lambda: day)
    authority.init()
    made = controller(authority.issue("controller", "c"))
    host = certs.load_certificates(authority.issue("host", "h") / "cert.pem")[0]
    made.engine.start()
    monitor = cast(Monitor, made.monitor)
    monitor._shared.peers["h"] = peer_of(host.public_bytes(serialization.Encoding.DER))
    status = views.status(made)
    assert len([text for text in status.notes if "renew" in text]) == noted
    assert len([text for text in status.ready if "renew" in text]) == unready
    shown = render(Snapshot.of(made)).decode()
    days = {
        line.split()[0]: float(line.split()[1]) / DAY_S
        for line in shown.splitlines()
        if "e_remaining" in line and line[0] != "#"
    }
    assert days["ha_agent_certificate_remaining_seconds"] == pytest.approx(left, abs=0.1)
    assert days['ha_agent_host_certificate_remaining_seconds{host="h"}'] == pytest.approx(left, abs=0.1)
    assert monitor.certificate_days()["h"] * DAY_S > 0
