"""The remote runs on every hypervisor: what its process imports is counted, and what has no business there is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from ha_agent.cli.remote_main import settings
from ha_agent.config import RemoteLoaded
from ha_agent.config.values import PkiSettings
from ha_agent.heartbeat.daemon import Settings

ROOT = Path(__file__).resolve().parents[2]

# Libraries of the controller, the command line and the configuration, and parts of the standard library that only they need.
HEAVY = frozenset(
    {
        "openstack",
        "keystoneauth1",
        "kombu",
        "amqp",
        "pyghmi",
        "aiohttp",
        "prometheus_client",
        "pydantic",
        "pydantic_core",
    }
    | {"typer", "click", "rich", "yaml", "sqlite3", "ctypes", "urllib.request", "http.client", "xml.dom", "unittest"}
)
OURS = frozenset(
    {"api", "cli", "config", "controller", "decide", "fencing", "metrics", "notify", "recovery", "sim", "store"}
)


def imported_by(module: str) -> set[str]:
    """All modules of a process that has imported this one, and every package above them."""
    code = f"import sys, {module}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_remote_imports_nothing_heavy() -> None:
    modules = imported_by("ha_agent.heartbeat.daemon")
    assert "ha_agent.heartbeat.remote" in modules
    assert not HEAVY & modules
    assert not {f"ha_agent.{part}" for part in OURS} & modules


def test_what_is_heavy_would_be_seen() -> None:
    """The names are right: the process before it does import some."""
    modules = imported_by("ha_agent.cli.app, ha_agent.config")
    assert {"typer", "yaml", "pydantic", "pydantic_core", "ha_agent.cli", "ha_agent.config"} <= modules


def test_every_setting_reaches_the_process() -> None:
    loaded = RemoteLoaded(
        path="a",
        name="b",
        user="c",
        listen="::1",
        port=7,
        pki_directory="d",
        pki=PkiSettings(warn_days=8.0, urgent_days=9.0),
        socket="e",
        state_directory="f",
        machine_file="g",
        nova_compute_units=("h", "i"),
        libvirt_units=("j",),
        health_file="k",
        guests_file="l",
    )
    arrived = msgspec.json.decode(msgspec.json.encode(settings(loaded)), type=Settings)
    for name in Settings.__struct_fields__:
        sent = getattr(loaded.pki if name.endswith("_days") else loaded, name)
        assert getattr(arrived, name) == sent, name
