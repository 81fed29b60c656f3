"""How the demo looks: for humans with rich, on a terminal or not, or as one JSON object a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

WIDTH = 140  # of tables where nobody says how wide the paper is
STYLES = (
    ("world", "bold magenta"),
    ("blocked", "bold red"),
    ("revoked", "bold red"),
    ("failed", "red"),
    ("is suspect", "yellow"),
    ("opened", "bold yellow"),
    ("off is proven", "bold green"),
    ("forced_down", "cyan"),
    ("settled", "bold green"),
    ("closed", "bold green"),
)
QUIET = (" is seen for the first time", ": bmc is machine ")  # true of every host, and news to nobody here
TIMES = (
    ("detected_s", "believed, incident opened"),
    ("off_sent_s", "off sent to its BMC (since the last heartbeat)"),
    ("fenced_s", "evidence: off, read twice"),
    ("forced_down_s", "forced_down in Nova"),
    ("first_evacuate_s", "first evacuation"),
    ("recovered_s", "every protected server as before"),
    ("returned_s", "the host takes servers again"),
)


class View(Protocol):
    """What the demo tells somebody. `at`: seconds since the death, None before it."""

    def intro(self, lines: Sequence[str]) -> None: ...
    def line(self, at: float | None, text: str, *, world: bool = False) -> None: ...
    def progress(self, done: int, total: int) -> None: ...
    def servers(self, rows: Sequence[tuple[str, str, str, str, str]]) -> None: ...
    def end(self, summary: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


class JsonView:
    """One object a line; the last one is the summary."""

    def intro(self, lines: Sequence[str]) -> None:
        """What is simulated."""
        _print({"event": "intro", "text": " ".join(lines)})

    def line(self, at: float | None, text: str, *, world: bool = False) -> None:
        """One thing that happened."""
        _print({"event": "world" if world else "log", "at_s": None if at is None else round(at, 3), "text": text})

    def progress(self, done: int, total: int) -> None:
        """The evacuation moved on."""
        _print({"event": "progress", "done": done, "total": total})

    def servers(self, rows: Sequence[tuple[str, str, str, str, str]]) -> None:
        """What became of the servers."""
        for name, kind, before, after, why in rows:
            _print({"event": "server", "name": name, "kind": kind, "before": before, "after": after, "reason": why})

    def end(self, summary: Mapping[str, Any]) -> None:
        """The last line."""
        _print(dict(summary))

    def close(self) -> None:
        """Nothing is open."""


class HumanView:
    """Lines, a bar, a table and a summary."""

    def __init__(self) -> None:
        self._console = Console(
            highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else WIDTH
        )
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def intro(self, lines: Sequence[str]) -> None:
        """What is simulated."""
        for line in lines:
            self._console.print(f"[dim]{escape(line)}[/dim]")
        self._console.print()

    def line(self, at: float | None, text: str, *, world: bool = False) -> None:
        """One thing that happened."""
        if any(words in text for words in QUIET):
            return
        style = next((s for word, s in STYLES if word in text), "") if not world else STYLES[0][1]
        when = "        " if at is None else f"{at:+7.2f}s"
        shown = f"[{style}]{escape(text)}[/{style}]" if style else escape(text)
        self._console.print(f"[dim]{when}[/dim]  {'⚡ ' if world else ''}{shown}")

    def progress(self, done: int, total: int) -> None:
        """A bar on a terminal; elsewhere the lines say enough."""
        if not self._console.is_terminal or not total:
            return
        if self._bar is None:
            columns = (TextColumn("          evacuating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("evacuate", total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done)
        if done >= total:
            self._bar.stop()

    def servers(self, rows: Sequence[tuple[str, str, str, str, str]]) -> None:
        """What became of the servers."""
        if not rows:
            return
        table = Table(box=None, padding=(0, 2, 0, 0), title="\nWhat ran on the failed host", title_justify="left")
        for column in ("server", "kind", "before", "now", "why"):
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self._console.print(table)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Times, then whether every rule held."""
        table = Table(
            box=None, show_header=False, padding=(0, 2, 0, 0), title="\nSeconds after its death", title_justify="left"
        )
        for key, text in TIMES:
            if summary.get(key) is not None:
                table.add_row(text, f"{summary[key]:.2f}")
        self._console.print(table)
        violations = summary["violations"]
        for violation in violations:
            self._console.print(f"[bold red]✗ {escape(violation)}[/bold red]")
        if not violations:
            self._console.print(
                "\n[bold green]✓ every rule held[/bold green] (judged from the simulated world's own books: no server ran twice, no other "
                "host was touched, evidence came before every evacuation, each within its time)"
            )

    def close(self) -> None:
        """The bar is gone, the cursor is back."""
        if self._bar is not None:
            self._bar.stop()


def _print(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)
