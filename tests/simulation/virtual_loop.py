"""An event loop in virtual time, for code that lives on one: nothing is waited for, and a call in a thread is a moment of it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Threaded:
    """A call in a thread: it happens after `begins_s`, and answers `takes_s` later. `over` is told when the thread is free again."""

    begins_s: float
    takes_s: float
    call: Callable[[], Any]
    over: Callable[[], None] = lambda: None


class _Skip(selectors.BaseSelector):
    """Where a loop would wait, time passes at once."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits, and nothing is to come")
        self.passed_s += timeout
        self.turns += 1
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


class VirtualLoop(asyncio.SelectorEventLoop):
    """`thread`: what becomes of a call that is handed to a thread, in this very moment."""

    def __init__(self, thread: Callable[[partial[Any]], Threaded]) -> None:
        self._skip = _Skip()
        self._thread = thread
        super().__init__(self._skip)

    def time(self) -> float:
        """Virtual seconds."""
        return self._skip.passed_s

    @property
    def turn(self) -> int:
        """The same while no other task may have run."""
        return self._skip.turns

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Nobody can stop it, and whoever waits for it may have gone."""
        del executor
        threaded = self._thread(partial(func, *args))
        answer = self.create_future()

        def happens() -> None:
            try:
                tell = partial(answer.set_result, threaded.call())
            except Exception as error:  # the driver's: whoever waits gets it
                tell = partial(answer.set_exception, error)
            self.call_later(threaded.takes_s, ends, tell)

        def ends(tell: Callable[[], None]) -> None:
            threaded.over()
            if not answer.done():
                tell()

        self.call_later(threaded.begins_s, happens)
        return answer


def run(loop: VirtualLoop, life: Coroutine[Any, Any, T]) -> T:
    """From its first moment to its last; what is left of it is cancelled. Raises what it raises."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(life)
