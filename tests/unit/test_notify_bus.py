"""The bus without a broker: kombu's memory transport, and what is said when there is none."""

from __future__ import annotations

import socket
import traceback
import uuid
from typing import Any
from urllib.parse import unquote

import kombu as _kombu
import pytest

from ha_agent.errors import DriverError
from ha_agent.notify import wire
from ha_agent.notify.bus import KombuBus
from tests.fixtures.notifications.samples import sample

kombu: Any = _kombu


def received(topic: str, priority: str) -> list[dict[str, Any]]:
    """What waits in a queue of the memory transport."""
    got = []
    with kombu.Connection("memory://") as connection:
        queue = connection.SimpleQueue(f"{topic}.{priority}", no_ack=True)
        while True:
            try:
                got.append(queue.get_nowait().payload)
            except queue.Empty:
                return got


@pytest.fixture
def topic() -> str:
    """The memory transport is one for the whole process, so every test has its own."""
    return f"t{uuid.uuid4().hex}"


def test_what_is_published_arrives_in_the_queue_of_its_priority(topic: str) -> None:
    bus = KombuBus("memory://", exchange=topic, topic=topic, publisher_id="ha-agent:c1")
    bus.publish(sample("host.down"))
    bus.publish(sample("host.fence.error"))
    bus.publish(sample("host.returned"))
    bus.close()
    info = [wire.decode(body) for body in received(topic, "info")]
    assert info == [sample("host.down"), sample("host.returned")]
    assert [wire.decode(body) for body in received(topic, "error")] == [sample("host.fence.error")]


def test_a_repeat_is_the_same_to_the_byte(topic: str) -> None:
    bus = KombuBus("memory://", exchange=topic, topic=topic)
    bus.publish(sample("host.down"))
    bus.close()
    bus.publish(sample("host.down"))
    first, second = received(topic, "info")
    assert first == second


def test_an_idle_connection_is_not_trusted(topic: str) -> None:
    at = [0.0]
    bus = KombuBus("memory://", exchange=topic, topic=topic, now=lambda: at[0])
    bus.publish(sample("host.down"))
    first = bus._connection
    at[0] = 10
    bus.publish(sample("host.down"))
    assert bus._connection is first
    at[0] = 31
    bus.publish(sample("host.down"))
    assert bus._connection is not first
    assert len(received(topic, "info")) == 3


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("password", ["s3cret", "p%40ss%2Fw", "guest%3A"])
def test_no_broker_is_a_clear_error_without_the_password(password: str) -> None:
    port = free_port()
    bus = KombuBus(f"amqp://ha:{password}@127.0.0.1:{port}//", timeout_s=2)
    with pytest.raises(DriverError, match=rf"the bus at amqp://127\.0\.0\.1:{port}.* cannot be reached") as caught:
        bus.publish(sample("host.down"))
    for form in (password, "p@ss/w", "guest:"):
        assert form not in str(caught.value)
        assert form not in repr(caught.value.__cause__)
    assert password not in bus.where


class Talkative(KombuBus):
    """Fails with an error that holds the whole URL, as a library's might."""

    def _open(self) -> None:
        raise OSError(f"cannot connect to {self._url}, password {unquote('p%40ss%2Fw')}")


def test_a_library_that_tells_the_password_is_not_quoted() -> None:
    bus = Talkative("amqp://ha:p%40ss%2Fw@127.0.0.1:1//")
    with pytest.raises(DriverError, match=r"cannot connect to amqp://ha:\*\*\*@127") as caught:
        bus.publish(sample("host.down"))
    printed = "".join(traceback.format_exception(caught.value))
    for form in ("p%40ss%2Fw", "p@ss/w"):
        assert form not in printed


def test_of_several_brokers_each_is_tried_once() -> None:
    first, second = free_port(), free_port()
    bus = KombuBus(f"amqp://a:one@127.0.0.1:{first}//;amqp://a:two@127.0.0.1:{second}//", timeout_s=2)
    with pytest.raises(DriverError) as caught:
        bus.publish(sample("host.down"))
    assert f"127.0.0.1:{first}" in str(caught.value)
    assert f"127.0.0.1:{second}" in str(caught.value)
    assert "one" not in str(caught.value).replace("None", "")


def test_an_unknown_scheme_is_a_clear_error() -> None:
    bus = KombuBus("carrier-pigeon://x:feather@loft")
    with pytest.raises(DriverError, match="cannot be used") as caught:
        bus.publish(sample("host.down"))
    assert "notifications.bus.url" in caught.value.hint
    assert "feather" not in str(caught.value)
