"""The message bus by kombu: RabbitMQ as other OpenStack services use it, or `memory://` in one process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp.exceptions
import kombu as _kombu

from ha_agent.errors import DriverError, HaAgentError, Unanswered
from ha_agent.model import Notification
from ha_agent.notify import wire

kombu: Any = _kombu  # it says that it is typed, but is so only in part

# Idle for longer, and the broker may have given us up for want of heartbeats: connect anew.
IDLE_S = 20.0
NO_ROUTE = 312  # AMQP's reply code for a mandatory message that fits no queue
PRIORITIES = ("info", "error")


class KombuBus:
    """Implements ports.Bus. Publishes with the broker's confirmation, to the exchange and queues that a listener of
    oslo.messaging declares. `exchange`: its control_exchange; `topic`: of its target; `durable` and `quorum`: its
    amqp_durable_queues and rabbit_quorum_queue (quorum needs durable). A publish ends within about `timeout_s` for each
    exchange of words with the broker, even if that is frozen. `ssl`: as ssl.wrap_socket's arguments, for amqps.

    Blocking; calls take turns. Raises DriverError or Unanswered, never with the password of the URL.
    """

    def __init__(
        self,
        url: str,
        exchange: str = "nova",
        topic: str = "versioned_notifications",
        durable: bool = True,
        quorum: bool = False,
        publisher_id: str = "ha-agent",
        timeout_s: float = 10.0,
        ssl: dict[str, Any] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._durable = durable or quorum
        self._exchange = kombu.Exchange(exchange, type="topic", durable=self._durable, auto_delete=False)
        self._topic = topic
        self._arguments = {"x-queue-type": "quorum"} if quorum else None
        self._publisher_id = publisher_id
        self._timeout_s = timeout_s
        self._ssl = ssl
        self._now = now
        self._used_at = 0.0
        self._lock = threading.Lock()
        self._connection: Any = None
        self._producer: Any = None
        self._secrets = _secrets(url)
        self.where = _without_secrets(url)

    def publish(self, notification: Notification) -> None:
        """Returns when the broker has taken the notification into its queue."""
        body = wire.encode(notification, self._publisher_id)
        with self._lock:
            if self._connection is not None and self._now() - self._used_at > IDLE_S:
                self._abandon()
            with self._translated(sent=False):
                self._open()
            with self._translated(sent=True):
                # No content type here: with one kombu would skip the serializer. No retry: the outbox retries.
                self._producer.publish(
                    body,
                    exchange=self._exchange,
                    routing_key=f"{self._topic}.{notification.priority}",
                    delivery_mode=2 if self._durable else 1,
                    mandatory=True,  # without it a message that fits no queue is confirmed, and gone
                    timeout=self._timeout_s,
                    confirm_timeout=self._timeout_s,
                )
            self._used_at = self._now()

    def close(self) -> None:
        """The connection is closed; the next publish opens another."""
        with self._lock:
            self._abandon()

    def _open(self) -> None:
        """Connects and declares what a listener would, so that nothing is lost while nobody listens yet."""
        if self._connection is not None:
            return
        self._connection = kombu.Connection(
            self._url,
            connect_timeout=min(self._timeout_s, 5.0),
            ssl=self._ssl or None,
            transport_options={
                "confirm_publish": True,
                "read_timeout": self._timeout_s,
                "write_timeout": self._timeout_s,
            },
        )
        # Each broker of the URL is tried once, without pauses: those are the outbox's business.
        tries = len(self._url.split(";"))
        self._connection.ensure_connection(max_retries=tries - 1, interval_start=0, interval_step=0)
        channel = self._connection.channel()
        for priority in PRIORITIES:
            name = f"{self._topic}.{priority}"
            kombu.Queue(
                name,
                self._exchange,
                routing_key=name,
                durable=self._durable,
                auto_delete=False,
                queue_arguments=self._arguments,
                channel=channel,
            ).declare()
        self._producer = kombu.Producer(channel, serializer="json", auto_declare=False)

    def _abandon(self) -> None:
        """Drops the connection without a word to the broker, which may be frozen."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is None:
            return
        try:
            connection.collect(socket_timeout=1.0)
        except Exception:  # noqa: S110  whatever it says, the connection is no longer used
            pass

    @contextmanager
    def _translated(self, sent: bool) -> Iterator[None]:
        """The errors of kombu, amqp and sockets as ours. After any of them the connection is dropped."""
        try:
            yield
        except HaAgentError:
            self._abandon()
            raise
        except Exception as error:
            self._abandon()
            raise self._error(error, sent) from None  # the cause may hold the URL

    def _error(self, error: Exception, sent: bool) -> HaAgentError:
        text = self._scrub(str(error) or type(error).__name__)
        where = f"the bus at {self.where}"
        if isinstance(error, amqp.exceptions.PreconditionFailed):
            return DriverError(
                f"{where} has an exchange or queue that was declared with other flags than ours "
                f"(durable={self._durable}, auto_delete=False, quorum={self._arguments is not None}): {text}",
                "set notifications.bus durable and quorum as its other users do (amqp_durable_queues, "
                "rabbit_quorum_queue), or delete what is left over of another setting",
            )
        if isinstance(error, amqp.exceptions.AccessRefused | amqp.exceptions.NotAllowed):
            hint = "check user, password, virtual host and permissions in notifications.bus.url"
            return DriverError(f"{where} refuses us: {text}", hint)
        if getattr(error, "reply_code", None) == NO_ROUTE:
            return DriverError(f"{where} has no queue for this notification: {text}")
        if isinstance(error, amqp.exceptions.MessageNacked):
            return DriverError(f"{where} did not take the notification: {text}")
        if isinstance(error, KeyError | ImportError | ValueError) and not sent:
            return DriverError(f"{where} cannot be used: {text}", "check notifications.bus.url")
        if not sent:
            return DriverError(f"{where} cannot be reached: {text}", "is the broker up, and is the URL right?")
        if isinstance(error, socket.timeout | TimeoutError):
            return Unanswered(f"{where} did not confirm within {self._timeout_s:g} s")
        return Unanswered(f"{where} was lost before it confirmed: {text}")

    def _scrub(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _secrets(url: str) -> list[str]:
    """The password as it stands in the URL, and as it is meant; longest first."""
    parts = [urlsplit(one).password for one in url.split(";")]
    return sorted({form for p in parts if p for form in (p, unquote(p))}, key=len, reverse=True)


def _without_secrets(url: str) -> str:
    """Scheme, hosts and virtual host only."""
    shown = []
    for one in url.split(";"):
        parts = urlsplit(one)
        shown.append(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")
    return ";".join(shown)
