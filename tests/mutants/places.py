"""Where in a file a mutant is: the function that is to be exchanged, and the statement whose execution decides which tests look at it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

PROBE = "__reached__"  # called with a statement's key, in a probed file

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """The functions that stand in no other function, by qualified name."""
    yield from _functions("", tree.body)


def _functions(prefix: str, body: list[ast.stmt]) -> Iterator[tuple[str, Function]]:
    for node in body:
        if isinstance(node, Function):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(f"{prefix}{node.name}.", node.body)


def place(file: str, tree: ast.Module, line: int, col: int) -> tuple[str, str]:
    """The function around a position, and the key of the innermost statement of its body there. Both empty where the position is run
    when the file is imported (a constant, a default), or where two functions bear one name."""
    names = Counter(name for name, _ in functions(tree))
    for name, function in functions(tree):
        around = [s for s in _statements(function) if _within(s, line, col)]
        if around and names[name] == 1:
            return name, _key(file, max(around, key=lambda s: (s.lineno, s.col_offset)))
    return "", ""


def probed(file: str, source: str) -> str:
    """The same program, which calls PROBE before each statement of a function."""
    tree = ast.parse(source)
    for _, function in list(functions(tree)):
        for node in list(ast.walk(function)):
            for field in ("body", "orelse", "finalbody"):
                block = getattr(node, field, None)
                if isinstance(block, list):
                    setattr(node, field, list(_with_probes(file, block)))
    return ast.unparse(ast.fix_missing_locations(tree))


def _with_probes(file: str, block: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in block:
        call = ast.Call(ast.Name(PROBE, ast.Load()), [ast.Constant(_key(file, statement))], [])
        yield ast.copy_location(ast.Expr(call), statement)
        yield statement


def _statements(function: Function) -> Iterator[ast.stmt]:
    for child in function.body:
        yield from (n for n in ast.walk(child) if isinstance(n, ast.stmt))


def _within(node: ast.stmt, line: int, col: int) -> bool:
    end = (node.end_lineno or 0, node.end_col_offset or 0)
    return (node.lineno, node.col_offset) <= (line, col) < end


def _key(file: str, statement: ast.stmt) -> str:
    return f"{file}:{statement.lineno}:{statement.col_offset}"
