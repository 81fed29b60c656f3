"""One file in, its mutants out: the same text with one small mistake each. The order and the ids depend on nothing but the text."""

from __future__ import annotations

import ast
import enum
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ha_agent import model
from tests.mutants.places import functions

COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
STRIDE = 4  # to another member of an enum: the next one is often much alike
BARE = (ast.Name, ast.Attribute, ast.Call, ast.Subscript)  # tests without an operator
OUTSIDE = "-"  # in place of a function's name
LEAVES = (ast.Return, ast.Continue, ast.Break, ast.Raise)

Key = tuple[str, str, str, str]  # file, function, change, source line


@dataclass(frozen=True)
class Mutant:
    """`function`: the qualified name of the one it is in; `change`: what is different, in words; `line`: the source line, stripped; `text`: the
    whole mutated file."""

    id: str
    file: str
    function: str
    lineno: int
    col: int
    change: str
    line: str
    text: str

    @property
    def key(self) -> Key:
        """What names it in equivalent.txt: it survives a move of the line."""
        return self.file, self.function, self.change, self.line

    def diff(self, original: str) -> str:
        """The first line that differs, as it was and as it is."""
        for was, now in zip(original.splitlines(), self.text.splitlines(), strict=False):
            if was != now:
                return f"- {was.strip()}\n    + {now.strip()}"
        return "(the end of the file differs)"


@dataclass(frozen=True)
class Edit:
    """Replace the bytes [start, end) of the file."""

    node: ast.expr
    operator: str
    change: str
    start: int
    end: int
    new: str


def mutants(file: str, source: str) -> list[Mutant]:
    """Every mutant of a file, from top to bottom."""
    tree = ast.parse(source)
    text = Text(source)
    edits = [e for node in _code(tree) for e in _edits(text, node)]
    edits.sort(key=lambda e: (e.node.lineno, e.node.col_offset))
    counts: Counter[tuple[int, int, str]] = Counter()
    made = []
    for edit in edits:
        place = (edit.node.lineno, edit.node.col_offset, edit.operator)
        counts[place] += 1
        line, col, operator = place
        made.append(
            Mutant(
                id=f"{file}:{line}:{col}:{operator}:{counts[place]}",
                file=file,
                function=_function(tree, line),
                lineno=line,
                col=col,
                change=edit.change,
                line=text.line(line),
                text=text.with_edit(edit),
            )
        )
    return made


def _function(tree: ast.Module, line: int) -> str:
    return next((n for n, f in functions(tree) if f.lineno <= line <= (f.end_lineno or 0)), OUTSIDE)


class Text:
    """A file by the positions of its syntax tree, which count UTF-8 bytes."""

    def __init__(self, source: str) -> None:
        self._bytes = source.encode()
        self._lines = self._bytes.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def line(self, number: int) -> str:
        return self._lines[number - 1].decode().strip()

    def start(self, node: ast.expr) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def between(self, left: ast.expr, right: ast.expr) -> tuple[int, str]:
        """Where the operator between two operands is, and its surroundings."""
        start = self.end(left)
        return start, self._bytes[start : self.start(right)].decode()

    def with_edit(self, edit: Edit) -> str:
        return (self._bytes[: edit.start] + edit.new.encode() + self._bytes[edit.end :]).decode()


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """What decides: no annotation, no class header, no assertion (nothing depends on it), no text (f-strings carry no positions either)."""
    if isinstance(node, ast.Assert | ast.JoinedStr):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list"} or (
            isinstance(node, ast.ClassDef) and name == "keywords"
        ):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _code(child)


def _edits(text: Text, node: ast.AST) -> Iterator[Edit]:
    for test in _tests(node):
        if isinstance(test, BARE):
            yield _replace(text, test, "negate", "negated", f"(not ({ast.unparse(test)}))")
    match node:
        case ast.Compare():
            yield from _comparison(text, node)
            yield from (e for c in (node.left, *node.comparators) for e in _number(text, c))
        case ast.BoolOp():
            yield from _boolean(text, node)
        case ast.UnaryOp(op=ast.Not()):
            yield _replace(text, node, "not", "not removed", f"({ast.unparse(node.operand)})")
        case ast.Constant(value=bool(truth)):
            yield _replace(text, node, "constant", f"{truth} to {not truth}", str(not truth))
        case ast.Assign(value=ast.Constant() as value) | ast.AnnAssign(value=ast.Constant() as value):
            yield from _number(text, value)
        case ast.If(test=test, body=[*_, last]) if isinstance(last, LEAVES):
            yield _replace(text, test, "leave", "never leaves here", "False")
        case ast.Attribute(value=ast.Name(id=name), attr=member):
            yield from _member(text, node, name, member)


def _tests(node: ast.AST) -> Sequence[ast.expr]:
    """What a node asks."""
    match node:
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            return [test]
        case ast.comprehension(ifs=ifs):
            return ifs
        case _:
            return []


def _replace(text: Text, node: ast.expr, operator: str, change: str, new: str) -> Edit:
    return Edit(node, operator, change, text.start(node), text.end(node), new)


def _comparison(text: Text, node: ast.Compare) -> Iterator[Edit]:
    operands = [node.left, *node.comparators]
    for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
        was, others = COMPARISONS[type(op)]
        at, gap = text.between(left, right)
        for other in others:
            new = re.sub(rf"(?<![\w<>=]){re.escape(was)}(?![\w<>=])", other, gap, count=1)
            yield Edit(node, "compare", f"{was} to {other}", at, at + len(gap.encode()), new)


def _boolean(text: Text, node: ast.BoolOp) -> Iterator[Edit]:
    was, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    swapped = ast.BoolOp(op=ast.Or() if was == "and" else ast.And(), values=node.values)
    yield _replace(text, node, "boolean", f"{was} to {other}", f"({ast.unparse(swapped)})")
    for dropped in node.values:
        kept = [v for v in node.values if v is not dropped]
        rest = kept[0] if len(kept) == 1 else ast.BoolOp(op=node.op, values=kept)
        yield _replace(text, node, "operand", f"without {ast.unparse(dropped)}", f"({ast.unparse(rest)})")


def _number(text: Text, node: ast.expr) -> Iterator[Edit]:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        other = node.value + 1 if node.value + 1 != node.value else node.value / 2
        yield _replace(text, node, "constant", f"{node.value} to {other}", str(other))


def _member(text: Text, node: ast.Attribute, name: str, member: str) -> Iterator[Edit]:
    kind = getattr(model, name, None)
    if isinstance(kind, enum.EnumMeta) and member in kind.__members__:
        names = list(kind.__members__)
        other = names[(names.index(member) + (STRIDE % len(names) or 1)) % len(names)]
        yield _replace(text, node, "member", f"{name}.{member} to {name}.{other}", f"{name}.{other}")
