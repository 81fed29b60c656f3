"""One process that has everything loaded and forks for each mutant. It knows nothing of ha_agent before pytest imports it.

`python -m tests.mutants.worker KIND REQUESTS ANSWERS TEST...` reads one JSON object a line from the descriptor REQUESTS and writes one a
line to ANSWERS. KIND `collected`: pytest has collected all tests, and a mutant is one exchanged function in the child. KIND `bare`: only the
libraries are loaded; the child imports ha_agent and the tests from given sources.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TextIO

import aiohttp  # noqa: F401  # slow to import, and the same for every mutant
import hypothesis
import msgspec  # noqa: F401
import pydantic  # noqa: F401
import pytest

from tests.mutants.places import PROBE

MEMORY_BYTES = 3 * 2**30  # a mutant that never ends must not take the machine with it
OPTIONS = ("-q", "-p", "no:cacheprovider", "--timeout=0", "--capture=sys", f"--basetemp=tmp-{os.getpid()}")
Request = dict[str, Any]
Answer = dict[str, Any]
Limits = dict[str, tuple[float, float]]


class Sources:
    """Serves given texts in place of files."""

    def __init__(self, texts: dict[str, str], reached: Callable[[str], None]) -> None:
        self._files = {module(file): (file, text) for file, text in texts.items()}
        self._reached = reached

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in self._files:
            return None
        file, text = self._files[name]
        here = str(Path.cwd() / file)
        return importlib.util.spec_from_file_location(name, here, loader=Source(name, here, text, self._reached))


class Source(SourceFileLoader):
    def __init__(self, name: str, path: str, text: str, reached: Callable[[str], None]) -> None:
        super().__init__(name, path)
        self._text = text
        self._reached = reached

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__[PROBE] = self._reached
        super().exec_module(module)


def module(file: str) -> str:
    """The dotted name of a file."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


class Tests:
    """The pytest plugin: what is to be done after the collection."""

    def __init__(self, then: Callable[[Tests, list[pytest.Item]], None]) -> None:
        self._then = then
        self._failure = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("the collection failed")
        self._then(self, session.items)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self._failure:
            self._failure = f"{report.nodeid}\n{report.longreprtext[-3000:]}"

    def run(
        self,
        items: list[pytest.Item],
        *,
        before: Callable[[pytest.Item], None],
        after: Callable[[pytest.Item], None] = lambda _: None,
    ) -> str:
        """Until one fails: its id and what it says."""
        for item, following in zip(items, [*items[1:], None], strict=True):
            before(item)
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            after(item)
            if self._failure:
                break
        return self._failure


def measured(reached: set[str], answer: Answer) -> Callable[[Tests, list[pytest.Item]], None]:
    """Runs everything, and notes by test what it reaches and how long it takes. Only for probed sources."""

    def run(tests: Tests, items: list[pytest.Item]) -> None:
        answer["at_import"] = sorted(reached)
        found: dict[str, tuple[float, list[str]]] = {}
        began = 0.0

        def before(item: pytest.Item) -> None:
            nonlocal began
            reached.clear()
            began = time.process_time()

        def after(item: pytest.Item) -> None:
            found[item.nodeid] = (time.process_time() - began, sorted(reached))

        answer["failure"] = tests.run(items, before=before, after=after)
        answer["tests"] = found

    return run


def limited(limits: Limits) -> Callable[[pytest.Item], None]:
    """Death by signal to a test that takes too long: seconds of CPU, and of time."""

    def before(item: pytest.Item) -> None:
        cpu_s, wall_s = limits[item.nodeid]
        for sig, timer, seconds in (
            (signal.SIGVTALRM, signal.ITIMER_VIRTUAL, cpu_s),
            (signal.SIGALRM, signal.ITIMER_REAL, wall_s),
        ):
            signal.signal(sig, signal.SIG_DFL)
            signal.setitimer(timer, seconds)

    return before


