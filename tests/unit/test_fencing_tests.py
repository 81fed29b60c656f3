"""Fencing tests: a real engine whose host lives and dies by a fencer that behaves as told. Time passes only in the sleeps of the test itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import pytest

from ha_agent.api.fencing_tests import Asked, FencingTest, LevelVerdict
from ha_agent.controller.devices import Devices
from ha_agent.controller.fencing_cycle import ON_TRIES
from ha_agent.controller.fencing_tests import FencingTests
from ha_agent.controller.fencing_view import FencingView
from ha_agent.errors import HaAgentError, LeaseLost, Unanswered, UsageError
from ha_agent.model import (
    CommandKind,
    ComputeService,
    Migration,
    Order,
    Phase,
    Power,
    Reading,
    Server,
    Survey,
)
from ha_agent.plans import GATE
from ha_agent.policy import Fencing
from ha_agent.store.memory import MemoryStore
from tests.unit.test_engine import POLICY, Bench

replace = msgspec.structs.replace
HOST = "c1"
EMPTY = Survey(service=ComputeService(id="1", host=HOST, state="up"))
ANYTHING = Asked()
ON, OFF, UNKNOWN = Power.ON, Power.OFF, Power.UNKNOWN


class Machine:
    """The host's power, and a fencer at it. `obeys`: devices do what they are told; else they say yes, and stay on. `lies`: they say off and the
    host runs on. `boots_s`: from the on to the first heartbeat, `gate_s`: from there until its gate
    is open. `errors`: of levels that cannot be read. `sticks`: it cannot be switched on. `meanwhile`: what else happens at each off or on; `looked`,
    `switched_on`: after each look, after each on."""

    def __init__(self, bench: Bench, devices: Sequence[Sequence[str]]) -> None:
        self.bench, self.devices = bench, devices
        self.power = ON
        self.obeys, self.lies, self.boots_s = True, False, 20.0
        self.gate_s = self.gate_waits_s = 0.0
        self.sent: list[str] = []
        self.errors: dict[int, str] = {}
        self.sticks = False
        self.up_at: float | None = None
        self.meanwhile: Callable[[str], None] = lambda op: None
        self.looked: Callable[[], None] = lambda: None
        self.switched_on: Callable[[], None] = lambda: None
        self.off_sent = asyncio.Event()
        self.stuck: asyncio.Event | None = None
        self.broken: Exception | None = None

    def levels(self, host: str) -> int:
        return len(self.devices)

    def reads(self, level: int, power: Power) -> list[Reading]:
        at = self.bench.clock.at
        error = self.errors.get(level, "")
        return [Reading(device=d, power=power, at=at, machine="4c4c", error=error) for d in self.devices[level]]

    async def read(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        found = self.reads(level, UNKNOWN if level in self.errors else self.power)
        self.looked()
        return found

    async def off(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        self.sent.append(f"off {level}")
        self.off_sent.set()
        self.meanwhile("off")
        if self.stuck is not None:
            await self.stuck.wait()
        if self.broken is not None:
            raise self.broken
        if not self.obeys:
            self.pass_s(deadline_s)
            return self.reads(level, ON)
        self.power = OFF
        if not self.lies:
            self.bench.dead.add(HOST)
        first = self.reads(level, OFF)
        self.pass_s(0.5)
        return [*first, *self.reads(level, OFF)]

    async def on(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        self.sent.append(f"on {level}")
        self.meanwhile("on")
        if self.sticks:
            return self.reads(level, self.power)
        if self.power is OFF:
            self.up_at = self.bench.clock.at + self.boots_s
        self.power = ON
        self.pass_s(0.5)
        self.switched_on()
        return self.reads(level, ON)

    async def cancel(self, host: str) -> None: ...

    async def close(self) -> None: ...

    def pass_s(self, seconds: float) -> None:
        """Time passes, and the host boots when it is time."""
        end = self.bench.clock.at + seconds
        while self.bench.clock.at < end - 1e-9:
            self.bench.run(min(0.5, end - self.bench.clock.at))
            opens = [c for c in self.bench.commands if c.kind is CommandKind.OPEN_GATE]
            self.gate_waits_s = self.gate_waits_s + 0.5 if opens else 0.0
            if opens and self.gate_waits_s >= self.gate_s:  # its remote has answered
                self.bench.commands.remove(opens[0])
                self.bench.finish(opens[0])
            if self.up_at is not None and self.bench.clock.at >= self.up_at and not self.lies:
                self.up_at = None
                self.bench.boots[HOST] = f"boot-at-{self.bench.clock.at:g}"
                self.bench.dead.discard(HOST)


class Rig:
    """A controller with three hosts, one of them in maintenance, and a fencing test of it."""

    def __init__(self, *levels: Sequence[str], drivers: dict[tuple[str, str], str] | None = None) -> None:
        self.bench = Bench()
        named = tuple(tuple(level) for level in levels)
        host = replace(POLICY.hosts[HOST], fencing=Fencing(levels=named))
        self.bench.engine.set_policy(replace(POLICY, hosts={**POLICY.hosts, HOST: host}))
        self.bench.run(5)
        self.bench.order(Order.ARM)
        self.bench.order(Order.MAINTENANCE_ON, HOST, reason="new disks")
        self.machine = Machine(self.bench, named)
        self.nova: Survey | Exception = EMPTY
        self.while_asked: Callable[[], None] = lambda: None
        self.over = asyncio.Event()
        engine, clock = self.bench.engine, self.bench.clock
        devices = Devices(engine, clock, drivers or {})
        self.tests = FencingTests(
            engine,
            fencer=self.machine,
            view=FencingView(self.machine, devices, clock),
            clock=clock,
            look=self.look,
            drivers=lambda: devices.drivers,
            line=self.line,
            sleep=self.sleep,
        )

    async def look(self, host: str) -> Survey:
        self.while_asked()
        if isinstance(self.nova, Exception):
            raise self.nova
        return self.nova

    def line(self, text: str) -> None:
        self.bench.lines.append(text)
        if " asked for " in text:
            self.over.set()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.machine.pass_s(seconds)

    async def done(self, asked: Asked = ANYTHING) -> FencingTest:
        """The test, at its end."""
        await self.tests.begin(HOST, asked, "ann")
        async with asyncio.timeout(20):  # of work; nothing here waits for a clock on the wall
            await self.over.wait()
        return self.tests.last(HOST)

    async def refused(self, error: type[HaAgentError] = UsageError, asked: Asked = ANYTHING) -> str:
        """Why the test does not even begin: the sentence, and what to type."""
        with pytest.raises(error) as found:
            await self.done(asked)
        assert self.machine.sent == []
        return f"{found.value} / {found.value.hint}"


# --- what it does ---


async def test_a_host_goes_off_and_comes_back_in_a_new_boot() -> None:
    rig = Rig(["bmc"])
    found = await rig.done()
    assert found.passed, found
    (level,) = found.levels
    (bmc,) = level.devices
    assert (level.level, level.verdict, level.why, level.back) == (1, LevelVerdict.WORKS, "", True)
    assert (bmc.before, bmc.off, bmc.on, bmc.machine) == (ON, OFF, ON, "4c4c")
    assert (bmc.off_s, bmc.on_s) == (0.5, 0.5)
    assert level.back_s is not None
    assert 20 <= level.back_s <= 22
    assert rig.machine.sent == ["off 0", "on 0"]
    assert [line for line in rig.bench.lines if "ann tests its fencing" in line], "whoever asked is in the log"
    assert [line for line in rig.bench.lines if "that ann asked for passed" in line]


async def test_each_level_is_tried_and_the_host_is_back_before_the_next() -> None:
    rig = Rig(["bmc"], ["plug1", "plug2"])
    alive: list[bool] = []
    rig.machine.gate_s = 10.0  # the incident that opens it comes to its end first
    rig.machine.meanwhile = lambda op: alive.append(HOST not in rig.bench.dead) if op == "off" else None
    found = await rig.done()
    assert found.passed, found
    assert rig.machine.sent == ["off 0", "on 0", "off 1", "on 1"]
    assert alive == [True, True]
    assert [[d.device for d in level.devices] for level in found.levels] == [["bmc"], ["plug1", "plug2"]]


async def test_only_the_level_that_is_asked_for() -> None:
    rig = Rig(["bmc"], ["plug"])
    found = await rig.done(Asked(level=2))
    assert found.passed
    assert [level.level for level in found.levels] == [2]
    assert rig.machine.sent == ["off 1", "on 1"]


async def test_what_was_read_is_no_evidence_and_opens_nothing_but_the_gate() -> None:
    rig = Rig(["bmc"])
    await rig.done()
    rig.machine.pass_s(30)
    (incident,) = rig.bench.engine.state.incidents.values()
    assert (incident.plan, incident.phase, incident.evidence) == (GATE, Phase.CLOSED, None)
    assert rig.bench.kinds() == [], "no fence, no force_down, no evacuation"


# --- what may go wrong ---


async def test_a_device_that_says_yes_and_stays_on_fails_and_on_is_sent_all_the_same() -> None:
    rig = Rig(["bmc"])
    rig.machine.obeys = False
    found = await rig.done()
    (level,) = found.levels
    assert (found.passed, level.verdict, level.back) == (False, LevelVerdict.FAILED, True)
    assert "bmc reads on" in level.why
    assert rig.machine.sent == ["off 0", "on 0"], "the off may yet work"


async def test_a_level_that_reads_off_while_the_host_runs_on_fails() -> None:
    rig = Rig(["bmc"])
    rig.machine.lies = True
    found = await rig.done()
    assert not found.passed
    assert "ran on in the same boot" in found.levels[0].why


async def test_a_host_that_does_not_come_back_ends_the_test_in_time() -> None:
    rig = Rig(["bmc"], ["plug"])
    rig.machine.boots_s = 10_000.0
    began = rig.bench.clock.at
    found = await rig.done(Asked(return_s=60.0))
    assert not found.passed
    assert "not heard again within 60 s" in found.levels[0].why
    assert (found.levels[1].verdict, found.levels[1].why) == (LevelVerdict.NOT_TESTED, "c1 is not back")
    assert rig.bench.clock.at - began < 75
    assert rig.machine.sent == ["off 0", "on 0"]


async def test_a_device_that_cannot_be_read_is_not_switched_and_the_next_level_is_tried() -> None:
    rig = Rig(["bmc"], ["plug"])
    rig.machine.errors[0] = "wrong machine: bmc says that it is 1111, expected 4c4c; nothing was sent"
    found = await rig.done()
    assert not found.passed
    assert [level.verdict for level in found.levels] == [LevelVerdict.FAILED, LevelVerdict.WORKS]
    assert "wrong machine" in found.levels[0].why
    assert rig.machine.sent == ["off 1", "on 1"]


async def test_a_host_that_is_off_already_is_left_alone() -> None:
    rig = Rig(["bmc"])
    rig.machine.power = OFF
    found = await rig.done()
    assert (found.passed, rig.machine.sent) == (False, [])
    assert "bmc reads off; nothing was sent" in found.levels[0].why


async def test_a_drivers_bug_at_the_off_does_not_keep_the_on_from_being_sent() -> None:
    rig = Rig(["bmc"])
    rig.machine.broken = RuntimeError("a bug")
    found = await rig.done()
    assert not found.passed
    assert rig.machine.sent == ["off 0", "on 0"]
    assert "RuntimeError" in found.levels[0].why


async def test_a_level_with_a_person_in_it_is_left_out() -> None:
    rig = Rig(["bmc"], ["hand"], drivers={(HOST, "hand"): "manual"})
    found = await rig.done()
    assert found.passed
    assert [level.verdict for level in found.levels] == [LevelVerdict.WORKS, LevelVerdict.BY_HAND]
    rig = Rig(["bmc"], ["hand"], drivers={(HOST, "hand"): "manual"})
    assert "a person is part of it" in await rig.refused(asked=Asked(level=2))


async def test_a_host_that_was_not_heard_before_is_not_waited_for() -> None:
    rig = Rig(["bmc"])
    rig.bench.dead.add(HOST)
    rig.machine.pass_s(15)
    rig.machine.boots_s = 10_000.0
    found = await rig.done()
    assert found.passed
    assert "was not heard before" in found.levels[0].why


# --- what is refused ---


async def test_it_is_refused_outside_maintenance() -> None:
    rig = Rig(["bmc"])
    rig.bench.order(Order.MAINTENANCE_OFF, HOST)
    assert "c1 is not in maintenance; nothing was sent / ha-agent maintenance on c1" in await rig.refused()


@pytest.mark.parametrize(
    ("order", "says"), [(Order.DISARM, "disarmed; nothing was sent / ha-agent arm"), (Order.PAUSE, "ha-agent unpause")]
)
async def test_it_is_refused_where_nothing_destructive_may_be_done(order: Order, says: str) -> None:
    rig = Rig(["bmc"])
    rig.bench.order(order)
    assert says in await rig.refused()


async def test_it_is_refused_while_the_store_fails() -> None:
    rig = Rig(["bmc"])
    rig.bench.engine.store_error = "the disk is full"
    assert "the disk is full; nothing was sent" in await rig.refused()


async def test_it_is_refused_where_maintenance_ends_while_nova_is_asked() -> None:
    rig = Rig(["bmc"])

    rig.while_asked = lambda: rig.bench.order(Order.MAINTENANCE_OFF, HOST)
    assert "not in maintenance" in await rig.refused()


async def test_it_is_refused_while_an_incident_is_open() -> None:
    rig = Rig(["bmc"])
    rig.bench.order(Order.FENCE, HOST)  # it waits for the end of the maintenance
    assert "has an open incident" in await rig.refused()


async def test_it_is_refused_for_what_is_not_there() -> None:
    rig = Rig(["bmc"])
    assert "c1 has 1, not 2" in await rig.refused(asked=Asked(level=2))
    with pytest.raises(UsageError, match="h9 is not in the inventory"):
        await rig.tests.begin("h9", Asked(), "ann")
    with pytest.raises(UsageError, match="h9 is not in the inventory"):
        rig.tests.last("h9")
    with pytest.raises(UsageError, match="no fencing of c1 was tested"):
        rig.tests.last(HOST)
    assert "no fencing device" in await Rig().refused()


async def test_only_the_leader_does_it() -> None:
    rig = Rig(["bmc"])
    rig.bench.engine.release()
    assert "does not lead" in await rig.refused(LeaseLost)


@pytest.mark.parametrize(
    ("nova", "says"),
    [
        (replace(EMPTY, servers=(Server(id="s1"),)), "Nova has 1 server on c1"),
        (replace(EMPTY, servers=(Server(id="s1"), Server(id="s2"))), "Nova has 2 servers on c1"),
        (
            replace(
                EMPTY, migrations=(Migration(id=1, server="s9", kind="live", status="running", source="c2", dest=HOST),)
            ),
            "Nova has 1 server on c1",
        ),
        (Survey(), "no nova-compute service c1"),
        (Unanswered("no answer"), "cannot say which servers are on c1: no answer"),
        (TimeoutError(), "cannot say which servers are on c1: no answer in time"),
        (ValueError("odd"), "cannot say which servers are on c1: ValueError"),
    ],
)
async def test_servers_that_are_there_or_that_nobody_knows_of_forbid_it(nova: Survey | Exception, says: str) -> None:
    rig = Rig(["bmc"])
    rig.nova = nova
    told = await rig.refused()
    assert says in told
    assert "ha-agent fencing test c1 --with-servers" in told
    assert (await rig.done(Asked(with_servers=True))).passed


async def test_a_migration_that_has_ended_or_leaves_the_host_is_no_server_on_it() -> None:
    rig = Rig(["bmc"])
    ended = Migration(id=1, server="s9", kind="live", status="completed", source="c2", dest=HOST)
    rig.nova = replace(EMPTY, migrations=(ended, replace(ended, id=2, status="running", source=HOST, dest="c2")))
    assert (await rig.done()).passed


async def test_servers_that_come_between_two_levels_end_the_test() -> None:
    rig = Rig(["bmc"], ["plug"])

    def arrives(op: str) -> None:
        rig.nova = replace(EMPTY, servers=(Server(id="s1"),))

    rig.machine.meanwhile = arrives
    found = await rig.done()
    assert [level.verdict for level in found.levels] == [LevelVerdict.WORKS, LevelVerdict.NOT_TESTED]
    assert "Nova has 1 server" in found.levels[1].why
    assert not found.passed


async def test_there_is_one_test_of_a_host_at_a_time() -> None:
    rig = Rig(["bmc"])
    rig.machine.stuck = asyncio.Event()
    await rig.tests.begin(HOST, Asked(), "ann")
    with pytest.raises(UsageError, match="ann tests the fencing of c1 already") as found:
        await rig.tests.begin(HOST, Asked(), "bob")
    assert "--follow" in found.value.hint
    await rig.tests.stop()


# --- what changes in the middle ---


async def test_where_maintenance_ends_in_the_middle_power_comes_back_and_the_test_stops() -> None:
    rig = Rig(["bmc"], ["plug"])

    def ended(op: str) -> None:
        if op == "off":
            rig.bench.order(Order.MAINTENANCE_OFF, HOST)

    rig.machine.meanwhile = ended
    found = await rig.done()
    assert not found.passed
    assert "c1 is not in maintenance" in found.levels[0].why
    assert found.levels[1].verdict is LevelVerdict.NOT_TESTED
    assert rig.machine.sent == ["off 0", "on 0"]


@pytest.mark.parametrize("order", [Order.DISARM, Order.PAUSE])
async def test_no_order_leaves_the_host_off(order: Order) -> None:
    rig = Rig(["bmc"])

    def ordered(op: str) -> None:
        if op == "off":
            rig.bench.order(order)

    rig.machine.meanwhile = ordered
    assert not (await rig.done()).passed
    assert rig.machine.sent == ["off 0", "on 0"]


async def test_a_host_that_an_incident_fences_is_not_switched_on_behind_its_back() -> None:
    rig = Rig(["bmc"])

    def silent_for_long(op: str) -> None:  # the maintenance ends, and the off takes so long that it is believed down
        rig.bench.dead.add(HOST)
        rig.bench.order(Order.MAINTENANCE_OFF, HOST)
        rig.bench.run(15)

    rig.machine.meanwhile = silent_for_long
    found = await rig.done()
    assert rig.machine.sent == ["off 0"]
    assert rig.bench.kinds()[:1] == [CommandKind.FENCE]
    (incident,) = (i for i in rig.bench.engine.state.incidents.values() if i.phase is Phase.OPEN)
    assert f"incident {incident.id} fences c1" in found.levels[0].why
    assert incident.evidence is None, "what the test read is not its evidence"


@pytest.mark.parametrize("op", ["off", "on"])
async def test_a_leader_that_was_replaced_sends_nothing_more(op: str) -> None:
    rig = Rig(["bmc"])
    if op == "off":
        rig.machine.looked = lambda: _replace_leader(rig.bench.store)
    else:
        rig.machine.meanwhile = lambda _: _replace_leader(rig.bench.store)
    found = await rig.done()
    assert not found.passed
    assert rig.machine.sent == ([] if op == "off" else ["off 0"])
    assert op == "off" or "the host may be off" in found.levels[0].why


async def test_a_leader_that_was_replaced_awaits_nobody() -> None:
    rig = Rig(["bmc"], ["plug"])
    rig.machine.switched_on = lambda: _replace_leader(rig.bench.store)
    found = await rig.done()
    assert "no longer leads" in found.levels[0].why
    assert rig.machine.sent == ["off 0", "on 0"]


async def test_an_on_that_does_not_work_is_tried_again_but_not_for_ever() -> None:
    rig = Rig(["bmc"])
    rig.machine.sticks = True
    found = await rig.done()
    assert rig.machine.sent == ["off 0", *["on 0"] * ON_TRIES]
    assert "not on again: bmc reads off: the host may be off" in found.levels[0].why
    assert not found.passed


async def test_a_controller_that_stops_in_the_middle_says_that_the_host_may_be_off() -> None:
    rig = Rig(["bmc"])
    rig.machine.stuck = asyncio.Event()
    await rig.tests.begin(HOST, Asked(), "ann")
    async with asyncio.timeout(20):
        await rig.machine.off_sent.wait()
    await rig.tests.stop()
    found = rig.tests.last(HOST)
    assert (found.ended, found.passed) == (True, False)
    assert "The host may be off" in found.lines[-1]


def _replace_leader(store: MemoryStore) -> None:
    lease = store.read_lease()
    if lease is not None and lease.owner == "one":
        store.take_lease("two", lease.lease_s, lease)
