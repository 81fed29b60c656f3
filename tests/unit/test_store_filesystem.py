"""Network file systems are recognised from the kernel's own table."""

from __future__ import annotations

from pathlib import Path

import pytest

from ha_agent.errors import StoreError
from ha_agent.store import sqlite
from ha_agent.store.filesystem import fs_type, is_network

MOUNTINFO = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /srv rw - nfs4 filer:/export rw
31 30 8:2 / /srv/local rw,noatime shared:3 master:1 - xfs /dev/sdb rw
32 22 0:26 / /srvx rw - ceph mon:/ rw
33 22 0:27 / /with\040blank rw - fuse.glusterfs vol rw
34 22 0:28 / /over rw - ext4 /dev/sdc rw
35 34 0:29 / /over rw - cifs //filer/share rw
garbage
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/var/lib", "ext4", False),
        ("/srv", "nfs4", True),
        ("/srv/deep/below", "nfs4", True),
        ("/srv/local/x", "xfs", False),
        ("/srvx", "ceph", True),
        ("/with blank/x", "fuse.glusterfs", True),
        ("/over", "cifs", True),
    ],
)
def test_the_longest_and_last_mount_decides(path: str, kind: str, network: bool) -> None:
    assert fs_type(Path(path), MOUNTINFO) == kind
    assert is_network(kind) is network


@pytest.mark.parametrize("kind", ["nfs", "smb3", "9p", "lustre", "afs", "fuse.sshfs", "fuse"])
def test_network_kinds(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", ""])
def test_local_kinds(kind: str) -> None:
    assert not is_network(kind)


def test_this_machine_can_be_asked(tmp_path: Path) -> None:
    assert fs_type(tmp_path)


def test_the_store_refuses_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "fs_type", lambda path: "nfs4")
    with pytest.raises(StoreError, match=r"network or FUSE file system \(nfs4\)") as caught:
        sqlite.SqliteStore(tmp_path / "store.db")
    assert "etcd" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
