"""Notifications through a real RabbitMQ to a real listener of oslo.messaging, with the broker dying and freezing on the way."""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kombu as _kombu
import pytest

from ha_agent.errors import DriverError, HaAgentError, Unanswered
from ha_agent.model import Notification
from ha_agent.notify.bus import KombuBus
from ha_agent.notify.objects import build, check
from ha_agent.notify.outbox import Outbox, Threaded
from ha_agent.notify.writer import OutboxWriter
from ha_agent.store.sqlite import SqliteStore
from tests.fixtures.notifications.samples import BASE, SAMPLES
from tests.integration.debian import need
from tests.integration.rabbit import Rabbit

kombu: Any = _kombu
pytestmark = pytest.mark.root


class Chance:
    """Implements ports.Random, as far as an outbox needs it."""

    def uuid(self) -> str:
        return str(uuid.uuid4())

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2

    def nonce(self) -> str:
        return uuid.uuid4().hex


class Listener:
    """What a listener of oslo.messaging in another process hears."""

    def __init__(self, rabbit: Rabbit, exchange: str, topic: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "tests.integration.oslo_listener"]
        self._process = subprocess.Popen(
            [*command, rabbit.oslo_url, exchange, topic], stdout=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        assert self.next(60) == {"ready": True}

    def next(self, timeout_s: float = 30) -> dict[str, Any]:
        """The next notification. Raises queue.Empty."""
        return self._lines.get(timeout=timeout_s)

    def until(self, last: str, timeout_s: float = 60) -> list[dict[str, Any]]:
        """All up to the one with this id."""
        end = time.monotonic() + timeout_s
        got = [self.next(timeout_s)]
        while got[-1]["id"] != last:
            got.append(self.next(max(0.0, end - time.monotonic())))
        return got

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put({"id": "", "ended": self._process.wait()})


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    need("rabbitmq-server")
    rabbit = Rabbit(tmp_path_factory.mktemp("rabbit"))
    try:
        rabbit.start()
        yield rabbit
    finally:
        rabbit.stop()


@pytest.fixture
def name() -> str:
    """An exchange and topic of one test."""
    return f"t{uuid.uuid4().hex[:12]}"


@contextmanager
def listening(rabbit: Rabbit, name: str) -> Iterator[Listener]:
    listener = Listener(rabbit, name, name)
    try:
        yield listener
    finally:
        listener.stop()


def notes(count: int) -> list[Notification]:
    return [
        build("host.forced_down", str(uuid.uuid4()), time.time(), {**BASE, "host": f"compute-{n}"})
        for n in range(count)
    ]


def test_every_notification_reaches_a_listener_that_came_later(rabbit: Rabbit, name: str) -> None:
    bus = KombuBus(rabbit.url, exchange=name, topic=name, publisher_id="ha-agent:c1")
    sent = [build(event_type, str(uuid.uuid4()), time.time(), data) for event_type, data in SAMPLES.items()]
    for notification in sent:
        bus.publish(notification)
    bus.close()
    with listening(rabbit, name) as listener:
        heard = {got["id"]: got for got in (listener.next() for _ in sent)}
    for notification in sent:
        got = heard[notification.id]
        assert got["event"] == "ha_agent." + notification.event_type
        assert got["publisher"] == "ha-agent:c1"
        assert got["priority"] == notification.priority
        assert got["payload"] == notification.payload
        assert check(notification.event_type, got["payload"])


class Dying(KombuBus):
    """A bus whose broker is killed before the notification with this number, and starts again after a while."""

    def __init__(self, rabbit: Rabbit, name: str, at: int) -> None:
        super().__init__(rabbit.url, exchange=name, topic=name, timeout_s=3)
        self._rabbit = rabbit
        self._at = at
        self._count = 0
        self.again: threading.Thread | None = None
        self.failures: list[HaAgentError] = []

    def publish(self, notification: Notification) -> None:
        self._count += 1
        if self._count == self._at:
            self._rabbit.kill()
        try:
            super().publish(notification)
        except HaAgentError as error:
            self.failures.append(error)
            if self.again is None:
                self.again = threading.Thread(target=self._rabbit.start)
                self.again.start()
            raise


async def test_a_broker_that_is_killed_in_the_middle_loses_nothing(rabbit: Rabbit, name: str, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    writer = OutboxWriter(1)
    sent = notes(60)
    for notification in sent:
        store.commit(None, [writer.put_for(notification)])
    bus = Dying(rabbit, name, at=25)
    with listening(rabbit, name) as listener:
        outbox = Outbox(store, Threaded(bus), Chance())
        task = asyncio.create_task(outbox.run())
        try:
            assert await outbox.drained(90)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if bus.again is not None:
                bus.again.join(60)
        heard = await asyncio.to_thread(listener.until, sent[-1].id)
    assert bus.failures
    assert outbox.failures == len(bus.failures)
    # A repeat is allowed; what is heard first is everything, in order.
    assert list(dict.fromkeys(got["id"] for got in heard)) == [notification.id for notification in sent]
    assert list(store.list("outbox")) == []
    bus.close()
    store.close()


def test_a_frozen_broker_does_not_block_for_longer_than_agreed(rabbit: Rabbit, name: str) -> None:
    bus = KombuBus(rabbit.url, exchange=name, topic=name, timeout_s=1)
    first, second, third = notes(3)
    bus.publish(first)
    with rabbit.frozen():
        start = time.monotonic()
        with pytest.raises(Unanswered, match="did not confirm within 1 s"):
            bus.publish(second)
        assert time.monotonic() - start < 4
        start = time.monotonic()
        with pytest.raises(DriverError, match="cannot be reached"):  # this time it has to connect
            bus.publish(second)
        assert time.monotonic() - start < 4
        start = time.monotonic()
        bus.close()
        assert time.monotonic() - start < 2
    bus.publish(second)
    bus.publish(third)
    bus.close()
    with listening(rabbit, name) as listener:
        heard = [got["id"] for got in listener.until(third.id)]
    assert list(dict.fromkeys(heard)) == [first.id, second.id, third.id]


def test_other_flags_than_the_listeners_are_a_clear_error(rabbit: Rabbit, name: str) -> None:
    ours = KombuBus(rabbit.url, exchange=name, topic=name, durable=True)
    ours.publish(notes(1)[0])
    ours.close()
    other = KombuBus(rabbit.url, exchange=name, topic=name, durable=False)
    with pytest.raises(
        DriverError, match=r"other flags than ours \(durable=False.*inequivalent arg 'durable'"
    ) as caught:
        other.publish(notes(1)[0])
    assert "amqp_durable_queues" in caught.value.hint


def test_a_wrong_password_is_a_clear_error_without_it(rabbit: Rabbit, name: str) -> None:
    bus = KombuBus(rabbit.url.replace("guest:guest", "guest:wr0ng%21"), exchange=name, topic=name)
    with pytest.raises(DriverError, match="refuses us") as caught:
        bus.publish(notes(1)[0])
    assert "wr0ng" not in str(caught.value)
    assert "permissions" in caught.value.hint


def test_a_queue_that_was_deleted_is_noticed_and_made_again(rabbit: Rabbit, name: str) -> None:
    bus = KombuBus(rabbit.url, exchange=name, topic=name)
    first, second = notes(2)
    bus.publish(first)
    with kombu.Connection(rabbit.url) as connection:
        connection.channel().queue_delete(f"{name}.info")
    with pytest.raises(DriverError, match="has no queue"):
        bus.publish(second)
    bus.publish(second)
    bus.close()
    with listening(rabbit, name) as listener:
        assert listener.next()["id"] == second.id


def test_quorum_queues(rabbit: Rabbit, name: str) -> None:
    bus = KombuBus(rabbit.url, exchange=name, topic=name, quorum=True)
    (only,) = notes(1)
    bus.publish(only)
    bus.close()
    with kombu.Connection(rabbit.url) as connection:
        message = connection.channel().basic_get(f"{name}.info", no_ack=True)
    assert only.id in message.body
