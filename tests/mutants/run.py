"""Runs the killers on mutants: first what is quick, and of each test only what executes the mutated statement."""

from __future__ import annotations

import ast
import enum
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutants.generate import Mutant
from tests.mutants.places import place, probed

LEFT_OUT = shutil.ignore_patterns("integration", "build", "*.egg-info", ".*")
# Test files of the first folders look at mutants where they import what is mutated; those of the others always do.
UNIT = ("tests/unit", "tests/property")
SIMULATED = ("tests/scenarios", "tests/simulation")
SLOWER = 6.0  # a test that needs so many times what it needs of the original will not end
LEAST_CPU_S = 2.0
LEAST_WALL_S = 10.0

Limits = dict[str, tuple[float, float]]


class Fate(enum.StrEnum):
    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"


class Broken(Exception):
    """The tests do not pass on the unchanged tree, or do not run at all."""


@dataclass(frozen=True)
class Stage:
    """Tests that were run on the unchanged tree: seconds of CPU and the statements reached, by id, the quickest first."""

    seconds: dict[str, float]
    reached: dict[str, frozenset[str]]
    at_import: frozenset[str]

    def limits(self, statement: str) -> Limits:
        """The tests that reach a statement; all of them for an empty one."""
        return {
            t: (LEAST_CPU_S + SLOWER * s, LEAST_WALL_S + 2 * SLOWER * s)
            for t, s in self.seconds.items()
            if not statement or statement in self.reached[t]
        }


def copy_tree(root: Path, to: Path) -> None:
    """What the killers may read, so that nobody changes it while they run."""
    shutil.copytree(root, to, ignore=LEFT_OUT)


def killers(tree: Path, mutated: set[str]) -> tuple[list[str], list[str]]:
    """The test files by stage."""
    modules = {f.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for f in mutated}
    unit = [f for folder in UNIT for f in sorted((tree / folder).glob("test_*.py")) if _imports(tree, f) & modules]
    simulated = [f for folder in SIMULATED for f in sorted((tree / folder).glob("**/test_*.py"))]
    return [str(f.relative_to(tree)) for f in unit], [str(f.relative_to(tree)) for f in simulated]


def _imports(tree: Path, file: Path) -> set[str]:
    """The modules that a test file imports, itself or by a helper in tests/."""
    names: set[str] = set()
    todo = [file]
    while todo:
        for node in ast.walk(ast.parse(todo.pop().read_text())):
            match node:
                case ast.Import(names=aliases):
                    new = {a.name for a in aliases}
                case ast.ImportFrom(module=str(base), names=aliases):
                    new = {base, *(f"{base}.{a.name}" for a in aliases)}
                case _:
                    continue
            helpers = [tree / (n.replace(".", "/") + ".py") for n in new - names if n.startswith("tests.")]
            todo += [h for h in helpers if h.is_file()]
            names |= new
    return names


class Worker:
    """A process of tests.mutants.worker. `stop` must be called."""

    def __init__(self, tree: Path, kind: str, files: list[str]) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._log = tree / f"{kind}-{self._requests}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.mutants.worker", kind, str(requests), str(answers), *files],
                cwd=tree,
                env=_environment(tree),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(requests, answers),
            )
        os.close(requests)
        os.close(answers)
        self._reader = os.fdopen(self._answers)
        self._writer = os.fdopen(self._requests, "w")

    def ask(self, **request: Any) -> dict[str, Any]:
        """Raises Broken where the worker itself has died."""
        try:
            self._writer.write(json.dumps(request) + "\n")
            self._writer.flush()
            line = self._reader.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Broken(f"the tests could not be run:\n{self.log()}")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def log(self) -> str:
        return self._log.read_text()[-3000:]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.close()
        try:
            self._writer.close()
        except BrokenPipeError:
            pass


def _environment(tree: Path) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
    for name in ("HA_AGENT_UPDATE_SCENARIOS", "HA_AGENT_FUZZ", "HA_AGENT_NOT_RUN", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    return environment


class Runner:
    """Knows a copy of the tree, which tests reach what there, and the fate of any mutant. Use it as a context."""

    def __init__(self, tree: Path, files: dict[str, str], stages: tuple[list[str], ...]) -> None:
        self._tree = tree
        self._texts = files
        self._trees = {f: ast.parse(text) for f, text in files.items()}
        self._files = stages
        self._stages: dict[int, Stage] = {}
        self._learning = threading.Lock()
        every = [f for stage in stages for f in stage]
        self._bare = Worker(tree, "bare", every)
        self._collected = Worker(tree, "collected", every)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._bare.stop()
        self._collected.stop()

    def twin(self) -> Runner:
        """Another one that shares what this one learns of the tests."""
        twin = Runner(self._tree, self._texts, self._files)
        twin._stages, twin._learning = self._stages, self._learning
        return twin

    def stage(self, number: int) -> Stage:
        """Run its tests on the unchanged tree. Raises Broken: tests that fail anyway would kill everything."""
        with self._learning:
            if number not in self._stages:
                self._stages[number] = self._learn(self._files[number])
            return self._stages[number]

    def _learn(self, files: list[str]) -> Stage:
        answer = self._bare.ask(sources={f: probed(f, text) for f, text in self._texts.items()}, files=files)
        if answer.get("failure") or "tests" not in answer:
            raise Broken(f"the tests fail without any mutant: {answer.get('failure')}\n{self._bare.log()}")
        tests = sorted(answer["tests"].items(), key=lambda item: item[1][0])
        return Stage(
            seconds={t: s for t, (s, _) in tests},
            reached={t: frozenset(r) for t, (_, r) in tests},
            at_import=frozenset(answer["at_import"]),
        )

    def fate(self, mutant: Mutant, stages: int | None = None) -> tuple[Fate, str]:
        """What becomes of it, and by which test. `stages`: only the first ones."""
        for number in range(stages if stages is not None else len(self._files)):
            fate, by = self._fate_in(mutant, self.stage(number))
            if fate is not Fate.SURVIVED:
                return fate, by
        return Fate.SURVIVED, ""

    def _fate_in(self, mutant: Mutant, stage: Stage) -> tuple[Fate, str]:
        function, statement = place(mutant.file, self._trees[mutant.file], mutant.lineno, mutant.col)
        if statement in stage.at_import:
            statement = ""
        limits = stage.limits(statement)
        if not limits:
            return Fate.SURVIVED, ""
        answer: dict[str, Any] = {"cannot": True}
        if statement:
            answer = self._collected.ask(file=mutant.file, function=function, text=mutant.text, limits=limits)
        if "cannot" in answer:
            answer = self._bare.ask(sources={mutant.file: mutant.text}, limits=limits)
        if "timed_out" in answer:
            return Fate.TIMED_OUT, ""
        return (Fate.KILLED, answer["failure"].splitlines()[0]) if answer["failure"] else (Fate.SURVIVED, "")
