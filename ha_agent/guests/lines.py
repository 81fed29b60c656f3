"""What the watcher and the remote say to each other over a pipe: JSON, one object a line. Both run on the same machine and are of the
same version: nothing here is kept or sent further."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ha_agent.model import Value

LINE_MAX = 16 * 1024

Server = Annotated[str, Meta(min_length=1, max_length=64)]
Start = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=255)]
Number = Annotated[int, Meta(ge=-(2**31), lt=2**32)]
Time = Annotated[float, Meta(ge=0, le=1e9)]


class Domain(Value, frozen=True, kw_only=True):
    """A domain as libvirt has it. `start`: which start of it runs, empty where none does. `state` and `reason`: libvirt's numbers."""

    server: Server
    start: Start = ""
    state: Number = 0
    reason: Number = 0


class Happened(Value, frozen=True, kw_only=True):
    """One event of libvirt. `what`: which list `first` and `second` are numbers of. `at`: CLOCK_BOOTTIME seconds when we heard of it.
    `start`: of the domain's start that it belongs to. `device`: of an I/O error, as the domain's XML calls it."""

    server: Server
    at: Time
    what: Literal["lifecycle", "watchdog", "reboot", "io_error", "control_error"]
    first: Number = 0
    second: Number = 0
    start: Start = ""
    device: Annotated[str, Meta(max_length=64)] = ""


class Line(Value, frozen=True, kw_only=True):
    """From the watcher. `domain`: one of all that exist · `listed`: these were all · `event` · `settled`: this domain has become otherwise
    since `at`, and has stayed so for a while · `alive`: libvirt has just answered, asked at `at` · `answer` to the Ask `number`: its domain, or none, or (`unsure`) nobody can say · `end`: why no more follows."""

    kind: Literal["domain", "listed", "event", "settled", "alive", "answer", "end"]
    at: Time = 0.0
    domain: Domain | None = None
    event: Happened | None = None
    number: int = 0
    unsure: bool = False
    text: Text = ""


class Ask(Value, frozen=True, kw_only=True):
    """To the watcher: how is this server's domain?"""

    number: int
    server: Server
