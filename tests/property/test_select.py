"""Which servers are moved, for any listing by Nova."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ha_agent.model import MIGRATION_ENDED, Migration, Server, ServerProgress, ServerStage, Survey
from ha_agent.policy import Recovery, Select
from ha_agent.recovery import select
from tests.property.conftest import TIMES

IDS = ("s1", "s2", "s3", "s4")
TAGS = (
    "automatic-recovery",
    "no-recovery",
    "recover-from-image",
    "recovery-priority:5",
    "recovery-priority:x",
    "other",
)
STATUSES = (*sorted(MIGRATION_ENDED), "accepted", "pre-migrating", "running", "something new", "")

odd_priorities = (st.text(alphabet="-+_ .0123456789\u00b2\u0665x", max_size=12) | st.text(max_size=4)).map(
    "recovery-priority:{}".format
)
servers = st.builds(
    Server,
    id=st.sampled_from(IDS),
    name=st.sampled_from(["", "a", "b"]),
    host=st.just("c1"),
    status=st.sampled_from(["ACTIVE", "ACTIVE", "SHUTOFF", "ERROR", "PAUSED", "REBUILD", ""]),
    tags=st.lists(st.sampled_from((*TAGS, *TAGS, "no-recovery", "Ünknown")) | odd_priorities, max_size=4).map(tuple),
    local_disk=st.sampled_from([False, False, None, True]),
)
migrations = st.builds(
    Migration,
    id=st.integers(1, 9),
    server=st.sampled_from([*IDS, "unknown"]),
    kind=st.sampled_from(["evacuation", "live-migration", "migration", ""]),
    status=st.sampled_from(STATUSES),
    source=st.sampled_from(["c1", "c2", ""]),
    dest=st.sampled_from(["c1", "c3", ""]),
)
surveys = st.builds(
    Survey,
    servers=st.lists(servers, max_size=4, unique_by=lambda s: s.id).map(tuple),
    migrations=st.lists(migrations, max_size=6, unique_by=lambda m: m.id).map(tuple),
)
recoveries = st.builds(
    Recovery,
    select=st.builds(Select, all=st.booleans(), server_tag=st.sampled_from(["automatic-recovery", ""])),
    image_backed_rebuild=st.booleans(),
    shared_storage=st.booleans(),
)


def moved(survey: Survey, recovery: Recovery) -> set[str]:
    """Who is chosen: now, or when it is proven to run nowhere else."""
    return {s.id for s in select.plan(survey, "c1", recovery) if s.stage is not ServerStage.NOT_MOVED}


@settings(max_examples=200 * max(TIMES, 1))
@given(surveys, recoveries)
def test_every_server_is_there_once_and_what_stays_has_a_reason(survey: Survey, recovery: Recovery) -> None:
    plan = select.plan(survey, "c1", recovery)
    assert sorted(s.id for s in plan) == sorted(s.id for s in survey.servers)
    rows = {s.id: s for s in survey.servers}
    for each in plan:
        assert bool(each.reason) == (each.stage is not ServerStage.WAITING), each
        assert bool(each.wait_for) == (each.stage is ServerStage.HELD), each
        assert each.prior == rows[each.id].status
        if each.stage is not ServerStage.NOT_MOVED:
            assert "no-recovery" not in each.tags
            assert rows[each.id].status in ("ACTIVE", "SHUTOFF", "ERROR", "REBUILD")
    leaving = [s.priority for s in plan if s.stage is not ServerStage.NOT_MOVED]
    assert leaving == sorted(leaving, reverse=True)
    assert [s.id for s in plan[: len(leaving)]] == [s.id for s in plan if s.stage is not ServerStage.NOT_MOVED]


@settings(max_examples=200 * max(TIMES, 1))
@given(surveys, recoveries)
def test_a_server_that_may_run_elsewhere_is_not_moved_at_once(survey: Survey, recovery: Recovery) -> None:
    for each in select.plan(survey, "c1", recovery):
        open_ones = [m for m in survey.migrations if m.server == each.id and m.status not in MIGRATION_ENDED]
        if each.stage is ServerStage.WAITING:
            assert all({m.source, m.dest} <= {"c1", ""} for m in open_ones)
        ours = [m.id for m in survey.migrations if m.server == each.id and m.kind == "evacuation"]
        assert each.baseline == max(ours, default=0), "only records that are newer than our attempt are ours"


@given(surveys, recoveries, st.sampled_from([None, True]))
def test_knowing_less_never_widens_the_choice(survey: Survey, recovery: Recovery, disk: bool | None) -> None:
    before = moved(survey, recovery)

    def each(**changes: Any) -> Survey:
        return msgspec.structs.replace(
            survey, servers=tuple(msgspec.structs.replace(s, **changes) for s in survey.servers)
        )

    assert moved(each(local_disk=disk), recovery) <= before
    assert moved(each(status=""), recovery) == set()
    if not recovery.select.all:
        assert moved(each(tags=()), recovery) == set()
    out = tuple(msgspec.structs.replace(s, tags=(*s.tags, "no-recovery")) for s in survey.servers)
    assert moved(msgspec.structs.replace(survey, servers=out), recovery) == set()


@given(surveys, recoveries, st.permutations(range(4)))
def test_the_order_of_nova_s_rows_means_nothing(survey: Survey, recovery: Recovery, order: list[int]) -> None:
    rows = [survey.servers[n] for n in order if n < len(survey.servers)]
    other = msgspec.structs.replace(survey, servers=tuple(rows), migrations=survey.migrations[::-1])
    assert select.plan(other, "c1", recovery) == select.plan(survey, "c1", recovery)


@given(st.none() | migrations, st.integers(0, 9))
def test_only_a_newer_record_speaks_of_our_attempt(record: Migration | None, baseline: int) -> None:
    stage, _, dest = select.judge(ServerProgress(id="s1", baseline=baseline), record)
    if record is None or record.id <= baseline:
        assert (stage, dest) == (None, "")
    else:
        assert (stage is ServerStage.MOVING) == (record.status not in MIGRATION_ENDED)
        assert (stage is ServerStage.LANDED) == (record.status in ("done", "completed"))
