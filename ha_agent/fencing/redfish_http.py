"""How Redfish requests travel: to the one BMC and nowhere else, inside the window, bounded, and a change at most once.

sushy sends a request up to three times when its answer is lost, an off as well, and waits a minute for each. Below it
sits this transport: it raises our own errors, which sushy does not repeat, and refuses to send a second change.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

from ha_agent.errors import DriverError, Unanswered
from ha_agent.fencing.window import Window

CONNECT_S = 3.0
ANSWER_S = 10.0  # between two pieces of an answer; BMCs are slow, and the whole is bounded by the window
BODY_MAX = 4 * 1024 * 1024  # a System is 10 to 100 KiB
CHUNK = 65536


class _Broken(DriverError):
    """The connection ended before the answer was whole."""


class Transport(HTTPAdapter):
    """For the `requests` session of one attempt. `origin`: scheme, host and port that every request goes to, whatever links the
    BMC sends. `change`: set for the time of an off or on."""

    def __init__(self, origin: str, window: Window, where: str) -> None:
        self._origin = urlsplit(origin)
        self._window = window
        self._where = where
        self.change = False
        self.sent = False  # some part of a change left
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Connections that look at the clock before each piece they send."""
        super().init_poolmanager(*args, **kwargs)
        gate = self._gate

        class Connection(HTTPSConnection):
            def send(self, data: Any) -> None:
                if self.sock is None:
                    self.connect()
                gate()
                super().send(data)

        class Pool(HTTPSConnectionPool):
            ConnectionCls = Connection

        self.poolmanager.pool_classes_by_scheme = {"https": Pool}

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Raises DriverError (certainly no effect), Unanswered."""
        if self.change and self.sent:
            raise Unanswered(f"{self._where} asked for the same change again; it is sent once")
        path = urlsplit(request.url or "")
        request.url = str(urlunsplit((self._origin.scheme, self._origin.netloc, path.path, path.query, "")))
        try:
            response = self._once(request, verify)
        except _Broken:
            # BMCs' small web servers lose a connection now and then. A change is never sent again.
            if self.change or request.method != "GET":
                raise
            response = self._once(request, verify)
        if self.change and response.status_code in (401, 403):  # sushy would log in and send it again
            raise DriverError(
                f"refused: our user may not switch power at {self._where}, or its session ended (HTTP "
                f"{response.status_code}): raise its role"
            )
        return response

    def _once(self, request: requests.PreparedRequest, verify: bool | str) -> requests.Response:
        left = self._left()
        try:
            response = super().send(request, True, (min(CONNECT_S, left), min(ANSWER_S, left)), verify, proxies=None)
            response._content = self._body(response)
        except requests.exceptions.SSLError as error:
            raise self._kind(_tls(self._where, error)) from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._lost(error) from None
        return response

    def _body(self, response: requests.Response) -> bytes:
        body = b""
        # A piece at a time: an answer that comes in drops would keep a larger read, and its time-out, waiting for ever.
        while chunk := response.raw.read1(CHUNK, decode_content=True):
            body += chunk
            if len(body) > BODY_MAX:
                raise self._kind(f"{self._where} sent an answer of more than {BODY_MAX} bytes")
            self._left()
        return body

    def _left(self) -> float:
        """Of the window; a change that was sent in time may be answered later."""
        changes = self.change and not self.sent
        self._window.check(changes=changes)
        return max(self._window.left_s(changes=changes), 0.01)

    def _gate(self) -> None:
        self._window.check(changes=self.change)
        self.sent = self.sent or self.change

    @property
    def _kind(self) -> type[DriverError | Unanswered]:
        """What a failure is: once some part of a change left, nobody knows."""
        return Unanswered if self.change and self.sent else DriverError

    def _lost(self, error: Exception) -> DriverError | Unanswered:
        kind = self._kind
        reason = _cause(error)
        if isinstance(reason, socket.gaierror):
            return DriverError(f"unreachable: the address of {self._where} cannot be resolved ({reason.strerror})")
        if isinstance(error, requests.exceptions.ConnectTimeout):
            return DriverError(f"unreachable: no answer from {self._where}")
        if isinstance(reason, ConnectionRefusedError):
            return DriverError(f"unreachable: {self._where} refuses the connection")
        if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError):
            return kind(f"timed out: no answer in time from {self._where}")
        why = f" ({reason.strerror})" if isinstance(reason, OSError) and reason.strerror else ""
        text = f"unreachable: the connection to {self._where} broke{why}"
        return _Broken(text) if kind is DriverError else kind(text)


def _cause(error: BaseException) -> BaseException:
    """What the layers of libraries wrapped."""
    for _ in range(8):
        inner = getattr(error, "reason", None) or (error.args[0] if error.args else None)
        if not isinstance(inner, BaseException):
            inner = error.__cause__ or error.__context__
        if not isinstance(inner, BaseException) or (isinstance(error, OSError) and error.errno is not None):
            return error
        error = inner
    return error


def _tls(where: str, error: Exception) -> str:
    said = str(_cause(error))
    for words, meaning in (
        ("certificate has expired", "it has expired: renew it at the BMC"),
        ("not yet valid", "it is not valid yet: check the clocks"),
        ("Hostname mismatch", "it is for another name: use the name in it as address"),
        ("IP address mismatch", "it is for another address: use the name in it as address"),
        ("self-signed", "nobody we trust signed it: give its authority as option ca_file"),
        ("self signed", "nobody we trust signed it: give its authority as option ca_file"),
        ("unable to get local issuer", "nobody we trust signed it: give its authority as option ca_file"),
    ):
        if words in said:
            return f"the certificate of {where} is not accepted: {meaning}"
    return f"no TLS with {where}: {said[:200]}"
