"""Which servers of a failed host are moved, in which order, and why the others are not. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ha_agent.model import (
    EVACUATION_LANDED,
    MIGRATION_ENDED,
    Migration,
    Server,
    ServerProgress,
    ServerStage,
    Survey,
)
from ha_agent.policy import Recovery, Select

REBOOTING = frozenset({"REBOOT", "HARD_REBOOT"})
"""Somebody's reboot was under way when the host died: it ran, and nothing else can end that task."""

MOVABLE = frozenset({"ACTIVE", "SHUTOFF", "ERROR", "REBUILD"}) | REBOOTING
"""Statuses from which Nova accepts an evacuation (REBUILD: one that never ended)."""

REBUILD_TAG = "recover-from-image"
EVACUATION = "evacuation"
NOBODY_KNOWS = "?"


def chosen(server: Server, select: Select) -> str:
    """Empty if the server is protected, otherwise why it is not. What cannot be read narrows the choice (S9)."""
    if select.opt_out_tag and select.opt_out_tag in server.tags:
        return f"its tag {select.opt_out_tag} says so"
    if select.all or (select.server_tag and select.server_tag in server.tags):
        return ""
    return f"it has no tag {select.server_tag}"


def priority(server: Server, select: Select) -> int:
    """From a tag like `recovery-priority:10`; higher goes first. A tag that is no number, or has more than nine digits, counts as 0."""
    prefix = f"{select.priority_tag}:"
    numbers = [t.removeprefix(prefix) for t in server.tags if t.startswith(prefix)]
    return max((int(n) for n in numbers if _counts(n.removeprefix("-"))), default=0)


def _counts(digits: str) -> bool:
    """Whether they are a number that somebody means: of any other text `int` may raise."""
    return digits.isascii() and digits.isdigit() and len(digits) < 10


def disk_lost(server: Server, recovery: Recovery) -> str:
    """Why a rebuild would lose the server's data; empty if it would not, or if that was agreed to."""
    if recovery.shared_storage or recovery.image_backed_rebuild or REBUILD_TAG in server.tags:
        return ""
    if server.local_disk is None:
        return "whether its disk survives its host is not known"
    if server.local_disk:
        return f"it is image-backed: a rebuild loses its data (tag it {REBUILD_TAG} to agree)"
    return ""


def newest(migrations: Iterable[Migration]) -> dict[str, Migration]:
    """The newest evacuation record of each server: the only one that counts."""
    result: dict[str, Migration] = {}
    for m in migrations:
        if m.kind == EVACUATION and (m.server not in result or m.id > result[m.server].id):
            result[m.server] = m
    return result


def by_server(migrations: Iterable[Migration]) -> dict[str, list[Migration]]:
    """The records of each server, for looking at one server after the other."""
    result: dict[str, list[Migration]] = {}
    for m in migrations:
        result.setdefault(m.server, []).append(m)
    return result


def elsewhere(server: str, host: str, migrations: Iterable[Migration]) -> tuple[str, ...]:
    """S2: hosts other than `host` on which an unfinished migration may have started, or may yet start, the server; `NOBODY_KNOWS` where
    Nova has not said which: the request may wait in the queue of any host."""
    named = {
        h or NOBODY_KNOWS
        for m in migrations
        if m.server == server and m.status not in MIGRATION_ENDED
        for h in (m.source, m.dest)
        if h != host
    }
    return tuple(sorted(named))


def plan(
    survey: Survey, host: str, recovery: Recovery, known: Iterable[ServerProgress] = ()
) -> tuple[ServerProgress, ...]:
    """Every server of the host, those to be moved first, by priority. `known`: what was learned of them before."""
    void = {(s.id, number) for s in known for number in s.void}
    records = newest(survey.migrations)
    moves = by_server(m for m in survey.migrations if (m.server, m.id) not in void)
    result = []
    for server in {s.id: s for s in survey.servers}.values():  # a list over pages may name one twice
        reason = chosen(server, recovery.select) or disk_lost(server, recovery)
        if not reason and server.status not in MOVABLE:
            reason = f"Nova does not evacuate a server that is {server.status}"
        stage = ServerStage.NOT_MOVED if reason else ServerStage.WAITING
        wait_for: tuple[str, ...] = ()
        if not reason:
            wait_for = elsewhere(server.id, host, moves.get(server.id, ()))
            if wait_for:
                names = [h if h != NOBODY_KNOWS else "no destination yet" for h in wait_for]
                stage, reason = ServerStage.HELD, f"an unfinished migration names {', '.join(names)}"
        record = records.get(server.id)
        result.append(
            ServerProgress(
                id=server.id,
                name=server.name,
                project_id=server.project_id,
                tags=server.tags,
                prior="ACTIVE" if server.status in REBOOTING else server.status,
                stage=stage,
                reason=reason,
                priority=priority(server, recovery.select),
                baseline=record.id if record else 0,
                wait_for=wait_for,
            )
        )
    return tuple(sorted(result, key=lambda s: (s.stage is ServerStage.NOT_MOVED, -s.priority, s.name, s.id)))


def judge(progress: ServerProgress, record: Migration | None) -> tuple[ServerStage | None, str, str]:
    """What the newest evacuation record says of a server in flight: (stage or None when it says nothing yet, reason, destination)."""
    if record is None or record.id <= progress.baseline:
        return None, "", ""
    if record.status in EVACUATION_LANDED:
        return ServerStage.LANDED, "", record.dest
    if record.status in MIGRATION_ENDED:
        return ServerStage.RETRY, f"Nova ended its evacuation as {record.status}", record.dest
    return ServerStage.MOVING, f"Nova says {record.status}", record.dest
