"""What the demo's world writes down while the controller works, beside it and without asking it. The judge reads this alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from ha_agent.model import Notification
from ha_agent.sim.nova_state import NovaState, SimHost


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A server before the failure. `runs`: whether its guest runs; `protected`: it is tagged, and keeps its disk when it moves."""

    id: str
    name: str
    host: str
    runs: bool
    tagged: bool
    image_backed: bool

    @property
    def protected(self) -> bool:
        """Whether it must be moved when its host dies."""
        return self.tagged and not self.image_backed


@dataclass(frozen=True, kw_only=True)
class Evacuated:
    """An evacuation that Nova accepted. `ran`: the guest still ran on its old host at that moment."""

    at: float
    server: str
    source: str
    ran: bool


@dataclass
class Books:
    """All `at` are boottime seconds. `switched`: power commands as they reached a BMC. `ends`: how each server stands when all is over:
    (status, host as Nova has it, hosts on which it really runs)."""

    host: str = ""
    died_at: float | None = None
    guests: dict[str, Guest] = field(default_factory=dict)
    switched: list[tuple[float, str, str]] = field(default_factory=list)
    forced: list[tuple[float, str, bool]] = field(default_factory=list)
    evacuated: list[Evacuated] = field(default_factory=list)
    started: list[tuple[float, str]] = field(default_factory=list)
    doubles: list[str] = field(default_factory=list)
    ruined: list[str] = field(default_factory=list)
    notes: list[tuple[float, Notification]] = field(default_factory=list)
    recovered_at: float | None = None
    ends: dict[str, tuple[str, str, tuple[str, ...]]] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)  # evacuation records that are not completed at the end
    up_again: bool = False  # Nova calls the host up, not forced down, at the end
    errors: list[str] = field(default_factory=list)  # lines of any log at level error, and what else broke

    def first(self, what: list[tuple[float, str, str]] | list[tuple[float, str, bool]], value: object) -> float | None:
        """When the failed host first got `value`."""
        return next((at for at, host, seen in what if host == self.host and seen == value), None)


class WatchedNova(NovaState):
    """NovaState that writes down what it was made to do."""

    def __init__(self, clock: Callable[[], float], rng: random.Random, books: Books, report_s: float) -> None:
        super().__init__(clock, rng, report_s=report_s)
        self._books = books

    def evacuate(self, server_id: str, microversion: tuple[int, int] = (2, 94), target: str | None = None) -> None:
        """See NovaState."""
        source = self.server(server_id).host
        super().evacuate(server_id, microversion, target)
        ran = source in self.runs.get(server_id, ())
        self._books.evacuated.append(Evacuated(at=self.clock(), server=server_id, source=source, ran=ran))

    def force_down(self, service_id: str, value: bool) -> SimHost:
        """See NovaState."""
        row = super().force_down(service_id, value)
        self._books.forced.append((self.clock(), row.name, value))
        return row

    def start(self, server_id: str) -> None:
        """See NovaState."""
        super().start(server_id)
        self._books.started.append((self.clock(), server_id))

    def reboot(self, server_id: str) -> None:
        """See NovaState."""
        super().reboot(server_id)
        self._books.started.append((self.clock(), server_id))
