"""Drivers that are out to get the executor, and the books by which it is judged: seeded, in virtual time.

Devices that hang, are slow to die or raise; Nova calls that outlive the patience for them, or happen although they failed; remotes that do
not answer; a lease that comes and goes; fences that are ended before they began, while they run and when they are over.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ha_agent.controller.effects import AnyEffect, Do, ReadBmc, ReadNova
from ha_agent.controller.executor import ASK_REMOTE_S, LOOK_S, NOVA_THREADS, Executor
from ha_agent.errors import DriverError, Unanswered
from ha_agent.model import (
    Command,
    CommandKind,
    ComputeService,
    Finished,
    Migration,
    Power,
    Presence,
    Reading,
    Server,
    Status,
    Step,
)
from ha_agent.policy import Fencing, HostPolicy, Policy, Recovery
from ha_agent.ports import AnyObservation
from tests.simulation.virtual_loop import Threaded, VirtualLoop, run

HOSTS = ("c1", "c2")
API_MAX_S, ATTEMPT_S, READ_S = 10.0, 20.0, 5.0
DIES_S = 4.0  # the longest that a cancelled attempt takes to end
SLOWEST_S = 50.0  # of a Nova call, from its beginning to its answer
LAG_S = 0.5  # of what is quick, with others before it
COMMANDS = 60
POLICY = Policy(
    hosts={
        name: HostPolicy(
            name=name, recovery=Recovery(api_max_s=API_MAX_S), fencing=Fencing(attempt_s=ATTEMPT_S, read_s=READ_S)
        )
        for name in HOSTS
    }
)
CHANGES = (
    CommandKind.FORCE_DOWN,
    CommandKind.CLEAR_FORCE_DOWN,
    CommandKind.EVACUATE,
    CommandKind.START,
    CommandKind.STOP,
    CommandKind.REBOOT,
)
LOOKS = (CommandKind.SURVEY, CommandKind.FOLLOW, CommandKind.LIST_SERVERS, CommandKind.LAST_REBOOT)
OTHERS = (
    CommandKind.FENCE,
    CommandKind.FENCE,
    CommandKind.POWER_ON,
    CommandKind.CANCEL_FENCE,
    CommandKind.READ_POWER,
    CommandKind.OPEN_GATE,
    CommandKind.CHECK_ABSENT,
)
ENDS_A_FENCE = (CommandKind.CANCEL_FENCE, CommandKind.POWER_ON)
FREE = (CommandKind.CANCEL_FENCE, CommandKind.READ_POWER, CommandKind.CHECK_ABSENT)  # they need no permission

MakeExecutor = Callable[..., Executor]


class Books:
    """What was ordered, permitted, done and answered. `broken`: the promises that were not kept."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"{seed}/executor")
        self.loop = VirtualLoop(self._thread)
        self.broken: list[str] = []
        self.lease_lost = False
        self.sent: dict[str, tuple[float, Command]] = {}  # by id, in order
        self.ended: set[str] = set()  # fences that a later command was to end
        self.answered: set[str] = set()
        self.statuses: Counter[Status] = Counter()  # of the answers
        self.permitted: dict[str, float] = {}  # when, by id
        self.done: set[str] = set()  # changes that Nova made
        self.alive: dict[str, str] = {}  # attempts: host by the id of their fence
        self._permission: tuple[int, Command] | None = None  # the newest: in which turn, and to which command
        self._slow = self.chance.choice((0.05, 0.15, 0.9))
        self._calls = 0
        self._calling: Command | None = None

    def check(self, kept: bool, promise: str) -> None:
        """A promise, in words that say how it was broken."""
        if not kept:
            self.broken.append(f"{self.loop.time():.3f}: {promise}")

    # --- the engine ---

    def permit(self, command: Command) -> str:
        if self.lease_lost:
            return "the lease is over"
        if command.kind in CHANGES or command.kind in LOOKS:
            self.check(self._calls < NOVA_THREADS, "a call to Nova is permitted while no thread is free")
        self.permitted[command.id] = self.loop.time()
        self._permission = (self.loop.turn, command)
        return ""

    def now_permitted(self, what: str) -> Command | None:
        """Which command it is for. Nothing stands between the permission and the sending."""
        permission, self._permission = self._permission, None
        if permission is None or permission[0] != self.loop.turn:
            self.check(False, f"{what} is sent without a permission of this very moment")
            return None
        return permission[1]

    def feed(self, finished: Finished) -> None:
        outcome = finished.outcome
        at, command = self.sent[outcome.command]
        kind = command.kind
        self.check(command.id not in self.answered, f"{kind} has two outcomes")
        self.answered.add(command.id)
        self.statuses[outcome.status] += 1
        if outcome.status is Status.OK:
            self.check(kind in FREE or command.id in self.permitted, f"{kind} went well without a permission")
            self.check(kind not in CHANGES or command.id in self.done, f"{kind} is said to be done, and is not")
        if outcome.status is Status.FAILED:
            self.check(command.id not in self.done, f"{kind} is said not to be done, and is")
        else:
            self.check(not outcome.error.startswith("not sent"), f"{kind} was not sent, and is {outcome.status}")
        if kind is CommandKind.FENCE:
            self.check(command.id not in self.ended, "a fence that was ended has an outcome")
        if kind is CommandKind.CANCEL_FENCE:
            self.none_alive(command, "a fence is said to be ended")
        begun_at = self.permitted.get(command.id, self.loop.time()) if kind in (*CHANGES, *LOOKS) else at
        took_s, most_s = self.loop.time() - begun_at, bound_s(command)
        self.check(took_s <= most_s + 1e-6, f"{kind} took {took_s:.1f} s of {most_s:g} s")

    def none_alive(self, command: Command, when: str) -> None:
        """No attempt of a fence that was sent before it."""
        ids = list(self.sent)
        before = ids[: ids.index(command.id)]
        self.check(
            not any(each in before and host == command.host for each, host in self.alive.items()),
            f"{when} while it is alive",
        )

    def send(self, command: Command) -> Do:
        if command.kind in ENDS_A_FENCE:
            self.ended |= set(self.fences(command.host))
        self.sent[command.id] = (self.loop.time(), command)
        return Do(command=command)

    def fences(self, host: str) -> list[str]:
        """Under way: neither answered nor ended."""
        over = self.answered | self.ended
        return [
            c.id for _, c in self.sent.values() if c.kind is CommandKind.FENCE and c.host == host and c.id not in over
        ]

    def ending(self, host: str) -> bool:
        """Whether something that ends a fence is under way."""
        sent = (c for _, c in self.sent.values() if c.kind in ENDS_A_FENCE and c.host == host)
        return any(c.id not in self.answered for c in sent)

    # --- threads ---

    def _thread(self, call: partial[Any]) -> Threaded:
        look = getattr(call.func, "__name__", "") == "services"  # a detector's, which needs no permission
        command = None if look else self.now_permitted("a call to Nova")
        slow = self.chance.random() < self._slow
        begins_s, takes_s = (self.chance.uniform(0.0, SLOWEST_S / 2 if slow else 0.2) for _ in range(2))
        if command is None:
            return Threaded(begins_s, takes_s, call)
        self._calls += 1

        def happens() -> Any:
            self._calling = command
            try:
                return call()
            finally:
                self._calling = None

        return Threaded(begins_s, takes_s, happens, self._over)

    def _over(self) -> None:
        self._calls -= 1

    def nova_does(self) -> None:
        """A request to Nova: refused, lost on the way there or back, or broken by a bug of the driver."""
        fate = self.chance.random()
        if fate < 0.1:
            raise DriverError("Nova refused (409)")
        if fate < 0.15:
            raise ValueError("a bug of the driver")
        if fate < 0.2:
            raise Unanswered("the connection broke")
        if self._calling is not None and self._calling.kind in CHANGES:
            self.done.add(self._calling.id)
        if fate < 0.25:
            raise Unanswered("the answer was lost")


