"""Talks to the controller over its Unix socket: plain http.client, one request a connection, everything bounded."""

from __future__ import annotations

import difflib
import http.client
import socket
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from ha_agent.api.facade import DeviceLook, EventLine, FencingPlan
from ha_agent.api.fencing_tests import Asked, FencingTest
from ha_agent.api.readiness import Readiness
from ha_agent.api.views import HostDetail, HostRow, IncidentRow, Status
from ha_agent.errors import HaAgentError, Unanswered, UsageError
from ha_agent.model import Incident, Order, ServerProgress

T = TypeVar("T")
TIMEOUT_S = 10.0
NOVA_TIMEOUT_S = 90.0  # a dry run asks Nova
DEVICES_TIMEOUT_S = 300.0  # the longest attempt, and a turn for each host that waits
ANSWER_MAX = 256 * 1024 * 1024
BAD_REQUEST = 400
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Failure(msgspec.Struct):
    error: str = "no reason was given"
    hint: str = ""


class _Said(msgspec.Struct):
    text: str


class Client:
    """The controller behind a socket. `timeout_s`: for each answer, but those that Nova is asked for. Every method raises UsageError for what it refuses, HaAgentError for what fails."""

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def status(self) -> Status:
        """The whole in one page."""
        return self._get("/v1/status", Status)

    def health(self) -> str:
        """Whether it leads, where its loop turns. A loop that stands still answers nothing, or says so: HaAgentError."""
        body = self._request("GET", "/healthz", self._timeout_s)
        return body.decode(errors="replace").removeprefix("ok").strip()

    def hosts(self) -> list[HostRow]:
        """Every host."""
        return self._get("/v1/hosts", list[HostRow])

    def host(self, name: str) -> HostDetail:
        """One host with its incidents."""
        return self._of_host(name, lambda: self._get(f"/v1/hosts/{_quoted(name)}", HostDetail))

    def readiness(self) -> Readiness:
        """Whether each host would be recovered."""
        return self._get("/v1/readiness", Readiness)

    def incidents(self, host: str = "", phase: str = "") -> list[IncidentRow]:
        """Incidents, newest first."""
        return self._get("/v1/incidents?" + urlencode({"host": host, "phase": phase}), list[IncidentRow])

    def incident(self, incident_id: str) -> Incident:
        """One incident."""
        return self._get(f"/v1/incidents/{quote(incident_id, safe='')}", Incident)

    def events(self, after: int = 0, limit: int = 100) -> list[EventLine]:
        """Recent lines."""
        return self._get(f"/v1/events?after={after}&limit={limit}", list[EventLine])

    def dry_run(self, host: str) -> list[ServerProgress]:
        """What an evacuation would do."""
        path = f"/v1/hosts/{_quoted(host)}/dry-run"
        return self._of_host(host, lambda: self._get(path, list[ServerProgress], NOVA_TIMEOUT_S))

    def fencing_plan(self, host: str) -> FencingPlan:
        """What a fence of the host would do."""
        path = f"/v1/hosts/{_quoted(host)}/fencing-plan"
        return self._of_host(host, lambda: self._get(path, FencingPlan))

    def fencing_check(self, host: str) -> list[DeviceLook]:
        """How the host's devices answer now."""
        path = f"/v1/hosts/{_quoted(host)}/fencing-check"
        return self._of_host(
            host, lambda: self._decode(self._request("POST", path, DEVICES_TIMEOUT_S), list[DeviceLook])
        )

    def test_fencing(self, host: str, asked: Asked) -> FencingTest:
        """Begins to switch a host off and on again. Raises Unanswered where it may have begun (S9)."""
        body = msgspec.json.encode(asked)
        return self._of_host(
            host, lambda: self._decode(self._request("POST", _test_of(host), NOVA_TIMEOUT_S, body), FencingTest)
        )

    def fencing_test(self, host: str) -> FencingTest:
        """The host's test that runs, or its last one."""
        return self._of_host(host, lambda: self._get(_test_of(host), FencingTest))

    def order(self, order: Order, host: str = "", incident: str = "", reason: str = "") -> str:
        """Gives an order; returns the controller's sentence. Raises Unanswered where it may have been carried out (S9)."""
        for text in (host, incident, reason):
            if not text.isprintable():
                raise UsageError(f"{text!r} holds an unprintable character", "type it again")
        body = msgspec.json.encode({"order": str(order), "host": host, "incident": incident, "reason": reason})

        def give() -> str:
            answer = self._request("POST", "/v1/orders", self._timeout_s, body)
            try:
                return self._decode(answer, _Said).text
            except HaAgentError as error:
                raise _perhaps(str(error)) from None

        return self._of_host(host, give) if host else give()

    def _of_host(self, name: str, ask: Callable[[], T]) -> T:
        """Asks about a host. A refusal because there is none of this name tells the nearest names."""
        try:
            return ask()
        except UsageError:
            names = [row.view.host for row in self.hosts()]
            if name not in names:
                raise unknown_host(name, names) from None
            raise

    def _get(self, path: str, kind: type[T], timeout_s: float = 0.0) -> T:
        return self._decode(self._request("GET", path, timeout_s or self._timeout_s), kind)

    def _decode(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except UNDECODABLE as error:
            raise HaAgentError(
                f"the controller's answer is not understood: {error}", "is it of another version than this command?"
            ) from None

    def _request(self, method: str, path: str, timeout_s: float, body: bytes | None = None) -> bytes:
        connection = _Connection(self._path, timeout_s)
        headers: dict[str, Any] = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.connect()
        except OSError as error:
            raise _unreachable(self._path, error) from None
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read(ANSWER_MAX)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a chunk of a negative size
            reason = _why(error) or f"nothing within {timeout_s:g} s"
            if body is not None:
                raise _perhaps(f"the controller's answer was lost: {reason}") from None
            raise HaAgentError(f"the controller at {self._path} did not answer: {reason}", "see its log") from None
        finally:
            connection.close()
        if response.status >= BAD_REQUEST:
            try:
                failure = msgspec.json.decode(answer, type=_Failure)
            except UNDECODABLE:
                failure = _Failure(error=f"the controller answered {response.status}")
            refused = response.status < 500  # 4xx: ours; 5xx: its
            raise (UsageError if refused else HaAgentError)(failure.error, failure.hint)
        return answer


def unknown_host(name: str, names: Iterable[str]) -> UsageError:
    """What to say of a name that no host has."""
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)
    hint = f"did you mean {', '.join(near)}?" if near else "see: ha-agent status --all"
    return UsageError(f"{name!r} is not in the inventory", hint)


def _quoted(name: str) -> str:
    """A name as one part of a path. Dots alone would be taken for a folder's."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


def _test_of(host: str) -> str:
    return f"/v1/hosts/{_quoted(host)}/fencing-test"


def _perhaps(why: str) -> Unanswered:
    return Unanswered(f"{why}; the order may have been carried out", "look whether it was: ha-agent status")


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _unreachable(path: str, error: OSError) -> HaAgentError:
    if isinstance(error, PermissionError):
        return HaAgentError(
            f"you may not talk to the controller at {path}", "join the socket's group (ha-agent), or use sudo"
        )
    return HaAgentError(
        f"no controller at {path}: {_why(error)}",
        "is it running? systemctl status ha-agent-controller; another socket: --socket or HA_AGENT_SOCKET",
    )
