"""Every decoder, on broken forms of what it knows: the documented error and no other; what is read is written and read again."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_agent.controller import journal
from ha_agent.errors import DriverError, ProtocolError, StoreCorrupt
from ha_agent.fencing import worker
from ha_agent.fencing.topology import Device
from ha_agent.fencing.workers import Worker
from ha_agent.guests.ledger import Known, Saved
from ha_agent.guests.lines import Domain, Happened, Line
from ha_agent.guests.source import LibvirtGuests, Timing
from ha_agent.heartbeat import control, courier, wire
from ha_agent.heartbeat.gate import Gate
from ha_agent.model import Power, Reading
from ha_agent.notify import objects
from ha_agent.notify import wire as bus
from ha_agent.ports import Clock, GuestEvent, Random
from ha_agent.recovery import nova_rows
from tests.property.mutations import broken, broken_value
from tests.unit.api_support import running

FIXTURES = Path(__file__).parents[1] / "fixtures"


def bodies(folder: str, pattern: str) -> tuple[bytes, ...]:
    found = tuple(path.read_bytes().strip() for path in sorted((FIXTURES / folder).glob(pattern)))
    assert found
    return found


FRAMES = bodies("frames", "[A-Z]*.json")
CONTROL = bodies("frames", "control-*.json")
NOTES = bodies("notifications", "*.json")


# --- what comes from another machine ---


@given(broken(FRAMES, depth=30_000))
def test_frames(body: bytes) -> None:
    try:
        frame = wire.decode(body)
    except ProtocolError:
        return
    assert wire.decode(wire.encode(frame)[wire.HEADER :]) == frame


@given(st.binary(max_size=6))
def test_frame_lengths(header: bytes) -> None:
    try:
        assert 0 < wire.length(header) <= wire.MAX_FRAME
    except ProtocolError:
        assert not 0 < int.from_bytes(header, "big") <= wire.MAX_FRAME


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=4))
def test_versions(theirs: list[tuple[int, int]]) -> None:
    try:
        major, minor = wire.negotiate(theirs)
    except ProtocolError:
        assert 1 not in dict(theirs)
    else:
        assert any(m == major and minor <= n for m, n in theirs)


SERVERS: dict[str, Any] = {
    "servers": [
        {
            "id": f"s{n}",
            "name": f"name {n}",
            "status": "ACTIVE",
            "image": image,
            "OS-EXT-SRV-ATTR:host": "c1",
            "OS-EXT-STS:task_state": None,
            "OS-EXT-STS:power_state": 1,
            "locked": False,
            "tenant_id": "p",
            "tags": ["a"],
            "metadata": {"k": "v"},
        }
        for n, image in enumerate(["", {"id": "i"}])
    ],
    "servers_links": [{"rel": "next", "href": "http://127.0.0.1/"}],
}
SERVICES: dict[str, Any] = {
    "services": [
        {
            "id": "u",
            "host": "c1",
            "status": "enabled",
            "state": "up",
            "forced_down": False,
            "updated_at": "2026-01-01T00:00:00.000000",
        }
    ]
}
MIGRATIONS: dict[str, Any] = {
    "migrations": [
        {
            "id": 7,
            "uuid": "u",
            "instance_uuid": "s",
            "status": "done",
            "source_compute": "c1",
            "dest_compute": "c2",
            "migration_type": "evacuation",
        }
    ]
}
LISTS = (
    ("servers", SERVERS, nova_rows.ServersAnswer),
    ("services", SERVICES, nova_rows.ServicesAnswer),
    ("migrations", MIGRATIONS, nova_rows.MigrationsAnswer),
)


@pytest.mark.parametrize(("what", "good", "kind"), LISTS, ids=[what for what, _, _ in LISTS])
def test_nova_s_lists(what: str, good: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    """Never an empty or a shorter list than Nova sent (S9)."""

    @given(broken((json.dumps(good).encode(),)))
    def read(body: bytes) -> None:
        try:
            values = [row.value() for row in getattr(nova_rows.decode(body, kind, what), what)]
        except DriverError:
            return
        assert len(values) == len(json.loads(body.decode(errors="replace"))[what])

    read()


@given(broken((b'{"badRequest": {"message": "no\\n such host", "code": 400}}',)))
def test_nova_s_faults_are_one_short_line(body: bytes) -> None:
    text = nova_rows.fault(body)
    assert len(text) <= 300
    assert "\n" not in text


ORDERS = (b'{"order": "fence", "host": "h1", "incident": "i", "reason": "why"}', b'{"order": "arm"}')


def test_orders_over_http() -> None:
    """What is no order is refused with 400 and reaches nobody; what is one arrives as it was sent."""
    with running() as server, closing(_Local(server.socket)) as client:

        @given(broken(ORDERS, depth=1500))
        def send(body: bytes) -> None:
            server.facade.orders.clear()
            client.request("POST", "/v1/orders", body, {"Content-Type": "application/json"})
            answer = client.getresponse()
            text = answer.read()
            if answer.status == 200:
                (order,) = server.facade.orders
                assert {"order": order.order, "host": order.host, "reason": order.reason}.items() >= {
                    k: v for k, v in json.loads(body).items() if k != "incident"
                }.items()
            else:
                assert answer.status == 400, text
                assert set(json.loads(text)) == {"error", "hint"}
                assert not server.facade.orders

        send()


class _Local(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


# --- what comes from this machine ---


@pytest.mark.parametrize("kind", sorted(journal.DOCUMENTS))
def test_stored_documents(kind: str) -> None:
    good = bodies("documents", f"{kind}-*.json")

    @given(broken(good))
    def read(body: bytes) -> None:
        try:
            document = journal.decode(kind, "key", body)
        except StoreCorrupt:
            return
        assert journal.decode(kind, "key", journal.encode(document)) == document

    read()


class _Writer:
    """The other end of a control socket, which takes everything."""

    def __init__(self) -> None:
        self.closed = False
        self.lines: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.lines.append(data)

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, _: str) -> Any:
        return self

    def getsockopt(self, *_: int) -> bytes:
        return bytes(12)


class _OpenGate:
    is_open = True
    boot_id = "b"


STATUS = msgspec.json.decode(
    (FIXTURES / "frames" / "control-RemoteStatus.json").read_bytes(), type=control.RemoteStatus
)


@given(broken(CONTROL))
def test_questions_on_the_control_socket(body: bytes) -> None:
    """A client that talks nonsense gets no answer, and its connection ends."""
    writer = _Writer()

    async def serve() -> None:
        reader = asyncio.StreamReader(limit=control.MAX_LINE)
        reader.feed_data(body + b"\n")
        reader.feed_eof()
        server = control.ControlServer(Path("/nowhere"), cast(Gate, _OpenGate()), lambda: STATUS, frozenset())
        await server._serve(reader, cast(asyncio.StreamWriter, writer))

    asyncio.run(serve())
    assert writer.closed
    assert len(writer.lines) <= 1


@given(broken(CONTROL))
def test_answers_on_the_control_socket(body: bytes) -> None:
    async def read() -> control.Reply:
        reader = asyncio.StreamReader(limit=control.MAX_LINE)
        reader.feed_data(body + b"\n")
        reader.feed_eof()
        return await control._read(reader)

    try:
        reply = asyncio.run(read())
    except ProtocolError:
        return
    assert isinstance(reply, control.Reply)


LINES = tuple(
    msgspec.json.encode(line)
    for line in (
        worker.Line(kind="doing", text="reading"),
        worker.Line(kind="reading", reading=Reading(device="bmc", power=Power.OFF, at=1.0)),
    )
)


@given(broken(LINES))
def test_lines_of_a_fencing_worker(body: bytes) -> None:
    """One that speaks no sense is as good as dead; it never looks like a reading."""

    async def read() -> worker.Line | None:
        stdout = asyncio.StreamReader()
        stdout.feed_data(body + b"\n")
        stdout.feed_eof()
        nobody, writer = os.pipe()
        try:
            return await Worker(0, nobody, stdout, cast(asyncio.StreamWriter, None)).line()
        finally:
            os.close(nobody)
            os.close(writer)

    line = asyncio.run(read())
    if line is not None and line.reading is not None:
        assert json.loads(body.split(b"\n")[0])["reading"]["power"] == line.reading.power


@given(
    st.builds(
        worker.Request,
        op=st.sampled_from(["read", "off", "on"]),
        device=st.builds(
            Device, name=st.text(), address=st.text(), options=st.dictionaries(st.text(), st.text(), max_size=3)
        ),
        act_by=st.floats(0, 1e9),
        until=st.floats(0, 1e9),
        expect=st.text(),
    )
)
def test_requests_to_a_fencing_worker_are_one_line(request: worker.Request) -> None:
    body = msgspec.json.encode(request)
    assert b"\n" not in body
    assert msgspec.json.decode(body, type=worker.Request) == request


GUEST_LINES = tuple(
    msgspec.json.encode(line)
    for line in (
        Line(kind="domain", domain=Domain(server="a", start="1.1", state=3, reason=6)),
        Line(kind="listed", at=1.0),
        Line(kind="event", event=Happened(server="a", at=2.0, what="watchdog", first=1, start="1.1")),
        Line(kind="event", event=Happened(server="a", at=3.0, what="lifecycle", first=5, second=5)),
        Line(kind="alive", at=4.0),
        Line(kind="answer", number=1, domain=Domain(server="a", start="1.1", state=1, reason=1)),
        Line(kind="end", text="no libvirtd"),
    )
)


class _Chance:
    def uuid(self) -> str:
        return "5d0f6c53-38d5-4c16-8a53-0c6a1ad1c4a2"


def _nowhere(data: bytes) -> None:
    del data


@given(st.lists(broken(GUEST_LINES) | st.sampled_from(GUEST_LINES), max_size=6))
def test_lines_of_a_guest_watcher(lines: list[bytes]) -> None:
    """What it says is taken or is no line; what is kept of it is read again, and fits into frames."""

    async def take() -> None:
        guests = LibvirtGuests(
            "", read=bytes, write=_nowhere, clock=cast(Clock, None), random=cast(Random, _Chance()), timing=Timing()
        )
        for body in lines:
            try:
                line = msgspec.json.decode(body, type=Line)
            except (ValueError, RecursionError):
                break
            guests._take(line)
        saved = guests._ledger.saved()
        assert msgspec.json.decode(msgspec.json.encode(saved), type=Saved) == saved
        for event in saved.events:
            frame = wire.GuestEvents(events=(courier._news(event, 5.0),))
            assert wire.decode(wire.encode(frame)[wire.HEADER :]) == frame

    asyncio.run(take())


SAVED = Saved(
    boot_id="b",
    known_at=1.0,
    events=(GuestEvent(id="i", server="a", kind="watchdog", action="pause", start="1.1", at=1.0),),
    domains={"a": Known(start="1.1", fault=("watchdog", "pause"))},
)


@given(broken((msgspec.json.encode(SAVED),)))
def test_guest_events_that_were_kept(body: bytes) -> None:
    """A file that somebody has spoilt never keeps a remote from watching, and never breaks its frames."""

    async def load() -> LibvirtGuests:
        guests = LibvirtGuests(
            "",
            read=lambda: body,
            write=_nowhere,
            clock=cast(Clock, None),
            random=cast(Random, _Chance()),
            timing=Timing(),
        )
        await guests._load("b")
        return guests

    guests = asyncio.run(load())
    for event in guests.ready():
        frame = wire.GuestEvents(events=(courier._news(event, 5.0),))
        assert wire.decode(wire.encode(frame)[wire.HEADER :]) == frame


# --- what goes to the bus, and is read from it ---


@given(st.sampled_from(NOTES), st.data())
def test_notifications(body: bytes, data: st.DataObject) -> None:
    good = bus.decode(json.loads(body))
    payload = data.draw(broken_value(good.payload))
    try:
        plain = objects.check(good.event_type, payload)
    except TypeError:
        return
    again = objects.build(good.event_type, "id", 0.0, plain).payload
    assert objects.check(good.event_type, again) == plain
