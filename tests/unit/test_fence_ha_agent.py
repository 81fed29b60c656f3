"""fence_ha_agent against a controller that says what the test says: only evidence and forced_down are a success, never a time-out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ha_agent.api.facade import DeviceHealth, HostViewSummary, LeaderInfo
from ha_agent.api.views import HostDetail, HostRow, Status, detail
from ha_agent.errors import HaAgentError, Unanswered, UsageError
from ha_agent.fenceagents import agent, proof
from ha_agent.fenceagents.options import Options
from ha_agent.fenceagents.run import Answer, World
from ha_agent.model import (
    Evidence,
    EvidenceKind,
    HostRecord,
    Incident,
    Kind,
    Order,
    Phase,
    Power,
    Reading,
    State,
    Step,
    Verdict,
)
from ha_agent.plans import FENCE_AND_TELL, RESTART, TELL
from tests.unit.cli_support import Controller, served
from tests.unit.decide_support import incident

ASKED = 1000.0
replace = msgspec.structs.replace


def evidence(at: float, kind: EvidenceKind = EvidenceKind.DEVICES) -> Evidence:
    readings = tuple(Reading(device="bmc", power=Power.OFF, at=t) for t in (at - 0.5, at))
    return Evidence(kind=kind, at=at, readings=readings if kind is EvidenceKind.DEVICES else (), by="ann")


def proven(at: float = ASKED + 5, step: Step = Step.ANNOUNCE, **changes: Any) -> Incident:
    """Evidence, and Nova knows."""
    return incident(step, evidence=evidence(at), forced=True, **changes)


def seen(
    found: Incident | None,
    now: float = ASKED + 10,
    verdict: Verdict = Verdict.DOWN,
    devices: tuple[DeviceHealth, ...] = (),
    **view: Any,
) -> HostDetail:
    """What the controller answers about h1."""
    summary = replace(HostViewSummary(host="h1", verdict=verdict, connected=verdict is Verdict.ALIVE), **view)
    state = State(hosts={"h1": HostRecord(host="h1")}, incidents={} if found is None else {found.id: found})
    return detail(summary, state, devices, now)


def bmc(power: Power, age_s: float | None, *, ok: bool = True, name: str = "bmc") -> DeviceHealth:
    return DeviceHealth(host="h1", device=name, level=1, driver="ipmi", ok=ok, power=power, checked_age_s=age_s)


# --- what is proof ---


def test_evidence_and_forced_down_since_the_question_are_proof() -> None:
    assert proof.not_off(seen(proven()), ASKED) == ""
    assert proof.not_off(seen(proven(ASKED)), ASKED) == ""
    assert "bmc read off twice; forced_down is set (incident i1)" in proof.describe_off(seen(proven()))


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (None, "no open incident"),
        (replace(proven(), phase=Phase.CLOSED), "no open incident"),
        (replace(proven(), kind=Kind.GUEST), "no open incident"),
        (replace(proven(), evidence=None), "at announce"),
        (incident(Step.FENCE, blocked="fencing failed: bmc", release="ha-agent confirm-fenced h1"), "to release it"),
        (incident(Step.FENCE, waiting="the verdict is being confirmed"), "being confirmed"),
        (proven(step=Step.FENCE), "Nova does not know"),
        (proven(step=Step.FORCE_DOWN), "Nova does not know"),
        (replace(proven(), forced=False), "Nova does not know"),
        (incident(Step.ANNOUNCE, TELL, evidence=evidence(ASKED + 5), forced=True), "at announce"),
        (incident(Step.RESTART, RESTART, evidence=evidence(ASKED + 5), forced=True), "at restart"),
    ],
)
def test_less_is_none(found: Incident | None, says: str) -> None:
    assert says in proof.not_off(seen(found), ASKED)


def test_notify_mode_is_proof_too() -> None:
    found = incident(Step.AWAIT_RETURN, FENCE_AND_TELL, evidence=evidence(ASKED + 1), forced=True)
    assert proof.not_off(seen(found), ASKED) == ""


def test_older_evidence_counts_with_a_look_since_the_question() -> None:
    old = proven(ASKED - 200, Step.AWAIT_RETURN, settled=True)
    assert "210 s ago" in proof.not_off(seen(old), ASKED)
    assert proof.not_off(seen(old, devices=(bmc(Power.OFF, 9.0),)), ASKED) == ""
    for devices in (
        (bmc(Power.OFF, 10.5),),  # looked at before the question
        (bmc(Power.OFF, None),),
        (bmc(Power.ON, 1.0),),
        (bmc(Power.UNKNOWN, 1.0, ok=False),),
        (bmc(Power.OFF, 1.0, ok=False),),  # it says that it is another machine
        (bmc(Power.OFF, 1.0, name="pdu"),),  # not the one of the evidence
        (bmc(Power.OFF, 1.0), bmc(Power.ON, 1.0, name="pdu")),
    ):
        assert proof.not_off(seen(old, devices=devices), ASKED) != ""


def test_a_host_that_is_brought_back_was_off_only_if_that_was_after_the_question() -> None:
    for change in ({"powered_on": True}, {"new_boot_id": "b2"}):
        look = (bmc(Power.OFF, 1.0),)
        assert proof.not_off(seen(proven(ASKED + 1, **change), devices=look), ASKED) == ""
        assert "brought back" in proof.not_off(seen(proven(ASKED - 1, **change), devices=look), ASKED)


def test_a_persons_word_does_not_age_while_the_host_is_silent() -> None:
    word = replace(proven(), evidence=evidence(ASKED - 500, EvidenceKind.CONFIRMATION))
    assert proof.not_off(seen(word), ASKED) == ""
    assert proof.not_off(seen(word, verdict=Verdict.ALIVE), ASKED) != ""
    assert proof.not_off(seen(replace(word, powered_on=True)), ASKED) != ""


def test_times_of_another_boot_of_the_controller_prove_nothing() -> None:
    assert "restarted" in proof.not_off(seen(proven(ASKED + 5), now=ASKED - 1), ASKED)


@pytest.mark.parametrize(
    ("found", "verdict", "devices", "power"),
    [
        (None, Verdict.ALIVE, (), Power.ON),
        (None, Verdict.ALIVE, (bmc(Power.OFF, 1.0),), Power.ON),
        (proven(), Verdict.DOWN, (bmc(Power.ON, 200.0),), Power.OFF),
        (proven(powered_on=True), Verdict.DOWN, (bmc(Power.ON, 1.0),), Power.ON),
        (proven(powered_on=True), Verdict.DOWN, (), Power.UNKNOWN),
        (None, Verdict.DOWN, (), Power.UNKNOWN),
        (None, Verdict.DOWN, (bmc(Power.OFF, 1.0),), Power.OFF),
        (None, Verdict.DOWN, (bmc(Power.OFF, 1.0), bmc(Power.UNKNOWN, 1.0, ok=False)), Power.UNKNOWN),
        (None, Verdict.SUSPECT, (bmc(Power.OFF, 1.0, ok=False),), Power.UNKNOWN),
    ],
)
def test_power(found: Incident | None, verdict: Verdict, devices: tuple[DeviceHealth, ...], power: Power) -> None:
    assert proof.power(seen(found, verdict=verdict, devices=devices)) is power


@pytest.mark.parametrize(
    ("found", "view", "says"),
    [
        (None, {"verdict": Verdict.ALIVE}, ""),
        (None, {"verdict": Verdict.ALIVE, "gate": "open"}, ""),
        (None, {"verdict": Verdict.ALIVE, "gate": "waiting"}, "gate"),
        (None, {"verdict": Verdict.ALIVE, "connected": False}, "alive"),
        (None, {"verdict": Verdict.SUSPECT, "reason": "silent"}, "suspect: silent"),
        (proven(step=Step.UNFENCE), {"verdict": Verdict.ALIVE}, "unfence"),
        (replace(proven(), phase=Phase.CLOSED), {"verdict": Verdict.ALIVE}, ""),
        (replace(proven(), kind=Kind.GUEST), {"verdict": Verdict.ALIVE}, ""),
    ],
)
def test_a_clean_host(found: Incident | None, view: dict[str, Any], says: str) -> None:
    why = proof.not_clean(seen(found, **view))
    assert (says in why) if says else why == ""


# --- the actions ---


class Fake:
    """A controller and its time. `story`: from which second after the question on it answers what; an exception is raised."""

    def __init__(self, *story: tuple[float, HostDetail | Exception], status: Status | None = None) -> None:
        self.t = 50.0
        self.story: Sequence[tuple[float, HostDetail | Exception]] = story
        self.found = status or _status()
        self.orders: list[tuple[float, Order, str]] = []
        self.refuse: Callable[[float], Exception | None] = lambda t: None
        self.asked_with: list[tuple[str, float]] = []
        self.cost_s = 0.0

    def now(self) -> float:
        return self.t

    def wall(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.t += seconds

    def connect(self, socket: str, timeout_s: float) -> agent.Api:
        self.asked_with.append((socket, timeout_s))
        return self

    def status(self) -> Status:
        return self.found

    def hosts(self) -> list[HostRow]:
        return [HostRow(view=HostViewSummary(host=name, verdict=Verdict.ALIVE)) for name in ("compute-1", "compute-2")]

    def host(self, name: str) -> HostDetail:
        self.t += self.cost_s
        if name != "h1":
            raise UsageError(f"{name!r} is not in the inventory")
        answer = next(what for since, what in reversed(self.story) if self.t - 50.0 >= since)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def order(self, order: Order, host: str = "", incident: str = "", reason: str = "") -> str:
        error = self.refuse(self.t - 50.0)
        if error is not None:
            raise error
        self.orders.append((self.t - 50.0, order, reason))
        return "noted"

    def act(self, action: str, **values: str) -> Answer:
        defaults = {option.name: option.default for option in agent.OPTIONS if option.default}
        world = World(clock=self, murmur=lambda text: None)
        return agent.act(action, Options({**defaults, "plug": "h1", **values}), world, self.connect)


def _status(**changes: object) -> Status:
    leading = LeaderInfo(name="controller-1", epoch=3, leading=True, until_s=9.0)
    return replace(
        Status(
            controller=leading,
            armed=True,
            armed_by="ann",
            paused="",
            foreign="",
            ready=(),
            hosts=2,
            verdicts={},
            troubled=(),
            open_incidents=(),
            maintenance=(),
            devices=0,
            devices_failed=(),
        ),
        **changes,
    )


LIVES = seen(None, now=ASKED, verdict=Verdict.ALIVE)
FENCING = seen(incident(Step.FENCE), now=ASKED + 3)
TELLING_NOVA = seen(proven(step=Step.FORCE_DOWN), now=ASKED + 6)
FENCED = seen(proven(), now=ASKED + 8)
ABLE_NOT = [
    (_status(armed=False), "disarmed"),
    (_status(paused="work"), "paused"),
    (_status(controller=LeaderInfo(name="controller-2", epoch=4)), "does not lead"),
]


@pytest.mark.parametrize(("mode", "order"), [("ask", Order.FENCE), ("told", Order.REPORT)])
@pytest.mark.parametrize("action", ["off", "reboot"])
def test_off_waits_for_evidence_and_forced_down(mode: str, order: Order, action: str) -> None:
    fake = Fake((0, LIVES), (1, FENCING), (4, TELLING_NOVA), (6, FENCED))
    answer = fake.act(action, mode=mode, socket="/x.sock", login_timeout="3")
    assert answer.code == 0
    assert "bmc read off twice" in answer.text
    assert [given for _, given, _ in fake.orders] == [order], "once"
    assert fake.t - 50 == 6, "not a moment before"
    assert fake.asked_with == [("/x.sock", 3.0)]


@pytest.mark.parametrize("mode", ["ask", "told"])
@pytest.mark.parametrize("last", [LIVES, FENCING, TELLING_NOVA, HaAgentError("no controller")], ids=str)
def test_without_proof_off_fails_in_its_time_whatever_happens(mode: str, last: HostDetail | Exception) -> None:
    fake = Fake((0, LIVES), (1, last))
    with pytest.raises(HaAgentError, match=r"after 7 s h1 is not proven off: ."):
        fake.act("off", mode=mode, power_timeout="7")
    assert 6 <= fake.t - 50 <= 7


def test_evidence_of_before_the_question_is_not_enough() -> None:
    settled = seen(proven(ASKED - 100, Step.AWAIT_RETURN, settled=True), now=ASKED)
    fake = Fake((0, settled))
    fake.refuse = lambda t: UsageError("h1 was fenced and settled")
    with pytest.raises(HaAgentError, match="looked at again"):
        fake.act("off")
    looked = seen(proven(ASKED - 100, Step.AWAIT_RETURN, settled=True), now=ASKED + 9, devices=(bmc(Power.OFF, 2.0),))
    fake = Fake((0, settled), (9, looked))
    fake.refuse = lambda t: UsageError("h1 was fenced and settled")
    assert fake.act("off").code == 0


def test_a_host_that_was_just_settled_is_ordered_again_when_it_is_back() -> None:
    coming = seen(proven(ASKED - 100, Step.UNFENCE, settled=True, powered_on=True), now=ASKED)
    fake = Fake((0, coming), (5, LIVES), (9, FENCED))
    fake.refuse = lambda t: UsageError("h1 was fenced and settled") if t < 5 else None
    assert fake.act("off").code == 0
    assert [at for at, _, _ in fake.orders] == [5.0]


def test_a_refused_order_fails_at_once() -> None:
    fake = Fake((0, LIVES))
    fake.refuse = lambda t: UsageError("ann has not the role admin")
    with pytest.raises(UsageError, match="role admin"):
        fake.act("off")
    assert fake.t == 50.0


def test_an_order_whose_answer_is_lost_is_looked_after() -> None:
    fake = Fake((0, LIVES), (3, FENCED))
    fake.refuse = lambda t: Unanswered("the answer was lost")
    assert fake.act("off").code == 0


def test_a_controller_that_restarts_meanwhile_is_waited_for() -> None:
    assert Fake((0, LIVES), (1, HaAgentError("no controller")), (9, FENCED)).act("off").code == 0


@pytest.mark.parametrize("action", ["off", "reboot", "on", "status"])
def test_no_controller_at_all_fails_at_once(action: str) -> None:
    fake = Fake((0, HaAgentError("no controller")))
    with pytest.raises(HaAgentError, match="no controller"):
        fake.act(action)
    assert fake.t == 50.0


@pytest.mark.parametrize(("status", "says"), ABLE_NOT)
def test_nothing_is_asked_of_a_controller_that_may_not_act(status: Status, says: str) -> None:
    """The order would be kept, and carried out when nobody wants it any more."""
    fake = Fake((0, LIVES), status=status)
    with pytest.raises(HaAgentError, match=says):
        fake.act("off", mode="ask")
    assert fake.orders == []
    with pytest.raises(HaAgentError, match="not proven off"):
        fake.act("off", mode="told", power_timeout="2")
    assert len(fake.orders) == 1, "a report is always welcome"


def test_nothing_is_asked_about_a_host_in_maintenance() -> None:
    fake = Fake((0, replace(LIVES, row=replace(LIVES.row, maintenance="RAM (ann)"))))
    with pytest.raises(HaAgentError, match="maintenance"):
        fake.act("off")
    assert fake.orders == []


def test_on_waits_until_the_host_is_clean() -> None:
    back = seen(proven(step=Step.UNFENCE), verdict=Verdict.ALIVE)
    fake = Fake((0, FENCED), (100, back), (200, HaAgentError("no controller")), (210, LIVES))
    assert fake.act("on").code == 0
    assert (fake.t - 50, fake.orders) == (210, [])
    fake = Fake((0, FENCED))
    with pytest.raises(HaAgentError, match="after 30 s h1 is not clean"):
        fake.act("on", return_timeout="30")
    assert fake.t - 50 <= 30


@pytest.mark.parametrize(("found", "code", "text"), [(LIVES, 0, "Status: ON"), (FENCED, 2, "Status: OFF")])
def test_status(found: HostDetail, code: int, text: str) -> None:
    assert Fake((0, found)).act("status") == Answer(code, text)


def test_an_unknown_status_fails() -> None:
    with pytest.raises(HaAgentError, match="not known"):
        Fake((0, seen(None, verdict=Verdict.UNKNOWN))).act("status")


def test_monitor() -> None:
    assert Fake().act("monitor", plug="").code == 0
    assert Fake((0, LIVES)).act("monitor").code == 0
    with pytest.raises(UsageError, match="inventory"):
        Fake().act("monitor", plug="h9")
    for status, says in ABLE_NOT:
        with pytest.raises(HaAgentError, match=says):
            Fake(status=status).act("monitor", plug="")


def test_list_names_every_host_as_pacemaker_reads_it() -> None:
    assert Fake().act("list", plug="") == Answer(0, "compute-1,\ncompute-2,")


@pytest.mark.parametrize("action", ["off", "reboot", "on", "status", "monitor"])
def test_slow_answers_stay_within_the_limit(action: str) -> None:
    values = {"power_timeout": "20", "return_timeout": "30", "login_timeout": "4"}
    fake = Fake((0, FENCING))
    fake.cost_s = 3.9
    with contextlib.suppress(HaAgentError):
        fake.act(action, **values)
    assert fake.t - 50 <= agent.limit_s(action, Options(values))


def test_over_the_real_socket(tmp_path: Path) -> None:
    """The words of the order, the role of the caller, the shapes of the answers."""
    controller = Controller()
    with served(controller, tmp_path) as socket:
        world = World(clock=Fake(), murmur=lambda text: None)
        defaults = {option.name: option.default for option in agent.OPTIONS if option.default}
        told = {**defaults, "socket": str(socket), "plug": "compute-1", "power_timeout": "1"}
        assert agent.act("status", Options(told), world).code == 0
        assert agent.act("monitor", Options(told), world).code == 0
        assert agent.act("list", Options(told), world).text == "compute-1,\ncompute-2,\ncompute-3,"
        for mode in ("ask", "told"):
            with pytest.raises(HaAgentError, match="not proven off"):
                agent.act("off", Options({**told, "mode": mode}), world)
        with pytest.raises(UsageError, match="inventory"):
            agent.act("off", Options({**told, "plug": "compute-9"}), world)
    assert [(each.order, each.host) for each in controller.orders] == [
        (Order.FENCE, "compute-1"),
        (Order.REPORT, "compute-1"),
    ]
    assert all(each.actor for each in controller.orders), "the kernel says who asks"
