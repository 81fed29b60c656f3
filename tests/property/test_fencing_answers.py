"""Whatever a fence agent or a Redfish BMC sends: "off" is read only where it says exactly that, and no other error comes out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import requests
from hypothesis import given
from hypothesis import strategies as st

from ha_agent.errors import DriverError, Unanswered
from ha_agent.fencing.fence_agent import FenceAgent, power_of
from ha_agent.fencing.redfish import RedfishDevice
from ha_agent.fencing.redfish_http import Transport
from ha_agent.fencing.secret import scrubbed
from ha_agent.fencing.topology import Device
from ha_agent.fencing.window import Window
from ha_agent.model import Power
from ha_agent.programs.run import Ran
from tests.property.mutations import broken


class Still:
    def now(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError


logging.getLogger("sushy").setLevel(logging.CRITICAL)  # it tells each broken document in full
WINDOW = Window(Still(), 1, 1, "x")
WORDS = st.sampled_from(
    [b"Status:", b"status:", b"OFF", b"ON", b"off", b" ", b"\n", b"\r\n", b"\t", b"\x00", b"x", b"Success: "]
)
OUTPUT = st.one_of(st.binary(max_size=200), st.lists(WORDS, max_size=12).map(b"".join))


@given(st.integers(-64, 255), OUTPUT, OUTPUT)
def test_a_fence_agent_s_answer(code: int, out: bytes, err: bytes) -> None:
    ran = Ran(code, out, err)
    power = power_of(ran)
    lines = [line.strip(b" \t\r").lower() for line in out.split(b"\n")]
    status = {
        line.split(b":", 1)[1].strip(b" \t")
        for line in lines
        if line.split(b":", 1)[0].strip(b" \t") == b"status" and b":" in line
    }
    assert (power is Power.OFF) == (code == 2 and status == {b"off"})
    assert (power is Power.ON) == (code == 0 and status == {b"on"})


@given(st.text(min_size=3, max_size=20).map(str.encode), OUTPUT, st.data())
def test_a_fence_agent_s_complaint_never_holds_the_password(password: bytes, noise: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(noise)))
    ran = Ran(1, b"", noise[:at] + password + noise[at:])
    agent = FenceAgent(Device(name="x", driver="fence_agent", agent="fence_x"), "/x", password, WINDOW)
    assert password.decode() not in scrubbed(ran.err.decode(errors="replace"), password)
    said = agent._said(ran)
    assert said.isprintable()
    assert len(said) < 300


SYSTEM = {
    "@odata.id": "/redfish/v1/Systems/1",
    "Id": "1",
    "UUID": "5f0c3a52-0c07-4ec5-9d0a-0d5b0f6e9a01",
    "SerialNumber": "S",
    "PowerState": "Off",
    "Boot": {"BootSourceOverrideTarget": "Pxe"},
    "Actions": {
        "#ComputerSystem.Reset": {"target": "/redfish/v1/reset", "ResetType@Redfish.AllowableValues": ["ForceOff"]}
    },
}
ROOT = {
    "Id": "RootService",
    "RedfishVersion": "1.6.0",
    "Systems": {"@odata.id": "/redfish/v1/Systems"},
    "Links": {"Sessions": {"@odata.id": "/redfish/v1/SessionService/Sessions"}},
}
COLLECTION = {"Members": [{"@odata.id": "/redfish/v1/Systems/1"}]}


class Canned(Transport):
    """Answers instead of a BMC. `bodies`: path -> what is sent."""

    def __init__(self, bodies: dict[str, bytes], status: int = 200) -> None:
        super().__init__("https://bmc:443", WINDOW, "bmc:443")
        self._bodies = bodies
        self._status = status

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = self._status
        response.request = request
        response.url = request.url or ""
        path = (request.path_url or "").rstrip("/")
        response._content = self._bodies.get(path, b"{}")
        if request.method == "POST":
            response.headers["X-Auth-Token"] = "t"
            response.headers["Location"] = "/redfish/v1/SessionService/Sessions/1"
        return response


def device(bodies: dict[str, bytes], plug: str, status: int = 200) -> RedfishDevice:
    return RedfishDevice(
        Device(name="bmc", driver="redfish", address="bmc", port=443, username="u", plug=plug),
        b"s3cret",
        Canned(bodies, status),
    )


GOOD = {
    "/redfish/v1": json.dumps(ROOT).encode(),
    "/redfish/v1/Systems": json.dumps(COLLECTION).encode(),
    "/redfish/v1/Systems/1": json.dumps(SYSTEM).encode(),
}


def asked(ask: Callable[[], object]) -> tuple[object, str]:
    """The answer, or what the documented error says; any other error is a failure."""
    try:
        return ask(), ""
    except (DriverError, Unanswered) as error:
        return None, str(error)


def test_the_good_ones_are_read() -> None:
    assert device(GOOD, "").read() is Power.OFF
    assert device(GOOD, "1").machine() == SYSTEM["UUID"]


@given(broken((GOOD["/redfish/v1/Systems/1"],), depth=30_000))
def test_a_broken_system(body: bytes) -> None:
    bmc = device({**GOOD, "/redfish/v1/Systems/1": body}, "1")
    for ask in (bmc.machine, bmc.read):
        answer, error = asked(ask)
        assert len(error) < 400
        if answer in (Power.OFF, Power.ON):
            assert json.loads(body.decode(errors="replace"))["PowerState"].lower() == answer


@given(
    st.sampled_from(["/redfish/v1", "/redfish/v1/Systems"]).flatmap(
        lambda path: st.tuples(st.just(path), broken((GOOD[path],)))
    ),
    st.sampled_from([200, 200, 204, 301, 400, 401, 404, 500]),
)
def test_a_broken_way_to_the_system(where: tuple[str, bytes], status: int) -> None:
    path, body = where
    bmc = device({**GOOD, path: body}, "", status)
    for ask in (bmc.read, bmc.machine, bmc.off):
        _, error = asked(ask)
        assert "s3cret" not in error
