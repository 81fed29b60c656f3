"""The generator: what it makes is a program, differs in one place, and bears an id that stays."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.__main__ import EQUIVALENT, generated, justified, unfit
from tests.mutants.generate import mutants

SOURCE = '''
def f(a: int | None, b: bool) -> bool:
    """Is it 1 < 2?"""
    if a is None or not b:
        return False
    return (a) >= 3 and command.kind is CommandKind.FENCE
'''


def test_each_kind_of_mistake_is_made() -> None:
    changes = {m.change for m in mutants("f.py", SOURCE)}
    assert changes == {
        "is to is not",
        "or to and",
        "without a is None",
        "without not b",
        "not removed",
        "never leaves here",
        "False to True",
        ">= to >",
        ">= to <",
        "3 to 4",
        "and to or",
        "without a >= 3",
        "without command.kind is CommandKind.FENCE",
        "CommandKind.FENCE to CommandKind.FORCE_DOWN",
    }


def test_a_mutant_is_a_program_that_differs() -> None:
    for mutant in generated()[::25]:
        ast.parse(mutant.text)
    for mutant in mutants("f.py", SOURCE):
        assert ast.dump(ast.parse(mutant.text)) != ast.dump(ast.parse(SOURCE))


def test_there_are_enough_and_ids_are_unique_and_stay() -> None:
    ids = [m.id for m in generated()]
    assert len(ids) >= 150
    assert len(ids) == len(set(ids))
    assert ids == [m.id for m in generated()]


def test_every_justification_fits_one_mutant() -> None:
    assert unfit(justified(EQUIVALENT.read_text()), generated()) == []


TWICE = """
def f(a: bool) -> bool:
    if a:
        return False
    return False

def g() -> bool:
    return False
"""


@pytest.mark.parametrize(
    ("function", "problem"), [("g", ""), ("f", "fits 2 mutants"), ("h", "fits no mutant"), ("-", "fits no mutant")]
)
def test_a_justification_excuses_one_place(function: str, problem: str) -> None:
    found = unfit([("f.py", function, "False to True", "return False")], mutants("f.py", TWICE))
    assert len(found) == bool(problem)
    assert problem in "".join(found)


def test_a_mutant_outside_of_any_function_has_its_key_too() -> None:
    assert [m.key for m in mutants("f.py", "A = 1")] == [("f.py", "-", "1 to 2", "A = 1")]


@pytest.mark.parametrize(
    "text",
    [
        "ha_agent/guards.py :: storm :: > to >= :: if count > limit:",
        "ha_agent/guards.py :: > to >= :: if count > limit: :: nobody counts",
        "\n".join(["ha_agent/guards.py :: storm :: > to >= :: if count > limit: :: nobody counts"] * 2),
    ],
)
def test_a_justification_without_all_its_words_or_said_twice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"equivalent\.txt:[12]"):
        justified(text)
