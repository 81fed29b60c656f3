"""What the demo says at its end: times, counts, what became of each server, and which rules were broken."""

from __future__ import annotations

from typing import Any

from ha_agent.model import Incident, Verdict
from ha_agent.sim.demo_books import Books
from ha_agent.sim.demo_failures import Failure
from ha_agent.sim.demo_judge import judge, not_moved

Row = tuple[str, str, str, str, str]


def summary(books: Books, failure: Failure, seed: int, incident: Incident | None) -> dict[str, Any]:
    """The last line of `--json`. Seconds after the death, but for `off_sent_s` (after the last heartbeat); null where there was none.
    What the controller did is taken from the world's books; what it believed, and when, from its incident."""
    silence_at = incident.last_seen_at if incident is not None else None
    evidence_at = incident.stage_at.get("evidence") if incident is not None else None
    off_at = books.first(books.switched, "off")
    first = min((each.at for each in books.evacuated), default=None)
    violations = judge(books, failure, silence_at, evidence_at)
    if incident is not None and incident.verdict not in failure.verdicts | {Verdict.ALIVE}:
        violations.append(f"{books.host} was believed {incident.verdict}: {incident.reason}")
    return {
        "event": "summary",
        "failure": failure.name,
        "seed": seed,
        "host": books.host,
        "verdict": str(incident.verdict) if incident is not None else None,
        "detected_s": _between(books.died_at, incident.opened_at if incident is not None else None),
        "off_sent_s": _between(silence_at, off_at),
        "fenced_s": _between(books.died_at, evidence_at),
        "forced_down_s": _between(books.died_at, books.first(books.forced, True)),
        "first_evacuate_s": _between(books.died_at, first),
        "evidence_to_first_evacuate_s": _between(evidence_at, first),
        "recovered_s": _between(books.died_at, books.recovered_at),
        "returned_s": _between(books.died_at, books.first(books.forced, False)),
        "evacuated": len({each.server for each in books.evacuated}),
        "not_moved": [{"name": name, "reason": reason} for name, reason in sorted(not_moved(books).items())],
        "violations": violations,
    }


def rows(books: Books) -> list[Row]:
    """What became of the servers of the failed host: name, kind, before, now, why it stayed."""
    stayed = not_moved(books)
    found = []
    for guest in books.guests.values():
        if guest.host == books.host:
            status, host, runs = books.ends.get(guest.id, ("?", "?", ()))
            kind = ("tagged" if guest.tagged else "untagged") + (", image-backed" if guest.image_backed else "")
            now = f"{status} on {host}" + ("" if runs or status != "ACTIVE" else ", its guest is off")
            found.append((guest.name, kind, "ACTIVE" if guest.runs else "SHUTOFF", now, stayed.get(guest.name, "")))
    return sorted(found, key=lambda row: (bool(row[4]), row[0]))


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 3)