def bound_s(command: Command) -> float:
    """How long it may take at most; a call to Nova from when a thread is free for it."""
    match command.kind:
        case CommandKind.OPEN_GATE | CommandKind.CHECK_ABSENT:
            return ASK_REMOTE_S
        case CommandKind.READ_POWER:
            return READ_S
        case CommandKind.CANCEL_FENCE:
            return DIES_S + LAG_S
        case CommandKind.FENCE:
            return ATTEMPT_S + DIES_S
        case CommandKind.POWER_ON:
            return ATTEMPT_S + DIES_S + LAG_S
        case _:
            return API_MAX_S


class Nova:
    """ports.Cloud."""

    def __init__(self, books: Books) -> None:
        self._does = books.nova_does

    def services(self) -> Sequence[ComputeService]:
        self._does()
        return [ComputeService(id=name, host=name, state="up") for name in HOSTS]

    def servers(self, host: str) -> Sequence[Server]:
        self._does()
        return [Server(id=f"{host}-1", host=host)]

    def migrations(self, host: str) -> Sequence[Migration]:
        self._does()
        return []

    def evacuations(self, source: str) -> Sequence[Migration]:
        self._does()
        return []

    def unfinished_evacuations(self) -> Sequence[Migration]:
        self._does()
        return []

    def force_down(self, host: str, value: bool) -> None:
        self._does()

    def evacuate(self, server: str, host: str, judged: int = 0) -> None:
        self._does()

    def start(self, server: str) -> None:
        self._does()

    def stop(self, server: str) -> None:
        self._does()

    def reboot(self, server: str) -> None:
        self._does()

    def last_reboot(self, server: str) -> str:
        self._does()
        return "req-1"

    def api_max_s(self) -> float:
        return API_MAX_S


