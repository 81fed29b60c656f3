"""What a test run left out, and why: one line per test, kept in a file so that several runs of pytest end with one list."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path


def add(path: Path, entries: Iterable[tuple[str, str]]) -> None:
    """Appends (test, reason) pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{test}\t{reason}\n" for test, reason in entries)


def read(path: Path) -> list[tuple[str, str]]:
    """The pairs of all runs; empty where nothing was left out."""
    if not path.exists():
        return []
    pairs = (line.partition("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return [(test, reason) for test, _, reason in pairs]


def render(entries: Iterable[tuple[str, str]]) -> str:
    """For a human: grouped by reason."""
    by_reason: dict[str, list[str]] = {}
    for test, reason in entries:
        by_reason.setdefault(reason, []).append(test)
    if not by_reason:
        return "every test was run"
    count = sum(len(tests) for tests in by_reason.values())
    lines = [f"{count} test{'s were' if count > 1 else ' was'} NOT run:"]
    for reason, tests in sorted(by_reason.items()):
        lines.append(f"  because {reason}:")
        lines += [f"    {test}" for test in sorted(set(tests))]
    return "\n".join(lines)


if __name__ == "__main__":
    print(render(read(Path(sys.argv[1]))))
