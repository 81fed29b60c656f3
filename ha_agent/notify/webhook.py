"""Webhooks: every notification is posted to a URL, signed, and tried again until somebody takes it.

Signed as the Standard Webhooks specification says (`webhook-id`, `webhook-timestamp`, `webhook-signature`), so that receivers can use its
libraries. The circuit of a URL is its outbox: after a failure nothing is sent to it for a while, which doubles up to half a minute.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
import ssl
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import aiohttp

from ha_agent import __version__
from ha_agent.errors import DriverError, HaAgentError, Rejected, Unanswered
from ha_agent.model import Notification
from ha_agent.notify import cloudevent

# What a receiver may answer for a while only, or until its operator or ours has mended something.
PASSING = frozenset({401, 402, 403, 404, 405, 407, 408, 409, 423, 425, 429})
ANSWER_MAX = 300


def signature(secret: bytes, id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    signed = hmac.new(secret, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(signed).decode()}"


class Webhook:
    """Implements ports.Sink. `source`: of the events; `wall`: Unix seconds; `secret`: empty, not signed; `events`: patterns of event types
    that it is told of, without `ha_agent.`; `timeout_s`: for one attempt, from connecting to the end of the answer. Errors show where the
    URL leads, never its path, query or user, which may be secrets."""

    def __init__(
        self,
        url: str,
        source: str,
        wall: Callable[[], float],
        *,
        secret: bytes = b"",
        events: Sequence[str] = ("*",),
        timeout_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url
        self._source = source
        self._wall = wall
        self._secret = secret
        self._events = tuple(events)
        self._timeout_s = timeout_s
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self.where = where(url)

    async def publish(self, notification: Notification) -> None:
        """Returns when the receiver has answered with 2xx, or where it is not told of such events."""
        if not any(fnmatch.fnmatchcase(notification.event_type, pattern) for pattern in self._events):
            return
        body = cloudevent.encode(notification, self._source)
        try:
            async with self._client().post(
                self._url,
                data=body,
                headers=self._headers(notification.id, body),
                allow_redirects=False,  # a signed event goes where the operator said, nowhere else
                ssl=True if self._tls is None else self._tls,
            ) as answer:
                text = (await answer.content.read(ANSWER_MAX)).decode(errors="replace")
                status = answer.status
        except TimeoutError:
            raise Unanswered(f"{self.where} did not answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._error(error) from None  # the cause may hold the URL
        self._judge(status, " ".join(text.split()))

    async def close(self) -> None:
        """See ports.Sink."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s))
        return self._session

    def _headers(self, id: str, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": cloudevent.CONTENT_TYPE, "User-Agent": f"ha-agent/{__version__}", "webhook-id": id}
        if self._secret:
            timestamp = int(self._wall())
            headers["webhook-timestamp"] = str(timestamp)
            headers["webhook-signature"] = signature(self._secret, id, timestamp, body)
        return headers

    def _judge(self, status: int, text: str) -> None:
        if 200 <= status < 300:
            return
        said = f"{self.where} answered {status}" + (f": {text}" if text else "")
        if 300 <= status < 400:
            raise DriverError(said, "give the URL to which it redirects")
        if status >= 500 or status in PASSING:
            raise DriverError(said)
        raise Rejected(said)

    def _error(self, error: Exception) -> HaAgentError:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return DriverError(f"{self.where} has a certificate that is not trusted", "set its ca_file")
        if isinstance(error, aiohttp.ClientConnectorError):
            return DriverError(f"{self.where} cannot be reached: {error.os_error.strerror or 'its name is not known'}")
        if isinstance(error, aiohttp.InvalidURL | ValueError):
            return DriverError(f"{self.where} cannot be used as a URL")
        return Unanswered(f"{self.where} was lost before it answered: {type(error).__name__}")


def where(url: str) -> str:
    """Scheme, host and port of a URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "its URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
