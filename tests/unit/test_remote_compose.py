"""A remote put together from its configuration, as far as its guests go."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ha_agent.cli.remote_main import check, settings
from ha_agent.config import load_remote
from ha_agent.errors import UsageError
from ha_agent.guests.source import LibvirtGuests
from ha_agent.heartbeat.daemon import compose


def remote_yaml(directory: Path, guests: str) -> Path:
    path = directory / "remote.yaml"
    path.write_text(f"version: 1\nstate_directory: state\nguests: {guests}\n")
    return path


def test_a_missing_libvirt_python_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)  # what an import finds where it is not installed
    path = remote_yaml(tmp_path, "{libvirt: 'qemu:///system'}")
    with pytest.raises(UsageError, match=r"guests\.libvirt is set in .*remote\.yaml.* not installed") as caught:
        check(load_remote(path))
    assert "pip install 'ha-agent[guests]'" in caught.value.hint
    assert "guests.libvirt to null" in caught.value.hint
    assert caught.value.exit_code == 2


def test_without_guests_nothing_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    for guests in ("{}", "{file: guests.json}"):
        loaded = load_remote(remote_yaml(tmp_path, guests))
        check(loaded)
        remote = compose(settings(loaded))
        assert remote._watch is None


def test_a_libvirt_is_watched_by_the_small_process(tmp_path: Path) -> None:
    loaded = load_remote(remote_yaml(tmp_path, "{libvirt: 'qemu:///system'}"))
    remote = compose(settings(loaded))
    assert isinstance(remote._watch, LibvirtGuests)
    assert remote._watch is remote._guests
