"""Which file system a path is on. SQLite's locks and its shared memory hold on local file systems only."""

from __future__ import annotations

import re
from pathlib import Path

# File systems that several machines write, by the names of /proc/self/mountinfo.
NETWORK = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fuse",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "virtiofs",
    }
)


def is_network(fs_type: str) -> bool:
    """Whether other machines may write there. Any FUSE file system may be one, so all are refused (fuseblk is a local disk)."""
    return fs_type in NETWORK or fs_type.startswith("fuse.")


def fs_type(path: Path, mountinfo: str | None = None) -> str:
    """The type of the file system that holds `path` (which exists); empty where that cannot be said."""
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return ""
    found, kind = Path(), ""
    real = path.resolve()
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        if len(fields) < 5 or not after:
            continue
        mount = Path(_unescape(fields[4]))
        # The longest mount point wins; of several on one point the last one, which hides the others.
        if (real == mount or mount in real.parents) and len(mount.parts) >= len(found.parts):
            found, kind = mount, types[0]
    return kind


def _unescape(text: str) -> str:
    r"""The kernel writes blanks in mount points as \040 and the like."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
