"""Webhooks against a real HTTP server: signed CloudEvents, no redirect followed, bounded in time, nothing of the URL told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from ha_agent.errors import DriverError, HaAgentError, Rejected, Unanswered
from ha_agent.notify.objects import build
from ha_agent.notify.webhook import Webhook, where
from tests.unit.notify_support import serving

WALL = 1_700_000_000.25
NOTE = build(
    "host.suspected",
    "0b5a4d5e-0000-4000-8000-000000000001",
    WALL,
    {"incident": "i-1", "host": "compute-1", "mode": "auto", "verdict": "down", "reason": "silent"},
)


class Receiver:
    """Keeps what it is posted, and answers with `status`, `text` after `delay_s`."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        self.text = ""
        self.delay_s = 0.0
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.got.append((dict(request.headers), await request.read()))
        await asyncio.sleep(self.delay_s)
        headers = {"Location": "/elsewhere"} if 300 <= self.status < 400 else {}
        return web.Response(status=self.status, text=self.text or None, headers=headers)


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    subject = Receiver()
    async with serving(subject.handle) as subject.port:
        yield subject


@asynccontextmanager
async def webhook(port: int, **options: Any) -> AsyncIterator[Webhook]:
    subject = Webhook(
        f"http://user:hunter2@127.0.0.1:{port}/T0K3N?key=s3cret", "ha-agent/cloud", lambda: WALL, **options
    )
    try:
        yield subject
    finally:
        await subject.close()


async def test_an_event_is_posted_as_a_signed_cloudevent() -> None:
    async with receiver() as there, webhook(there.port, secret=b"key") as subject:
        await subject.publish(NOTE)
        await subject.publish(NOTE)
    (headers, body), (_, again) = there.got
    assert body == again
    event = json.loads(body)
    assert {k: v for k, v in event.items() if k != "data"} == {
        "specversion": "1.0",
        "id": NOTE.id,
        "source": "ha-agent/cloud",
        "type": "ha_agent.host.suspected",
        "time": "2023-11-14T22:13:20.250Z",
        "datacontenttype": "application/json",
        "subject": "compute-1",
    }
    assert event["data"]["ha_agent_object.data"]["reason"] == "silent"
    assert headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (NOTE.id, "1700000000")
    signed = hmac.new(b"key", f"{NOTE.id}.1700000000.".encode() + body, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(signed).decode()}"


async def test_without_a_secret_nothing_is_signed_and_only_wanted_events_are_posted() -> None:
    async with receiver() as there, webhook(there.port, events=("incident.*", "host.s*")) as subject:
        await subject.publish(NOTE)
        assert "webhook-signature" not in there.got[0][0]
    async with receiver() as there, webhook(there.port, events=("server.*",)) as subject:
        await subject.publish(NOTE)
        assert there.got == []


@pytest.mark.parametrize(
    ("status", "raised"),
    [*((n, DriverError) for n in (302, 308, 401, 404, 429, 500, 503)), *((n, Rejected) for n in (400, 410, 413, 422))],
)
async def test_what_may_pass_is_tried_again_and_what_will_not_is_rejected(
    status: int, raised: type[HaAgentError]
) -> None:
    async with receiver() as there, webhook(there.port) as subject:
        there.status, there.text = status, "why\nnot " + "x" * 5000
        with pytest.raises(raised) as told:
            await subject.publish(NOTE)
    assert type(told.value) is raised
    assert len(there.got) == 1, "a redirect is not followed"
    assert f"http://127.0.0.1:{there.port} answered {status}: why not x" in str(told.value)
    assert len(str(told.value)) < 400
    assert not {"hunter2", "T0K3N", "s3cret"} & set(str(told.value).replace(":", " ").replace("/", " ").split())


async def test_one_that_is_slow_or_away_is_given_up_in_time() -> None:
    async with receiver() as there, webhook(there.port, timeout_s=0.1) as subject:
        there.delay_s = 5
        with pytest.raises(Unanswered, match=r"did not answer within 0\.1 s"):
            await subject.publish(NOTE)
    async with webhook(there.port) as subject:  # its server is gone
        with pytest.raises(DriverError, match="cannot be reached"):
            await subject.publish(NOTE)


async def test_an_answer_that_drips_ends_with_the_time_limit() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for letter in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10_000:
            writer.write(bytes([letter]))
            await asyncio.sleep(0.01)

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server, webhook(server.sockets[0].getsockname()[1], timeout_s=0.2) as subject:
        with pytest.raises(Unanswered, match="within"):
            await subject.publish(NOTE)


async def test_what_is_no_url_is_said() -> None:
    subject = Webhook("http://[::1", "ha-agent/cloud", lambda: WALL)
    with pytest.raises(DriverError):
        await subject.publish(NOTE)
    await subject.close()


def test_where_shows_no_secret() -> None:
    assert where("https://u:p@hooks.example.org:8443/T/B?x=1") == "https://hooks.example.org:8443"
