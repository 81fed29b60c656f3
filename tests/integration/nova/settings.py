"""Where the parts of one lab are: ports on loopback, picked when it is started, and files below one directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tests.integration.ipmi_sim import free_udp_port
from tests.integration.rabbit import free_port

ROOT = Path(__file__).resolve().parents[3]
FILE = "lab.json"
SERVICES = ("keystone", "placement", "nova", "stand-ins", "mariadb", "rabbitmq", "rabbitmq-nodes", "epmd")
PASSWORD = "lab"
REGION = "RegionOne"
AGENT = "ha-agent"  # the user, the project and the role of a controller
IMAGE = "3e0f5c1c-8a0e-4c4c-9d0a-0f6f0a1b2c3d"


class Settings(msgspec.Struct, frozen=True):
    """One lab. `environment`: the folder of the virtual environment that holds Nova."""

    directory: Path
    environment: Path
    hosts: tuple[str, ...]
    ports: dict[str, int]

    @classmethod
    def new(cls, directory: Path, environment: Path, hosts: int) -> Settings:
        """With ports that are free now."""
        names = tuple(f"compute-{n + 1}" for n in range(hosts))
        ports: dict[str, int] = {}
        for service in SERVICES:
            while (port := free_port()) in ports.values():
                pass
            ports[service] = port
        for name in names:
            while (port := free_udp_port()) in ports.values():
                pass
            ports[f"bmc-{name}"] = port
        return cls(directory.resolve(), environment, names, ports)

    @classmethod
    def of(cls, directory: Path) -> Settings | None:
        """Of the lab that is in the directory, if any."""
        file = directory / FILE
        return (
            msgspec.json.decode(file.read_bytes(), type=cls, dec_hook=lambda _, text: Path(text))
            if file.exists()
            else None
        )

    def save(self) -> None:
        """So that others find the lab."""
        (self.directory / FILE).write_bytes(msgspec.json.encode(self, enc_hook=str))

    def bin(self, program: str) -> Path:
        """A program of the environment."""
        return self.environment / "bin" / program

    def etc(self, name: str) -> Path:
        """A service's configuration."""
        return self.directory / "etc" / name

    def url(self, service: str, path: str = "") -> str:
        """Of a service that speaks HTTP."""
        return f"http://127.0.0.1:{self.ports[service]}{path}"

    def database(self, name: str) -> str:
        """For SQLAlchemy."""
        return f"mysql+pymysql://lab:{PASSWORD}@127.0.0.1:{self.ports['mariadb']}/{name}"

    @property
    def queue(self) -> str:
        """For oslo.messaging."""
        return f"rabbit://guest:guest@127.0.0.1:{self.ports['rabbitmq']}/"

    def cloud(self, user: str = "admin") -> dict[str, Any]:
        """The entry of clouds.yaml that leads here, for the administrator or for AGENT."""
        return {
            "region_name": REGION,
            "auth": {
                "auth_url": self.url("keystone", "/v3"),
                "username": user,
                "password": PASSWORD,
                "project_name": user,
                "user_domain_name": "Default",
                "project_domain_name": "Default",
            },
        }
