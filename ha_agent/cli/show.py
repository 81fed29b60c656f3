"""Printing. On a terminal with colours; otherwise, and with --json, plain text that other programs can read."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Row = Sequence[str]
COLOURS = {
    "alive": "green", "up": "green", "ok": "green", "verified": "green", "open gate": "green",
    "suspect": "yellow", "partitioned": "yellow", "agent_lost": "yellow", "unknown": "yellow", "never_seen": "yellow",
    "rebooted": "yellow", "waiting": "yellow", "maintenance": "yellow", "not_moved": "yellow", "given_up": "yellow",
    "down": "red", "off": "red", "hung": "red", "open": "red", "blocked": "red",
}  # fmt: skip


def clean(text: str) -> str:
    """Text of others (names of servers, errors of devices) without what would steer the terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def terminal() -> bool:
    """Whether a person reads our output."""
    return sys.stdout.isatty()


def asks() -> bool:
    """Whether a person can answer a question."""
    return sys.stdin.isatty()


def print_json(value: Any, *, compact: bool = False) -> None:
    """One JSON document; non-ASCII is escaped, so that nothing in it steers a terminal."""
    print(json.dumps(value, indent=None if compact else 2), flush=True)


def console() -> Console:
    """Where a person reads. Nothing is taken for markup: names may hold brackets."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def heading(text: str) -> None:
    """A line that begins a part."""
    if terminal():
        from rich.text import Text

        console().print(Text(clean(text), style="bold"), soft_wrap=True)
    else:
        print(clean(text))


def line(text: str = "") -> None:
    """A line of text, as it is."""
    print(clean(text))


def table(columns: Row, rows: Sequence[Row]) -> None:
    """Rows below the names of their columns."""
    if terminal():
        console().print(rendered(columns, rows))
    else:
        print("\n".join(plain(columns, rows)))


def rendered(columns: Row, rows: Sequence[Row]) -> RenderableType:
    """The same for a terminal."""
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        found.add_column(column, overflow="fold")
    for row in rows:
        found.add_row(*(Text(clean(cell), style=COLOURS.get(cell.split(" ")[0], "")) for cell in row))
    return found


def plain(columns: Row, rows: Sequence[Row]) -> list[str]:
    """The same as lines, in columns that are as wide as they must be."""
    every = [list(columns), *([clean(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in every]


def when(wall: float | None) -> str:
    """A time of day with its date, in this machine's zone."""
    if not wall:
        return "?"
    return datetime.fromtimestamp(wall).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def clock(wall: float) -> str:
    """A time of day."""
    return datetime.fromtimestamp(wall).astimezone().strftime("%H:%M:%S") if wall else "--:--:--"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "never"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
