"""Requests to Nova through openstacksdk: one microversion, one time-out, no retry of the library's own, and errors sorted into what
certainly did not happen (DriverError) and what may have (Unanswered)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import openstack
import requests
import urllib3.exceptions
from keystoneauth1 import exceptions as ksa

from ha_agent.errors import DriverError, HaAgentError, Unanswered
from ha_agent.recovery.nova_rows import decode, fault

T = TypeVar("T")
WANTED = (2, 94)  # the last microversion at which an evacuated server keeps its power state
NEEDED = (2, 53)  # services by uuid
NOT_SENT = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.NameResolutionError,
    requests.exceptions.ConnectTimeout,
)


class NovaHttp:
    """Nova's API as GET and POST. Thread-safe: keystoneauth's session is shared, discovery happens once under a lock."""

    def __init__(self, connection: Any, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._adapter: Any = None
        self._microversion = NEEDED
        self.calls = 0  # requests to Nova's API so far, for the metrics
        self.failures = 0  # those that ended in anything but the answer wanted
        session = connection.session
        if session.timeout is None or session.timeout > timeout_s:
            session.timeout = timeout_s  # discovery and tokens use the session's own

    @classmethod
    def of_cloud(cls, cloud: str, timeout_s: float) -> NovaHttp:
        """By the name of an entry of clouds.yaml. Raises DriverError."""
        try:
            connection = openstack.connect(cloud=cloud, app_name="ha-agent", api_timeout=timeout_s)
        except Exception as error:
            raise DriverError(
                f"cloud {cloud!r} cannot be used: {_text(error)}", "see that clouds.yaml has this entry and can be read"
            ) from None
        return cls(connection, timeout_s)

    @property
    def microversion(self) -> tuple[int, int]:
        """What is spoken: the newest up to 2.94, or Nova's least where that is newer. Raises DriverError."""
        self._ready()
        return self._microversion

    def get(self, path: str, kind: type[T], params: Mapping[str, str | int] | None = None) -> T:
        """A read. Nothing was changed, so whatever goes wrong is a DriverError."""
        adapter = self._ready()
        try:
            response = self._send(adapter, "GET", path, params=dict(params or {}))
        except Exception as error:
            raise self._failed(DriverError(f"GET {path}: {_text(error)}")) from None
        if response.status_code != 200:
            raise self._failed(DriverError(f"GET {path}: {_refusal(response)}"))
        try:
            return decode(response.content, kind, f"GET {path}")
        except DriverError as error:
            raise self._failed(error) from None

    def change(self, method: str, path: str, body: Mapping[str, object]) -> requests.Response:
        """A change, sent once. Raises DriverError where it was not sent or Nova refused it (4xx), else Unanswered."""
        adapter = self._ready()
        self._token()  # fetched apart, so that Keystone's failures are known to come before the sending
        what = f"{method} {path} {next(iter(body), '')}".strip()
        try:
            response = self._send(adapter, method, path, json=body)
        except Exception as error:
            kind = DriverError if _not_sent(error) else Unanswered
            raise self._failed(kind(f"{what}: {_text(error)}")) from None
        status = response.status_code
        if 200 <= status < 300:
            return response
        if 300 <= status < 500 and status != 408:
            raise self._failed(DriverError(f"{what}: {_refusal(response)}"))
        raise self._failed(Unanswered(f"{what}: {_refusal(response)}"))

    def _ready(self) -> Any:
        with self._lock:
            if self._adapter is None:
                try:
                    adapter = self._connection.compute
                    data = adapter.get_endpoint_data()
                except Exception as error:
                    raise self._failed(DriverError(f"Nova cannot be found: {_text(error)}")) from None
                self._microversion = _negotiate(data)
                self._adapter = adapter
            return self._adapter

    def _token(self) -> None:
        try:
            self._connection.session.get_token()
        except Exception as error:
            raise self._failed(DriverError(f"no token from Keystone: {_text(error)}")) from None

    def _send(self, adapter: Any, method: str, path: str, **kwargs: object) -> requests.Response:
        with self._lock:
            self.calls += 1
        major, minor = self._microversion
        response = adapter.request(
            path,
            method,
            microversion=f"{major}.{minor}",
            raise_exc=False,
            redirect=False,
            connect_retries=0,  # the core retries, after a look; a library that repeats a change blindly harms
            status_code_retries=0,
            retriable_status_codes=[],
            timeout=self._timeout_s,
            skip_cache=True,
            **kwargs,
        )
        assert isinstance(response, requests.Response)
        return response

    def _failed(self, error: HaAgentError) -> HaAgentError:
        self.failures += 1
        return error


def _negotiate(data: Any) -> tuple[int, int]:
    least, most = getattr(data, "min_microversion", None), getattr(data, "max_microversion", None)
    if least is None or most is None or tuple(most) < NEEDED:
        shown = "none" if most is None else ".".join(map(str, most))
        raise DriverError(f"Nova offers microversion {shown}; 2.53 or later is needed")
    match max(tuple(least), min(WANTED, tuple(most))):
        case (int(major), int(minor)):
            return major, minor
        case _:  # the library reads "latest" as infinity
            raise DriverError(f"Nova says no number of its least microversion: {least}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and everything it was made of; requests and urllib3 pass causes as arguments and in `reason`."""
    todo: list[object] = [error]
    seen: set[int] = set()
    while todo and len(seen) < 20:
        current = todo.pop()
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            yield current
            todo += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]


def _not_sent(error: BaseException) -> bool:
    """Whether the connection was never made, so that Nova cannot have seen the request."""
    return any(isinstance(part, (*NOT_SENT, ksa.EndpointNotFound)) for part in _chain(error))


def _refusal(response: requests.Response) -> str:
    text = fault(response.content) or response.reason or "no reason given"
    after = response.headers.get("Retry-After")
    return f"{response.status_code} {text}" + (f" (Retry-After: {after[:40]})" if after else "")


def _text(error: BaseException, limit: int = 300) -> str:
    """One line for a human; of the libraries' chains of causes only what helps."""
    found = re.search(r"Unable to establish connection to (\S+?):? ", f"{error} ")
    if found:
        return f"cannot connect to {found.group(1)}"
    return " ".join(str(error).split())[:limit] or type(error).__name__
