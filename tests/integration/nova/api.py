"""Nova's API as a test asks it: any request, any microversion. It talks to a real Nova and to the simulated one alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import requests
from openstack.connection import Connection

T = TypeVar("T")
USUAL = "2.94"
REQUEST_S = 60
LOOK_S = 0.2


class Api:
    """`cloud`: the entry of clouds.yaml."""

    def __init__(self, cloud: Mapping[str, Any]) -> None:
        self._connection = Connection(**cloud, app_name="test")
        self._nova: Any = self._connection.compute

    def call(self, method: str, path: str, body: Any = None, version: str = USUAL) -> requests.Response:
        """Whatever the answer is."""
        more = {} if body is None else {"json": body}
        answer = self._nova.request(
            path, method, microversion=version, raise_exc=False, connect_retries=0, timeout=REQUEST_S, **more
        )
        assert isinstance(answer, requests.Response)
        return answer

    def read(self, path: str, version: str = USUAL) -> Any:
        """What a GET answers. Raises AssertionError where it is refused."""
        answer = self.call("GET", path, version=version)
        assert answer.status_code == 200, f"GET {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def act(self, server: str, action: str, options: Any = None, version: str = USUAL) -> requests.Response:
        """POST /servers/ID/action."""
        return self.call("POST", f"/servers/{server}/action", {action: options}, version)

    def server(self, server: str) -> dict[str, Any]:
        """A row of servers."""
        found: dict[str, Any] = self.read(f"/servers/{server}")["server"]
        return found

    def service(self, host: str) -> dict[str, Any]:
        """The host's row of os-services."""
        rows = self.read(f"/os-services?binary=nova-compute&host={host}")["services"]
        (found,) = [row for row in rows if row["host"] == host]
        assert isinstance(found, dict)
        return found

    def set_service(self, host: str, **values: Any) -> requests.Response:
        """PUT os-services."""
        return self.call("PUT", f"/os-services/{self.service(host)['id']}", values)

    def evacuations(self, server: str) -> list[dict[str, Any]]:
        """Its records, oldest first."""
        rows = self.read(f"/os-migrations?instance_uuid={server}&migration_type=evacuation")["migrations"]
        return sorted(rows, key=lambda row: row["id"])


def until(what: str, condition: Callable[[], T], timeout_s: float) -> T:
    """The first answer that is true. Raises AssertionError."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, f"in vain, for {timeout_s:g} s: {what}"
        time.sleep(LOOK_S)  # a real Nova is asked again
    return found
