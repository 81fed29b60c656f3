"""A compute driver whose guests are files. They outlive nova-compute, as guests outlive it on a real hypervisor, and end with the power.

`guests/ID` below the state path is a guest: its state (Nova's number: 1 runs, 4 is off) and the boot of the host in which it was started.
A file from an earlier boot is a guest that went down with the host: still defined, off. `faults.json` makes spawns slow or fails them.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import nova.conf
from nova import exception
from nova.compute import power_state
from nova.virt import fake

CHANGES = (
    "spawn",
    "destroy",
    "power_on",
    "power_off",
    "reboot",
    "unrescue",
    "finish_migration",
    "finish_revert_migration",
    "post_live_migration_at_destination",
)


class GuestFilesDriver(fake.FakeDriverWithoutFakeNodes):  # type: ignore[misc]
    """See the module."""

    vcpus, memory_mb, local_gb = 64, 131072, 2048

    def init_host(self, host: str) -> None:
        """Finds the guests again."""
        super().init_host(host)
        self._lock = threading.Lock()
        self._home = Path(nova.conf.CONF.state_path)
        self._guests = self._home / "guests"
        self._guests.mkdir(exist_ok=True)
        self._boot = (self._home / "boot").read_text()
        for file in self._guests.iterdir():
            known = json.loads(file.read_text())
            state = known["state"] if known["boot"] == self._boot else power_state.SHUTDOWN
            guest = self.instances[file.name] = fake.FakeInstance(known["name"], state, file.name)
            guest.size = known["size"]
            self.resources.claim(*known["size"])
        self._keep()

    def spawn(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> None:
        """Takes as long as the faults say, and fails if they say so."""
        file = self._home / "faults.json"
        faults = json.loads(file.read_text()) if file.exists() else {}
        time.sleep(faults.get("spawn_s", 0))  # a spawn that takes long: in it hosts are killed and frozen
        if faults.get("spawn_error"):
            raise exception.InstanceDeployFailure(reason=faults["spawn_error"])
        super().spawn(context, instance, *args, **kwargs)
        flavor = instance.flavor
        self.instances[instance.uuid].size = [flavor.vcpus, flavor.memory_mb, flavor.root_gb]

    def get_host_uptime(self) -> str:
        """Nova asks for it when it shows a hypervisor."""
        return "00:00:00 up 1 day, 0:00, 0 users, load average: 0, 0, 0"

    def _keep(self) -> None:
        with self._lock:
            for id, guest in list(self.instances.items()):
                size = getattr(guest, "size", [0, 0, 0])
                kept = {"name": guest.name, "state": guest.state, "boot": self._boot, "size": size}
                new = self._home / "guest.new"
                new.write_text(json.dumps(kept))
                new.replace(self._guests / id)
            for file in self._guests.iterdir():
                if file.name not in self.instances:
                    file.unlink()


def _kept(name: str) -> Any:
    inner = getattr(GuestFilesDriver, name)

    def change(self: GuestFilesDriver, *args: Any, **kwargs: Any) -> Any:
        try:
            return inner(self, *args, **kwargs)
        finally:
            self._keep()

    return change


for _name in CHANGES:
    setattr(GuestFilesDriver, _name, _kept(_name))