class Devices:
    """ports.Fencer. `off` is dead when it returns or was cancelled, which may take a while; `cancel` returns when it is dead."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._attempts: dict[str, asyncio.Future[Sequence[Reading]]] = {}  # by host: the newest

    def levels(self, host: str) -> int:
        return 1

    async def off(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        books = self._books
        command = books.now_permitted("an off")
        if command is None:
            return []
        books.check((command.kind, command.host) == (CommandKind.FENCE, host), f"{command.kind} switches {host} off")
        books.check(command.id not in books.ended, "a fence that was ended begins")
        books.alive[command.id] = host
        attempt = self._attempts[host] = asyncio.ensure_future(self._works(deadline_s, Power.OFF))
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            if not attempt.cancelled():
                await self._end(attempt)
                raise
            return [Reading(device="bmc", power=Power.UNKNOWN, at=books.loop.time())]
        finally:
            del books.alive[command.id]

    async def on(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        command = self._books.now_permitted("a power on")
        if command is not None:
            self._books.check(host not in self._books.alive.values(), "it is powered on while an off is alive")
        return await self._works(deadline_s, Power.ON)

    async def read(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        return await self._works(deadline_s, Power.OFF)

    async def _works(self, deadline_s: float, power: Power) -> Sequence[Reading]:
        chance = self._books.chance
        fate = chance.random()
        await asyncio.sleep(deadline_s if fate < 0.2 else chance.uniform(0.0, deadline_s / 2))
        if fate > 0.9:
            raise chance.choice((DriverError("no such device"), Unanswered("a broken pipe"), ValueError("a bug")))
        return [Reading(device="bmc", power=power, at=self._books.loop.time())]

    async def cancel(self, host: str) -> None:
        attempt = self._attempts.get(host)
        if attempt is not None:
            await self._end(attempt)
        while host in self._books.alive.values():  # noqa: ASYNC110 -- virtual time passes
            await asyncio.sleep(0.01)

    async def _end(self, attempt: asyncio.Future[Sequence[Reading]]) -> None:
        """What it does is over at once or a little later."""
        if not attempt.done():
            await asyncio.sleep(self._books.chance.choice((0.0, 0.0, DIES_S)))
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)

    async def close(self) -> None:
        self._books.check(not self._books.alive, "the fencer is closed while an attempt is alive")


class Remotes:
    """ports.Monitor, as far as an executor uses it."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def probe(self, witness: str, target: str, nonce: str, deadline_s: float) -> None: ...
    def acknowledge(self, host: str, report: str) -> None: ...

    async def open_gate(self, host: str, boot_id: str, deadline_s: float) -> None:
        command = self._books.now_permitted("an order to open a gate")
        if command is not None:
            self._books.check(command.kind is CommandKind.OPEN_GATE, f"{command.kind} opens a gate")
        await self._answers(deadline_s)

    async def domain(self, host: str, server: str, deadline_s: float) -> Presence:
        await self._answers(deadline_s)
        return Presence(present=False)

    async def _answers(self, deadline_s: float) -> None:
        fate = self._books.chance.random()
        await asyncio.sleep(deadline_s if fate < 0.2 else 0.05)
        if fate < 0.2:
            raise TimeoutError
        if fate < 0.3:
            raise DriverError("it is in another boot")


