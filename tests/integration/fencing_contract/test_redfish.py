"""Redfish in depth: certificates, sessions, systems, and that a change leaves at most once."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ha_agent.errors import DriverError, OutOfTime, Unanswered
from ha_agent.fencing.redfish import RedfishDevice
from ha_agent.fencing.topology import Device
from ha_agent.fencing.window import Window
from ha_agent.model import Power
from tests.integration.fencing_contract.bad import Bad
from tests.integration.fencing_contract.machine import Machine
from tests.integration.fencing_contract.redfish_bmc import PASSWORD, USER, RedfishBmc, certificate


class Watch:
    """A clock that the test moves on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return time.monotonic() + self.ahead

    def wall(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture
def bmc(tmp_path: Path) -> Iterator[RedfishBmc]:
    with RedfishBmc(tmp_path, Machine(Bad.NOTHING)) as bmc:
        yield bmc


def connect(
    bmc: RedfishBmc,
    directory: Path,
    clock: Watch | None = None,
    *,
    seconds: float = 5.0,
    plug: str = "",
    **options: str,
) -> RedfishDevice:
    (directory / "password").write_text(PASSWORD)
    device = Device(
        name="bmc",
        driver="redfish",
        address="127.0.0.1",
        port=bmc.port,
        username=USER,
        password_file=str(directory / "password"),
        plug=plug,
        options={"ca_file": str(bmc.ca_file)} | options,
    )
    clock = clock or Watch()
    end = clock.now() + seconds
    return RedfishDevice.of(device, Window(clock, end, end, device.where))


def said(device: RedfishDevice) -> str:
    with pytest.raises((DriverError, Unanswered)) as caught:
        device.read()
    device.close()
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


def test_off_and_on_by_a_session_that_is_closed_again(bmc: RedfishBmc, tmp_path: Path) -> None:
    device = connect(bmc, tmp_path)
    assert device.machine() == bmc.guid
    assert device.read() is Power.ON
    device.off()
    assert device.read() is Power.OFF
    assert len(bmc.tokens) == 1
    device.close()
    assert not bmc.tokens
    again = connect(bmc, tmp_path)
    again.on()
    assert again.read() is Power.ON
    again.close()
    assert sum(line.startswith("POST") and "Reset" in line for line in bmc.requests) == 2


def test_a_session_whose_place_names_another_host_is_closed_all_the_same(bmc: RedfishBmc, tmp_path: Path) -> None:
    bmc.location = "https://idrac-of-the-factory.example.org"
    device = connect(bmc, tmp_path)
    device.read()
    device.close()
    assert not bmc.tokens


def test_basic_auth_where_there_are_no_sessions(tmp_path: Path) -> None:
    with RedfishBmc(tmp_path, Machine(Bad.NOTHING), sessions=False) as bmc:
        assert "auth: basic" in said(connect(bmc, tmp_path))
        device = connect(bmc, tmp_path, auth="basic")
        device.off()
        assert device.read() is Power.OFF
        device.close()


def test_the_system_is_chosen_or_the_only_one(tmp_path: Path) -> None:
    with RedfishBmc(tmp_path, Machine(Bad.NOTHING), systems=3) as bmc:
        assert "has 3 systems (1, 2, 3)" in said(connect(bmc, tmp_path))
        assert "no such system" in said(connect(bmc, tmp_path, plug="9"))
        for plug in ("1", "/redfish/v1/Systems/1"):
            device = connect(bmc, tmp_path, plug=plug)
            assert device.machine() == bmc.guid
            device.close()
        other = connect(bmc, tmp_path, plug="2")
        assert other.machine() != bmc.guid
        other.close()


def test_the_certificate_is_verified(bmc: RedfishBmc, tmp_path: Path) -> None:
    assert "nobody we trust signed it" in said(connect(bmc, tmp_path, ca_file=""))
    with pytest.raises(DriverError, match="cannot be read"):
        connect(bmc, tmp_path, ca_file="/none")
    assert not bmc.requests, "something was sent before the certificate was known"
    device = connect(bmc, tmp_path, ca_file="", insecure="true")
    assert device.read() is Power.ON
    device.close()


@pytest.mark.parametrize(
    ("days", "name", "words"), [(-1, "127.0.0.1", "has expired"), (1, "127.0.0.2", "another address")]
)
def test_a_certificate_that_does_not_hold(tmp_path: Path, days: float, name: str, words: str) -> None:
    with RedfishBmc(tmp_path, Machine(Bad.NOTHING), days=days) as bmc:
        if name != "127.0.0.1":
            files = certificate(tmp_path, name=name)
            bmc._tls.load_cert_chain(*files)
        assert words in said(connect(bmc, tmp_path))


def test_a_change_leaves_once_whatever_the_library_does(bmc: RedfishBmc, tmp_path: Path) -> None:
    """sushy sends what was not answered up to three times."""
    device = connect(bmc, tmp_path, seconds=15)
    device.machine()
    bmc.machine.bad = Bad.STAYS_ON
    bmc.reset_status = 0
    with pytest.raises(Unanswered):
        device.off()
    assert bmc.machine.offs == 1
    assert device.read() is Power.ON
    device.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, DriverError), (403, DriverError), (409, DriverError), (500, Unanswered), (503, Unanswered)],
)
def test_a_refusal_is_certain_and_trouble_is_not(
    bmc: RedfishBmc, tmp_path: Path, status: int, error: type[Exception]
) -> None:
    device = connect(bmc, tmp_path)
    bmc.reset_status = status
    with pytest.raises(error):
        device.off()
    device.close()
    assert sum("Reset" in line for line in bmc.requests) == 1
    assert bmc.machine.on


