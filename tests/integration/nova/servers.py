"""The servers of a lab: booted where a test wants them, and all of it as new before the next test."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tests.integration.nova.api import Api, until
from tests.integration.nova.lab import Lab
from tests.integration.nova.settings import IMAGE

BOOT_S = 90
RETURN_S = 90


class Servers:
    """Of one lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.api = Api(lab.settings.cloud())

    def boot(
        self,
        host: str,
        name: str,
        *,
        tags: Sequence[str] = (),
        image: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        """Asks for a server on the host and returns its id; see `running`. It boots from a volume, or from the image."""
        volume = {"boot_index": 0, "source_type": "volume", "destination_type": "volume", "uuid": str(uuid.uuid4())}
        server = {
            "name": name,
            "flavorRef": self._flavor(),
            "networks": "none",
            "host": host,
            "tags": list(tags),
            **({"imageRef": IMAGE} if image else {"block_device_mapping_v2": [volume]}),
        }
        answer = self.api.call("POST", "/servers", {"server": server, **(more or {})})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["server"]["id"])

    def settled(self, servers: Sequence[str], status: str = "ACTIVE", timeout_s: float = BOOT_S) -> None:
        """Until all of them are in this status, with nothing under way."""

        def there() -> bool:
            rows = [self.api.server(server) for server in servers]
            return all(row["status"] == status and row["OS-EXT-STS:task_state"] is None for row in rows)

        until(f"{len(servers)} servers are {status}", there, timeout_s)

    def where(self, server: str) -> list[str]:
        """The hosts on which its guest runs: the truth."""
        return [name for name, host in self.lab.hosts.items() if host.guests().get(server)]

    def actions(self, server: str) -> list[str]:
        """What was asked of it, oldest first."""
        rows = self.api.read(f"/servers/{server}/os-instance-actions")["instanceActions"]
        return [row["action"] for row in reversed(rows)]

    def heal(self) -> None:
        """No servers, no faults; every host has power, its nova-compute works, and Nova thinks so."""
        api = self.api
        for name, host in self.lab.hosts.items():
            host.faults()
            host.gated(False)
            if not self._is_clean(name) and host.alive():
                host.power(False)
            host.power(True)

        def gone() -> bool:
            rows = api.read("/servers?all_tenants=1")["servers"]  # one page of them
            for row in rows:
                api.act(row["id"], "os-resetState", {"state": "error"})
                api.call("DELETE", f"/servers/{row['id']}")
            return not rows

        until("every server is gone", gone, BOOT_S)
        for name in self.lab.hosts:
            until(f"{name} has cleaned up", partial(self._is_clean, name), RETURN_S)
            if api.service(name)["forced_down"]:
                assert api.set_service(name, forced_down=False).status_code == 200
            if api.service(name)["status"] != "enabled":
                api.set_service(name, status="enabled")
        for name, host in self.lab.hosts.items():
            self.is_up(name)
            if host.guests():  # of servers that were deleted while it was away
                for guest in (host.directory / "guests").iterdir():
                    guest.unlink()

    def is_up(self, host: str) -> None:
        """Until its nova-compute has reported since the host's boot, and Nova calls it up."""
        boot = (self.lab.hosts[host].directory / "boot").stat().st_mtime

        def reports() -> bool:
            row = self.api.service(host)
            at = datetime.fromisoformat(row["updated_at"]).replace(tzinfo=UTC).timestamp()
            return row["state"] == "up" and at > boot

        until(f"{host} is up", reports, RETURN_S)

    def _is_clean(self, host: str) -> bool:
        """Whether no evacuation off it waits for its nova-compute to start."""
        rows = self.api.read(f"/os-migrations?source_compute={host}&migration_type=evacuation&status=done")
        return not rows["migrations"]

    def _flavor(self) -> str:
        if self.api.call("GET", "/flavors/small").status_code == 404:
            flavor = {"id": "small", "name": "small", "ram": 64, "vcpus": 1, "disk": 1}
            made = self.api.call("POST", "/flavors", {"flavor": flavor}).status_code
            assert made in (200, 409), "409: another thread has just made it"
        return "small"