class Life:
    """One executor, from its first command to its end. In some lives Nova is all that it has to do. `make`: tests plant bugs there."""

    def __init__(self, seed: int, make: MakeExecutor = Executor) -> None:
        self.books = Books(seed)
        self.seen: list[AnyObservation] = []
        self._make = make

    def play(self) -> list[str]:
        """The promises that were broken."""
        run(self.books.loop, self._play())
        return self.books.broken

    async def _play(self) -> None:
        books, chance = self.books, self.books.chance
        executor = self._make(
            permit=books.permit,
            feed=books.feed,
            observe=self.seen.append,
            policy=POLICY,
            clock=_Clock(books.loop),
            cloud=Nova(books),
            fencer=Devices(books),
            monitor=Remotes(books),
        )
        self._busy = chance.random() < 0.3
        asked = 0
        for number in range(COMMANDS):
            await asyncio.sleep(chance.choice((0.0, 0.0, 0.01, 0.3, 0.0 if self._busy else 5.0)))
            books.lease_lost ^= chance.random() < 0.1
            effects: list[AnyEffect] = [books.send(command) for command in self._turn(number)]
            for look in (ReadBmc(host=chance.choice(HOSTS)), ReadNova(host=chance.choice(HOSTS))):
                if chance.random() < 0.1:
                    effects.append(look)
                    asked += isinstance(look, ReadNova)
            executor.carry_out(effects)
        if chance.random() < 0.3:
            await executor.stop()
            books.check(not books.alive, "an attempt is alive when the executor has stopped")
            return
        await asyncio.sleep(10 * COMMANDS * SLOWEST_S + LOOK_S)
        left = [c.kind for _, c in books.sent.values() if c.id not in books.answered | books.ended]
        books.check(not left, f"no outcome of {left}")
        found = sum(type(each).__name__ == "NovaSeen" for each in self.seen)
        books.check(found == asked, f"{asked} looks at Nova, {found} found something out")

    def _turn(self, number: int) -> list[Command]:
        """One command; or a fence and what ends it in the same turn. A host has one fence under way, as the engine has it."""
        books, chance = self.books, self.books.chance
        host = chance.choice(HOSTS)
        kind = chance.choice((*CHANGES, *LOOKS) if self._busy else (*CHANGES, *LOOKS, *OTHERS, *OTHERS))
        if kind is CommandKind.FENCE and (books.fences(host) or books.ending(host)):
            kind = chance.choice(ENDS_A_FENCE)
        turn = [_command(f"{number}", kind, host)]
        if kind in ENDS_A_FENCE and not books.fences(host) and not books.ending(host) and chance.random() < 0.5:
            turn.insert(0, _command(f"{number}-fence", CommandKind.FENCE, host))
        return turn


class _Clock:
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return 100.0 + self._loop.time()

    def wall(self) -> float:
        return 0.0

    def boot_id(self) -> str:
        return "b"


def _command(id: str, kind: CommandKind, host: str) -> Command:
    return Command(
        id=id, incident="i", step=Step.FENCE, kind=kind, subject=host, host=host, hosts=HOSTS, epoch=1, attempt=1
    )
