"""The tool itself: what a killer notices is killed, what none notices survives, and a suite that fails anyway is no killer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.generate import mutants
from tests.mutants.places import place, probed
from tests.mutants.run import Broken, Fate, Runner

RULES = """
LIMIT = 3


def allowed(n: int, limit: int = 5) -> bool:
    while n < 0:
        n += 1
    return n <= LIMIT
"""
NOTICES = """
from ha_agent.rules import LIMIT, allowed


def test_the_limit():
    assert allowed(-3)
    assert allowed(3)
    assert not allowed(LIMIT + 1)
    assert LIMIT == 3
"""
DOES_NOTHING = """
import ha_agent.rules


def test_nothing():
    ha_agent.rules.allowed(-3)
"""
FILE = "ha_agent/rules.py"


def tree(place: Path, test: str) -> Runner:
    """A project with one rule, and one test as its only killer."""
    for folder in ("ha_agent", "tests"):
        (place / folder).mkdir()
        (place / folder / "__init__.py").touch()
    (place / "tests/mutants").symlink_to(Path(__file__).parent)
    (place / "pyproject.toml").touch()
    (place / FILE).write_text(RULES)
    (place / "tests/test_rules.py").write_text(test)
    return Runner(place, {FILE: RULES}, (["tests/test_rules.py"],))


def test_what_a_test_notices_is_killed_wherever_it_is(tmp_path: Path) -> None:
    with tree(tmp_path, NOTICES) as runner:
        fates = {f"{m.lineno} {m.change}": runner.fate(m)[0] for m in mutants(FILE, RULES)}
    assert fates == {
        "2 3 to 4": Fate.KILLED,
        "6 < to <=": Fate.SURVIVED,
        "6 < to >=": Fate.TIMED_OUT,
        "6 0 to 1": Fate.SURVIVED,
        "8 <= to <": Fate.KILLED,
        "8 <= to >": Fate.KILLED,
    }


def test_a_killer_that_does_nothing_kills_nothing(tmp_path: Path) -> None:
    with tree(tmp_path, DOES_NOTHING) as runner:
        fates = {runner.fate(m)[0] for m in mutants(FILE, RULES) if "<=" in m.change and m.lineno == 8}
    assert fates == {Fate.SURVIVED}


def test_a_suite_that_fails_anyway_is_an_error(tmp_path: Path) -> None:
    with tree(tmp_path, NOTICES.replace("== 3", "== 4")) as runner, pytest.raises(Broken, match="test_the_limit"):
        runner.fate(mutants(FILE, RULES)[0])


def test_a_suite_that_cannot_be_imported_is_an_error(tmp_path: Path) -> None:
    with tree(tmp_path, "import nothing_of_that_name") as runner, pytest.raises(Broken, match="nothing_of_that_name"):
        runner.fate(mutants(FILE, RULES)[0])


SOURCE = '''
A = 1 < 2

class C:
    def method(self, a: int = 3) -> int:
        """What it is for."""
        if a < 1:
            return 1
        elif a < 2:
            def inner() -> int:
                return a

            return inner()
        return 4

    @property
    def twice(self) -> int:
        return 1

    @twice.setter
    def twice(self, value: int) -> None:
        return None
'''


@pytest.mark.parametrize(
    ("text", "function", "statement"),
    [
        ("1 < 2", "", ""),
        ("3) ->", "", ""),
        ("a < 1", "C.method", "if a < 1"),
        ("return a", "C.method", "return a"),
        ("4", "C.method", "return 4"),
        ("None\n", "", ""),  # two functions of one name
    ],
)
def test_a_position_belongs_to_a_statement_of_a_function(text: str, function: str, statement: str) -> None:
    def position(of: str) -> tuple[int, int]:
        before = SOURCE[: SOURCE.index(of)]
        return before.count("\n") + 1, len(before) - before.rfind("\n") - 1

    line, col = position(statement) if statement else (0, 0)
    key = f"f.py:{line}:{col}" if statement else ""
    assert place("f.py", ast.parse(SOURCE), *position(text)) == (function, key)


def test_probes_say_what_is_reached_and_change_nothing() -> None:
    reached: list[str] = []
    names: dict[str, object] = {"__reached__": reached.append}
    exec(compile(probed("f.py", SOURCE), "f.py", "exec"), names)
    made = names["C"]
    assert isinstance(made, type)
    assert reached == []
    assert [made().method(n) for n in (0, 1, 2)] == [1, 1, 4]
    assert reached.count("f.py:7:8") == 3
    assert reached.count("f.py:9:8") == 2