def test_a_session_that_ended_before_the_off_means_that_it_was_not_done(bmc: RedfishBmc, tmp_path: Path) -> None:
    device = connect(bmc, tmp_path)
    device.machine()
    bmc.tokens.clear()
    with pytest.raises(DriverError, match="its session ended"):
        device.off()
    assert bmc.machine.offs == 0


def test_nothing_is_sent_late(bmc: RedfishBmc, tmp_path: Path) -> None:
    """As after a pause between two steps of an attempt."""
    watch = Watch()
    device = connect(bmc, tmp_path, watch)
    device.machine()
    before = len(bmc.requests)
    watch.ahead = 60.0
    for late in (device.off, device.on, device.read):
        with pytest.raises(OutOfTime):
            late()
    device.close()
    assert len(bmc.requests) == before
    assert bmc.machine.offs == 0


def test_a_pause_between_the_connection_and_the_sending(
    bmc: RedfishBmc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is looked at again when the connection stands, which can take seconds."""
    watch = Watch()
    device = connect(bmc, tmp_path, watch)
    device.machine()
    from urllib3.util import connection

    def slow(*args: Any, **kwargs: Any) -> socket.socket:
        made: socket.socket = real_connect(*args, **kwargs)
        watch.ahead = 60.0
        return made

    real_connect: Any = connection.create_connection
    monkeypatch.setattr(connection, "create_connection", slow)
    with pytest.raises(OutOfTime):
        device.off()
    assert bmc.machine.offs == 0


def test_force_on_where_on_is_not_offered(bmc: RedfishBmc, tmp_path: Path) -> None:
    bmc.machine.off()
    bmc.overrides["Actions"] = {
        "#ComputerSystem.Reset": {
            "target": "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset",
            "ResetType@Redfish.AllowableValues": ["ForceOff", "ForceOn"],
        }
    }
    device = connect(bmc, tmp_path)
    device.on()
    assert device.read() is Power.ON
    device.close()


def test_refused_off_where_it_is_not_offered(bmc: RedfishBmc, tmp_path: Path) -> None:
    bmc.overrides["Actions"] = {
        "#ComputerSystem.Reset": {"target": "/x", "ResetType@Redfish.AllowableValues": ["On", "GracefulShutdown"]}
    }
    device = connect(bmc, tmp_path)
    with pytest.raises(DriverError, match="does not offer ForceOff, only GracefulShutdown, On"):
        device.off()
    device.close()


@pytest.mark.parametrize(
    "state", ["PoweringOff", "PoweringOn", "Paused", "off", "OFF", " Off", "", None, 0, False, ["Off"], {"a": "Off"}]
)
def test_what_is_not_exactly_off_is_not_off(bmc: RedfishBmc, tmp_path: Path, state: object) -> None:
    bmc.overrides["PowerState"] = state
    assert "neither on nor off" in said(connect(bmc, tmp_path))


@pytest.mark.parametrize(
    ("fields", "machine"),
    [
        ({"UUID": "5F0C3A52-0C07-4EC5-9D0A-0D5B0F6E9A01"}, "5f0c3a52-0c07-4ec5-9d0a-0d5b0f6e9a01"),
        ({"UUID": None}, "serial:SN-0001"),
        ({"UUID": "00000000-0000-0000-0000-000000000000"}, "serial:SN-0001"),
        ({"UUID": "unset", "SerialNumber": " N/A "}, ""),
        ({"UUID": 7, "SerialNumber": 7}, ""),
    ],
)
def test_which_machine_it_is(bmc: RedfishBmc, tmp_path: Path, fields: dict[str, object], machine: str) -> None:
    bmc.overrides |= fields
    device = connect(bmc, tmp_path)
    assert device.machine() == machine
    device.close()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"Off"', b"x" * 5_000_000, b"<html>Off</html>", b'{"PowerState": "Off"']
)
def test_a_body_that_is_none(bmc: RedfishBmc, tmp_path: Path, body: bytes) -> None:
    bmc.body = body
    assert len(said(connect(bmc, tmp_path))) < 400


def test_an_answer_in_drops_ends_with_the_window(tmp_path: Path) -> None:
    """A server that sends a byte now and then keeps every time-out of the library from ending it."""
    cert, key = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def drip() -> None:
        plain, _ = listener.accept()
        with tls.wrap_socket(plain, server_side=True) as client:
            client.recv(4096)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
            while not done.wait(0.2):
                try:
                    client.sendall(b" ")
                except OSError:
                    return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    (tmp_path / "password").write_text(PASSWORD)
    device = Device(
        name="bmc",
        driver="redfish",
        address="127.0.0.1",
        port=listener.getsockname()[1],
        username=USER,
        password_file=str(tmp_path / "password"),
        options={"ca_file": str(cert)},
    )
    started = time.monotonic()
    connection = RedfishDevice.of(device, Window(Watch(), time.monotonic() + 1.0, time.monotonic() + 1.0, device.where))
    with pytest.raises((DriverError, Unanswered)):
        connection.read()
    assert time.monotonic() - started < 4.0
    done.set()
    thread.join(5)
    listener.close()
