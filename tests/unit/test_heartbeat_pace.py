"""How many dials are under way at a time."""

from __future__ import annotations

import asyncio

from ha_agent.heartbeat.pace import Pace

FOR_EVER_S = 3600.0


async def dialling(pace: Pace, begun: list[int], number: int, end: asyncio.Event) -> None:
    async with pace.turn():
        begun.append(number)
        await end.wait()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_dials_begin_in_order_as_others_end() -> None:
    pace, begun = Pace(2, FOR_EVER_S), list[int]()
    ends = [asyncio.Event() for _ in range(5)]
    tasks = [asyncio.create_task(dialling(pace, begun, number, end)) for number, end in enumerate(ends)]
    await settle()
    assert begun == [0, 1]
    ends[1].set()
    await settle()
    assert begun == [0, 1, 2]
    tasks[0].cancel()  # an end as good as any
    tasks[3].cancel()  # it waits, and takes no place
    await settle()
    assert begun == [0, 1, 2, 4]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_host_that_does_not_answer_holds_up_nobody_for_long() -> None:
    pace, begun, never = Pace(1, 0.01), list[int](), asyncio.Event()
    tasks = [asyncio.create_task(dialling(pace, begun, number, never)) for number in range(4)]
    async with asyncio.timeout(10):
        while len(begun) < 4:  # noqa: ASYNC110 -- plain state, nobody sets an event for it
            await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # Each gave its place back once, by time; their ends give nothing more.
    assert pace._free._value == 1
