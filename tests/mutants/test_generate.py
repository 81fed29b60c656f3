"""The generator: what it makes is a program, differs in one place, and bears an id that stays."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.__main__ import EQUIVALENT, generated, justified
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


def test_every_justification_fits_a_mutant() -> None:
    assert justified(EQUIVALENT.read_text()).keys() <= {m.key for m in generated()}


def test_a_justification_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match=r"equivalent\.txt:1"):
        justified("ha_agent/guards.py :: > to >= :: if count > limit:")
