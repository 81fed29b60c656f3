"""Which servers are moved, in which order, and why the others are not."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent.model import Migration, Server, ServerProgress, ServerStage, Survey
from ha_agent.policy import Recovery, Select
from ha_agent.recovery import select

TAG = "automatic-recovery"
R = Recovery()


def server(id: str, **fields: object) -> Server:
    return msgspec.structs.replace(
        Server(id=id, name=id, host="c1", status="ACTIVE", tags=(TAG,), local_disk=False), **fields
    )


def planned(
    *servers: Server, migrations: tuple[Migration, ...] = (), recovery: Recovery = R
) -> dict[str, ServerProgress]:
    return {s.id: s for s in select.plan(Survey(servers=servers, migrations=migrations), "c1", recovery)}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tags": ()}, "no tag automatic-recovery"),
        ({"tags": (TAG, "no-recovery")}, "its tag no-recovery"),
        ({"local_disk": True}, "image-backed"),
        ({"local_disk": None}, "not known"),
        ({"status": "PAUSED"}, "does not evacuate a server that is PAUSED"),
        ({"status": "RESCUE"}, "RESCUE"),
        ({"tags": (), "status": "PAUSED"}, "no tag automatic-recovery"),  # what its owner chose comes first
    ],
)
def test_what_is_not_moved_is_named(fields: dict[str, object], reason: str) -> None:
    one = planned(server("s", **fields))["s"]
    assert one.stage is ServerStage.NOT_MOVED
    assert reason in one.reason


@pytest.mark.parametrize("status", ["ACTIVE", "SHUTOFF", "ERROR"])
def test_what_is_moved(status: str) -> None:
    one = planned(server("s", status=status))["s"]
    assert (one.stage, one.prior) == (ServerStage.WAITING, status)


def test_a_server_that_is_listed_twice_is_moved_once() -> None:
    twice = Survey(servers=(server("s"), server("t"), server("s", name="newer")))
    assert [(s.id, s.name) for s in select.plan(twice, "c1", R)] == [("s", "newer"), ("t", "t")]


def test_an_image_backed_server_is_moved_if_somebody_agreed() -> None:
    image = server("s", local_disk=True)
    assert planned(image, recovery=Recovery(image_backed_rebuild=True))["s"].stage is ServerStage.WAITING
    assert planned(image, recovery=Recovery(shared_storage=True))["s"].stage is ServerStage.WAITING
    tagged = server("s", local_disk=True, tags=(TAG, "recover-from-image"))
    assert planned(tagged)["s"].stage is ServerStage.WAITING


def test_higher_priorities_first_and_nonsense_counts_as_none() -> None:
    tags = {
        "a": "recovery-priority:5",
        "b": "recovery-priority:50",
        "c": "recovery-priority:x",
        "d": "recovery-priority:-1",
    }
    servers = tuple(server(k, tags=(TAG, v)) for k, v in tags.items())
    order = [s.id for s in select.plan(Survey(servers=servers), "c1", R)]
    assert order == ["b", "a", "c", "d"]


@pytest.mark.parametrize(
    ("number", "counts_as"),
    [
        ("7", 7),
        ("-7", -7),
        ("999999999", 999999999),
        ("9999999999", 0),  # more than anybody means, and than a journal wants to hold
        *((nonsense, 0) for nonsense in ("", "-", "--5", "5-", "+5", " 5", "5 ", "1_0", "5.0", "\u00b2", "\u0665")),
    ],
)
def test_a_priority_is_a_plain_number(number: str, counts_as: int) -> None:
    """A server's owner writes its tags: none of them may end the recovery of a whole host."""
    assert planned(server("a", tags=(TAG, f"recovery-priority:{number}")))["a"].priority == counts_as


def test_all_can_be_protected_but_the_opt_out_wins() -> None:
    everyone = Recovery(select=Select(all=True))
    plan = planned(server("a", tags=()), server("b", tags=("no-recovery",)), recovery=everyone)
    assert plan["a"].stage is ServerStage.WAITING
    assert plan["b"].stage is ServerStage.NOT_MOVED


def test_an_empty_tag_is_nobodys_choice() -> None:
    """Where the config leaves a tag out, none is meant; even a server whose tags hold an empty one is not chosen by it, nor left."""
    odd = server("a", tags=("",))
    nobody = Select(server_tag="", opt_out_tag="")
    assert planned(odd, recovery=Recovery(select=nobody))["a"].stage is ServerStage.NOT_MOVED
    everyone = msgspec.structs.replace(nobody, all=True)
    assert planned(odd, recovery=Recovery(select=everyone))["a"].stage is ServerStage.WAITING


@pytest.mark.parametrize("kind", ["live-migration", "migration", "evacuation"])
def test_a_server_that_may_run_elsewhere_is_held(kind: str) -> None:
    record = Migration(id=7, server="s", kind=kind, status="running", source="c1", dest="c2")
    one = planned(server("s"), migrations=(record,))["s"]
    assert (one.stage, one.wait_for) == (ServerStage.HELD, ("c2",))
    ended = msgspec.structs.replace(record, status="failed")
    assert planned(server("s"), migrations=(ended,))["s"].stage is ServerStage.WAITING


@pytest.mark.parametrize(
    ("status", "stage"),
    [
        ("accepted", ServerStage.MOVING),
        ("pre-migrating", ServerStage.MOVING),
        ("done", ServerStage.LANDED),
        ("completed", ServerStage.LANDED),
        ("failed", ServerStage.RETRY),
        ("error", ServerStage.RETRY),
        ("something new", ServerStage.MOVING),
    ],
)
def test_the_newest_record_says_how_a_server_is(status: str, stage: ServerStage) -> None:
    record = Migration(id=8, server="s", kind="evacuation", status=status, source="c1", dest="c2")
    assert select.judge(ServerProgress(id="s", baseline=7), record)[0] is stage
    assert select.judge(ServerProgress(id="s", baseline=8), record)[0] is None, "an older record is not ours"
    assert select.judge(ServerProgress(id="s"), None)[0] is None
