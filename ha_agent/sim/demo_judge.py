"""Whether every rule held, judged from the world's own books. Pure: what the controller believes of itself is not asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ha_agent.sim.demo_books import Books, Guest
from ha_agent.sim.demo_failures import Failure

EVACUATE_WITHIN_S = 1.0  # evidence → first evacuate


def judge(books: Books, failure: Failure, silence_at: float | None, evidence_at: float | None) -> list[str]:
    """Every rule that was broken, one sentence each; empty when all held. `silence_at`: the last heartbeat; `evidence_at`: when the
    controller had its evidence (boottime seconds)."""
    errors = [f"an error was logged: {line}" for line in books.errors]
    if books.died_at is None:
        return ["nothing was shown: the failure was never made", *errors]
    return [
        *_guests_run_once(books),
        *_fences(books, failure),
        *_evacuations(books, failure),
        *_servers(books, failure),
        *_return(books),
        *_times(books, failure, silence_at, evidence_at),
        *_notifications(books, failure),
        *errors,
    ]


def _guests_run_once(books: Books) -> Iterator[str]:
    for server in sorted(set(books.doubles)):
        yield f"S1: {_name(books, server)} ran on two hosts"
    for server in sorted(set(books.ruined)):
        yield f"{_name(books, server)} was evacuated a second time during the first"


def _fences(books: Books, failure: Failure) -> Iterator[str]:
    for host, command in sorted({(host, command) for _, host, command in books.switched}):
        if host != books.host:
            yield f"S5: {host} got a power {command}, and nothing was wrong with it"
        elif not failure.fenced:
            yield f"S5: {host} got a power {command}; a failure of this kind calls for none"
    for host in sorted({host for _, host, value in books.forced if value}):
        if host != books.host or not failure.fenced:
            yield f"S3: Nova was told that {host} is down, and it is not"
    forced_at = books.first(books.forced, True)
    for each in books.evacuated:
        if forced_at is None or each.at < forced_at:
            yield f"S3: {_name(books, each.server)} was evacuated before its host was forced down"


def _evacuations(books: Books, failure: Failure) -> Iterator[str]:
    for each in books.evacuated:
        name = _name(books, each.server)
        if each.ran:
            yield f"S2: {name} was evacuated while it still ran on {each.source}"
        if each.source != books.host or not failure.fenced:
            yield f"{name} was evacuated from {each.source}, which did not die"
        elif not books.guests[each.server].protected:
            yield f"{name} was evacuated and is not protected"
    for server, times in Counter(each.server for each in books.evacuated).items():
        if times > 1:
            yield f"{_name(books, server)} was evacuated {times} times"


def _servers(books: Books, failure: Failure) -> Iterator[str]:
    for guest in books.guests.values():
        status, host, runs = books.ends.get(guest.id, ("", "", ()))
        struck = guest.host == books.host and (failure.fenced or failure.restarted)
        if struck and failure.recovers(guest):
            yield from _recovered(guest, failure, status, host, runs)
        elif struck:
            if host != guest.host:
                yield f"{guest.name} is not protected and yet left {guest.host} for {host}"
            if any(server == guest.id for _, server in books.started):
                yield f"{guest.name} is not protected and yet was started"
        elif (host, runs) != (guest.host, (guest.host,) if guest.runs else ()):
            yield f"{guest.name} on {guest.host} was not concerned, and is {status} on {host}, running on {_list(runs)}"


def _recovered(guest: Guest, failure: Failure, status: str, host: str, runs: tuple[str, ...]) -> Iterator[str]:
    wanted = "ACTIVE" if guest.runs else "SHUTOFF"
    if status != wanted:
        yield f"{guest.name} was {wanted} before and is {status or 'gone'}"
    if failure.fenced and host == guest.host:
        yield f"{guest.name} is protected and was not moved from {guest.host}"
    if failure.restarted and host != guest.host:
        yield f"{guest.name} was moved from {guest.host}, which had come back"
    if runs != ((host,) if guest.runs else ()):
        yield f"{guest.name} is {status} on {host}, and really runs on {_list(runs)}"


def _return(books: Books) -> Iterator[str]:
    if not books.up_again:
        yield f"{books.host} is not up in Nova at the end, or still forced down"
    if books.unfinished:
        names = ", ".join(_name(books, server) for server in books.unfinished)
        yield f"evacuation records are not completed at the end: {names}"


def _times(books: Books, failure: Failure, silence_at: float | None, evidence_at: float | None) -> Iterator[str]:
    off_at = books.first(books.switched, "off")
    if (failure.fenced or failure.restarted) and books.recovered_at is None:
        yield "the protected servers never were all in their prior state"
    if failure.off_within_s is not None:
        if off_at is None or silence_at is None:
            yield f"no power off reached the BMC of {books.host}"
        elif off_at - silence_at > failure.off_within_s:
            yield (
                f"L1: off was sent {off_at - silence_at:.2f} s after the last heartbeat, "
                f"allowed are {failure.off_within_s:.1f}"
            )
    if books.evacuated:
        first = min(each.at for each in books.evacuated)
        if evidence_at is None or evidence_at > first:
            yield "S2: a server was evacuated before there was evidence"
        elif first - evidence_at > EVACUATE_WITHIN_S:
            yield (
                f"L1: {first - evidence_at:.2f} s passed from evidence to the first evacuation, "
                f"allowed are {EVACUATE_WITHIN_S:.1f}"
            )


def _notifications(books: Books, failure: Failure) -> Iterator[str]:
    arrived = [n.event_type for _, n in books.notes if _host(n.payload) in (books.host, "")]
    rest: Sequence[str] = arrived
    for wanted in failure.order:
        if wanted not in rest:
            place = "too early" if wanted in arrived else "never"
            yield f"the notification {wanted} arrived {place}; in this order came: {', '.join(arrived)}"
            return
        rest = rest[rest.index(wanted) + 1 :]
    if failure.fenced:
        told = not_moved(books)
        for guest in books.guests.values():
            if guest.host == books.host and not failure.recovers(guest) and not told.get(guest.name):
                yield f"{guest.name} stayed on {guest.host}, and no notification says why"


def not_moved(books: Books) -> dict[str, str]:
    """Servers that stayed, by name, with the reason that the notifications gave."""
    return {
        str(data.get("name")): str(data.get("why"))
        for _, n in books.notes
        if n.event_type == "server.not_moved" and (data := payload(n.payload))
    }


def payload(body: dict[str, object]) -> dict[str, object]:
    """The fields of a notification's object."""
    data = body.get("ha_agent_object.data")
    return data if isinstance(data, dict) else {}


def _host(body: dict[str, object]) -> str:
    return str(payload(body).get("host", ""))


def _name(books: Books, server: str) -> str:
    return books.guests[server].name if server in books.guests else server


def _list(hosts: tuple[str, ...]) -> str:
    return ", ".join(hosts) or "no host"
