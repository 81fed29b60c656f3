"""What a fencing test is asked, and what it says: a host is switched off and on again because somebody wants to know whether that works."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from ha_agent.model import Power, Value


class Asked(Value, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be tested. `level` counts from 1; None: every level, one after the other. `with_servers`: Nova is not asked whether servers
    are on the host. `return_s`: how long the host may take to be heard again after each level."""

    level: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    with_servers: bool = False
    return_s: Annotated[float, msgspec.Meta(ge=1, le=7200)] = 900.0


class LevelVerdict(StrEnum):
    """What came of one level."""

    WORKS = "works"  # proven off, on again, and the host is back
    FAILED = "failed"  # the reason says why
    BY_HAND = "by hand"  # a person is part of it: nothing that could be tested
    NOT_TESTED = "not tested"  # nothing was sent


class DeviceTest(Value, frozen=True, kw_only=True):
    """One device of a level. `before`, `off`, `on`: what it read last before the off was sent, after it, and after the on. `off_s`, `on_s`: from the
    sending until it read so, off for the second time; None: it did not. `machine`: which one it says it is."""

    device: str
    driver: str = ""
    machine: str = ""
    before: Power = Power.UNKNOWN
    off: Power = Power.UNKNOWN
    off_s: float | None = None
    on: Power = Power.UNKNOWN
    on_s: float | None = None


class LevelTest(Value, frozen=True, kw_only=True):
    """One level, counted from 1. `back`: the host is as it was before: on, and heard where it was heard. `back_s`: from the first on until it was
    heard in a new boot; None: it was not, or not awaited. `why`: of the verdict."""

    level: int
    verdict: LevelVerdict = LevelVerdict.NOT_TESTED
    devices: tuple[DeviceTest, ...] = ()
    back: bool = True
    back_s: float | None = None
    why: str = ""


class FencingTest(Value, frozen=True, kw_only=True):
    """A test that runs, or has ended. `actor`: who asked for it. `lines`: what happened, one sentence each, oldest first. `passed`: every level that
    can be tested works, and the host is back."""

    id: str
    host: str
    actor: str
    began_wall: float
    ended: bool = False
    passed: bool = False
    levels: tuple[LevelTest, ...] = ()
    lines: tuple[str, ...] = ()
