"""A real HTTP server for webhooks, and a task that runs beside a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from aiohttp import web


class Runs(Protocol):
    """Something with a task of its own."""

    async def run(self) -> None: ...


R = TypeVar("R", bound=Runs)


@asynccontextmanager
async def running(subject: R) -> AsyncIterator[R]:
    """Until the end of the block."""
    task = asyncio.create_task(subject.run())
    try:
        yield subject
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def serving(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    """On loopback, for every path. Yields the port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