def ordered(items: list[pytest.Item], limits: Limits) -> list[pytest.Item]:
    by_id = {i.nodeid: i for i in items}
    return [by_id[name] for name in limits]


def living() -> dict[tuple[str, str], list[FunctionType]]:
    """The functions of ha_agent by file and qualified name."""
    found: dict[tuple[str, str], list[FunctionType]] = {}
    for thing in gc.get_objects():
        if isinstance(thing, FunctionType) and (thing.__module__ or "").split(".")[0] == "ha_agent":
            found.setdefault((thing.__code__.co_filename, thing.__qualname__), []).append(thing)
    return found


def exchange(functions: list[FunctionType], text: str) -> bool:
    """Give the one living function the code that it has in `text`. False: it cannot be exchanged."""
    if len(functions) != 1:
        return False
    old = functions[0].__code__
    codes = [
        c
        for c in _codes(compile(text, old.co_filename, "exec", dont_inherit=True))
        if c.co_qualname == old.co_qualname and c.co_freevars == old.co_freevars
    ]
    if len(codes) != 1:
        return False
    functions[0].__code__ = codes[0]
    return True


def _codes(code: CodeType) -> Iterable[CodeType]:
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield const
            yield from _codes(const)


def in_child(work: Callable[[], Answer]) -> Answer:
    """What `work` answers in a fork of this process, or how the fork died."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            answer = work()
        except BaseException as error:  # also SystemExit out of a mutant
            answer = {"failure": f"{type(error).__name__}: {error}"}
        with os.fdopen(writer, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if text:
        answer = json.loads(text)
        assert isinstance(answer, dict)
        return answer
    ended = os.waitstatus_to_exitcode(status)
    return {"timed_out": True} if -ended in (signal.SIGALRM, signal.SIGVTALRM) else {"failure": f"it died with {ended}"}


def bare(request: Request, files: list[str]) -> Answer:
    """Import everything, with some sources in place of the files, and run the tests."""
    answer: Answer = {"failure": "the tests could not be collected"}
    reached: set[str] = set()
    sys.meta_path.insert(0, Sources(request["sources"], reached.add))
    limits: Limits = request.get("limits", {})

    def run(tests: Tests, items: list[pytest.Item]) -> None:
        answer["failure"] = tests.run(ordered(items, limits), before=limited(limits))

    pytest.main(
        [*OPTIONS, *request.get("files", files)],
        plugins=[Tests(run if limits else measured(reached, answer))],
    )
    return answer


def serve(requests: TextIO, answers: TextIO, work: Callable[[Request], Answer]) -> None:
    """One answer for each request, until there are no more."""
    for line in requests:
        request = json.loads(line)
        json.dump(in_child(lambda request=request: work(request)), answers)  # type: ignore[misc]
        answers.write("\n")
        answers.flush()


def main(kind: str, requests: TextIO, answers: TextIO, files: list[str]) -> None:
    # a failure is all that is asked for, not the smallest one
    quick = hypothesis.settings(phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])
    hypothesis.settings.register_profile("quick", quick)
    hypothesis.settings.load_profile("quick")
    if kind == "bare":
        serve(requests, answers, lambda request: bare(request, files))
        return

    def collected(tests: Tests, items: list[pytest.Item]) -> None:
        def one(request: Request) -> Answer:
            limits = request["limits"]
            named = functions.get((str(Path.cwd() / request["file"]), request["function"]), [])
            if not exchange(named, request["text"]):
                return {"cannot": True}
            return {"failure": tests.run(ordered(items, limits), before=limited(limits))}

        functions = living()
        gc.collect()
        gc.freeze()  # the children share these pages
        serve(requests, answers, one)

    pytest.main([*OPTIONS, *files], plugins=[Tests(collected)])


if __name__ == "__main__":
    main(sys.argv[1], os.fdopen(int(sys.argv[2])), os.fdopen(int(sys.argv[3]), "w"), sys.argv[4:])
