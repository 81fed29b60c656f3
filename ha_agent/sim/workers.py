"""Processes that play stages, one stage at a time each."""

from __future__ import annotations

import gc
import json
import queue
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple
from types import TracebackType
from typing import Self

from ha_agent.sim.strikes import Strike, strikes


class Workers:
    """So many processes, started at once. Raises RuntimeError where one dies."""

    def __init__(self, jobs: int) -> None:
        self._pool = ThreadPoolExecutor(jobs)
        self._idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        self._all = [
            subprocess.Popen(  # noqa: S603 (this very module)
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            for _ in range(jobs)
        ]
        for worker in self._all:
            self._idle.put(worker)

    def play(self, seed: int, wanted: Mapping[str, Sequence[str]]) -> Future[list[Strike]]:
        """One stage, by whoever is free."""
        return self._pool.submit(self._play, seed, wanted)

    def _play(self, seed: int, wanted: Mapping[str, Sequence[str]]) -> list[Strike]:
        worker = self._idle.get()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            print(json.dumps([seed, wanted]), file=worker.stdin, flush=True)
            line = worker.stdout.readline()
        finally:
            self._idle.put(worker)
        if not line:
            raise RuntimeError(f"the process that played seed {seed} died")
        return [Strike(*each) for each in json.loads(line)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self._all:
            assert worker.stdin is not None
            worker.stdin.close()
            if kind is not None:
                worker.kill()
            worker.wait()
        self._pool.shutdown()


def main() -> None:
    """One stage per line, until there are no more. Rubbish is collected between them."""
    gc.disable()
    for line in sys.stdin:
        gc.collect()
        seed, wanted = json.loads(line)
        print(json.dumps([astuple(s) for s in strikes(seed, wanted)]), flush=True)


if __name__ == "__main__":
    main()
