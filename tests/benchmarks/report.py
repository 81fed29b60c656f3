"""How a benchmark tells what it measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def head(what: str) -> str:
    """When and on what it was measured, without saying where. Called before anything is measured."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    commit, today = described.stdout.strip() or "unknown", datetime.datetime.now(datetime.UTC).date()
    return (
        f"make {what}, {today}, commit {commit}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f} before it began"
    )


def tell(text: str) -> None:
    """On the way: what is measured now."""
    print(text, file=sys.stderr, flush=True)


def report(first: str, table: str, notes: str, keep: Path | None) -> None:
    """At the end: all of it, and the file in which it is kept."""
    text = f"{first}\n\n{table}\n\n{notes}\n"
    print(text)
    if keep is not None:
        keep.write_text(text)
