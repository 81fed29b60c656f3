"""The directory of hooks: which of its files are run."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
LEFT_OVER = (".dpkg-old", ".dpkg-new", ".dpkg-dist", ".rpmsave", ".rpmnew", ".rpmorig", ".bak", ".orig", ".swp")


@dataclass(frozen=True)
class Found:
    """Of a directory. `programs`: to be run, in the order of their names. `problems`: name and why it must not be run. `left`: files
    that are not run because they are no programs."""

    programs: tuple[Path, ...]
    problems: tuple[tuple[str, str], ...]
    left: tuple[str, ...]


def find(directory: Path) -> Found:
    """The hooks of a directory. Whoever can write one acts as the daemon, so others must not. Raises OSError."""
    programs: list[Path] = []
    problems: list[tuple[str, str]] = []
    left: list[str] = []
    if not _look(directory, str(directory), problems):
        return Found((), tuple(problems), ())
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or path.name.endswith(("~", *LEFT_OVER)) or not path.is_file():
            continue
        if not NAME.fullmatch(path.name):
            problems.append((path.name, "its name has letters other than A-Z a-z 0-9 _ . -, or more than 64"))
        elif not os.access(path, os.X_OK):
            left.append(path.name)
        elif _look(path, path.name, problems):
            programs.append(path)
    return Found(tuple(programs), tuple(problems), tuple(left))


def _look(path: Path, name: str, problems: list[tuple[str, str]]) -> bool:
    found = path.stat()
    if found.st_mode & stat.S_IWOTH:
        problems.append((name, "everybody may change it"))
    elif found.st_uid not in (0, os.geteuid()):
        problems.append((name, f"it belongs to user {found.st_uid}, neither root nor the daemon's"))
    else:
        return True
    return False
