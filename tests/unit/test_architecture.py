"""Imports point inward. Every module belongs to one layer, and a layer says what it may import.

The pure part (all decisions) knows no clock, no randomness and no I/O; drivers know the ports and the model, not who uses them.
Imports are read from the source, wherever in a module they stand, so that a lazy or a type-checking import counts as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ha_agent"

PURE_STDLIB = frozenset(
    {"__future__", "collections", "dataclasses", "enum", "functools", "hashlib", "itertools", "json", "math", "typing"}
)
PURE_LIBRARIES = frozenset({"msgspec"})
# Ways around an import statement, and builtins that reach outside.
IMPURE_CALLS = frozenset({"__import__", "import_module", "open", "input", "exec", "eval", "print", "breakpoint"})

PURE = (
    "ha_agent.model",
    "ha_agent.errors",
    "ha_agent.policy",
    "ha_agent.planes",
    "ha_agent.plans",
    "ha_agent.guards",
    "ha_agent.witness",
    "ha_agent.rhythm",
    "ha_agent.selfdoubt",
    "ha_agent.bounds",
    "ha_agent.decide",
    "ha_agent.recovery.select",
    "ha_agent.notify.objects",
    "ha_agent.notify.catalogue",
    "ha_agent.ports",
)
# Decisions see no port: what detectors report reaches them as events. The witness reads these reports.
DECISIONS = tuple(module for module in PURE if module != "ha_agent.ports")
# What drivers may use: words, errors, ports, and thin wrappers of the operating system; no decisions.
WORDS = (
    "ha_agent.model",
    "ha_agent.planes",
    "ha_agent.policy",
    "ha_agent.errors",
    "ha_agent.ports",
    "ha_agent.system",
    "ha_agent.sdnotify",
    "ha_agent.logs",
    "ha_agent.aside",
    "ha_agent.programs",
)
# What everyone further out may use.
COMMON = (*PURE, *WORDS)
DRIVERS = ("heartbeat", "fencing", "recovery", "notify", "store", "guests")

# Layer -> what it may import besides itself. The longest prefix that fits a module is its layer; "ha_agent" alone is the package
# itself, of which anyone may import the version and which imports nothing.
ALLOWED: dict[str, tuple[str, ...]] = {
    "ha_agent": (),
    **dict.fromkeys(PURE, DECISIONS),
    "ha_agent.witness": PURE,
    "ha_agent.system": PURE,
    **dict.fromkeys(
        ("ha_agent.aside", "ha_agent.sdnotify", "ha_agent.logs", "ha_agent.privileges", "ha_agent.programs"), PURE
    ),
    "ha_agent.config": COMMON,
    **{f"ha_agent.{driver}": WORDS for driver in DRIVERS},
    # Puts the remote together, without what the controller and the command line are made of.
    "ha_agent.heartbeat.daemon": (*WORDS, "ha_agent.heartbeat", "ha_agent.guests"),
    "ha_agent.api": (*COMMON, "ha_agent.metrics"),
    "ha_agent.metrics": (*COMMON, "ha_agent.api"),
    "ha_agent.controller": (
        *COMMON,
        "ha_agent.config",
        "ha_agent.api",
        "ha_agent.metrics",
        *(f"ha_agent.{driver}" for driver in DRIVERS),
    ),
    "ha_agent.sim": (
        *COMMON,
        "ha_agent.config",
        "ha_agent.api",
        "ha_agent.metrics",
        "ha_agent.controller",
        *(f"ha_agent.{driver}" for driver in DRIVERS),
    ),
    # Small programs beside the controller: one uses a driver, the other the API as the CLI does.
    "ha_agent.fenceagents": (*COMMON, "ha_agent.fencing", "ha_agent.api", "ha_agent.cli.client"),
    "ha_agent.cli": ("ha_agent",),  # everything
    "ha_agent.__main__": ("ha_agent",),
}


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def layer_of(module: str) -> str | None:
    fitting = [layer for layer in ALLOWED if layer != "ha_agent" and within(module, layer)]
    if fitting:
        return max(fitting, key=len)
    return "ha_agent" if module == "ha_agent" else None


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import; `from a import b` counts as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[
                    : None if node.level == 1 and is_package else -node.level + is_package or None
                ]
                base = ".".join([*above, base] if base else above)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def calls_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.lineno, node.func.id
            elif isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
                yield node.lineno, node.func.attr


def violations(package: Path) -> list[str]:
    """One sentence for each import that points outward."""
    found = []
    for path in sorted(package.rglob("*.py")):
        module = module_name(path, package)
        where = path.relative_to(package.parent)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        layer = layer_of(module)
        if layer is None:
            found.append(f"{where}: belongs to no layer; add it to ALLOWED")
            continue
        # Importing a.b runs a/__init__.py, so what is pure must not sit below a package whose __init__ is not.
        pure = layer in PURE or (path.name == "__init__.py" and any(within(p, module) for p in PURE))
        for line, name in imports_of(tree, module, is_package=path.name == "__init__.py"):
            top = name.partition(".")[0]
            if top != "ha_agent":
                if pure and top not in PURE_STDLIB | PURE_LIBRARIES:
                    found.append(f"{where}:{line}: {module} is pure and must not import {name}")
            elif name != "ha_agent.__version__" and not any(within(name, a) for a in (layer, *ALLOWED[layer])):
                found.append(f"{where}:{line}: {module} (layer {layer}) must not import {name}")
            elif pure and not any(within(name, p) for p in PURE):
                found.append(f"{where}:{line}: {module} is pure and must not import {name}")
        if pure:
            found += [
                f"{where}:{n}: {module} is pure and must not call {c}" for n, c in calls_of(tree) if c in IMPURE_CALLS
            ]
    return found


def test_imports_point_inward() -> None:
    assert violations(PACKAGE) == []


def test_the_judge_of_simulated_worlds_shares_no_code_with_what_it_judges() -> None:
    """But for the bounds that are promised to operators: these it holds the controller to."""
    path = PACKAGE / "sim" / "invariants.py"
    names = [name for _, name in imports_of(ast.parse(path.read_text()), "ha_agent.sim.invariants", is_package=False)]
    judged = ("decide", "guards", "witness", "plans", "planes", "rhythm", "selfdoubt", "recovery", "controller")
    assert [name for name in names if any(within(name, f"ha_agent.{part}") for part in judged)] == []
    assert any(within(name, "ha_agent.bounds") for name in names)


def test_the_pure_part_exists() -> None:
    """A renamed module must not slip out of the rule."""
    for module in PURE:
        path = PACKAGE.parent.joinpath(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), f"{module} is gone; correct PURE"


def plant(tmp_path: Path, path: str, source: str) -> list[str]:
    package = tmp_path / "ha_agent"
    file = package / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source, encoding="utf-8")
    return violations(package)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("guards.py", "import time\n"),
        ("guards.py", "from random import random\n"),
        ("guards.py", "def f():\n    import os\n"),
        ("guards.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asyncio\n"),
        ("guards.py", "import importlib\n"),
        ("guards.py", "def f(p): return open(p)\n"),
        ("decide/fence.py", "from datetime import datetime\n"),
        ("decide/fence.py", "from ha_agent import ports\n"),
        ("decide/fence.py", "from ..recovery import nova\n"),
        ("decide/fence.py", "from .. import store\n"),
        ("recovery/select.py", "from . import nova\n"),
        ("recovery/__init__.py", "import socket\n"),
        ("recovery/__init__.py", "from ha_agent.recovery.nova import Nova\n"),
        ("notify/objects.py", "import uuid\n"),
        ("fencing/ipmi.py", "from ha_agent.controller import effects\n"),
        ("fencing/ipmi.py", "from ha_agent.decide import decide\n"),
        ("store/sqlite.py", "import ha_agent.recovery.nova\n"),
        ("heartbeat/remote.py", "from ha_agent.api.facade import Facade\n"),
        ("controller/daemon.py", "from ha_agent.sim import world\n"),
        ("sim/world.py", "from ha_agent.cli import main\n"),
        ("stray.py", ""),
    ],
)  # fmt: skip
def test_a_planted_violation_is_caught(tmp_path: Path, path: str, source: str) -> None:
    assert len(plant(tmp_path, path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("guards.py", "from collections.abc import Iterable\nimport msgspec\nfrom ha_agent.model import Value\n"),
        ("decide/fence.py", "from ha_agent.recovery import select\nfrom .turn import Turn\n"),
        ("fencing/ipmi.py", "import asyncio\nfrom ha_agent.ports import Fencer\nfrom ha_agent.fencing.worker import Worker\n"),
        ("recovery/__init__.py", '"""Recovery."""\n'),
        ("controller/daemon.py", "import asyncio\nfrom ha_agent.store.sqlite import Store\nfrom ha_agent import __version__\n"),
        ("sim/world.py", "import random\nfrom ha_agent.controller.engine import Engine\n"),
        ("cli/demo.py", "from ha_agent.sim import world\n"),
    ],
)  # fmt: skip
def test_what_is_allowed_is_not_caught(tmp_path: Path, path: str, source: str) -> None:
    assert plant(tmp_path, path, source) == []


def test_no_wait_for() -> None:
    """Until Python 3.12 it swallows a cancellation that comes together with the result: what was told to stop goes on (S4).
    `asyncio.timeout` does not."""
    used = [
        f"{path.relative_to(PACKAGE.parent)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "asyncio.wait_for"
    ]
    assert used == []
