"""A copy of a simulated cloud in the middle of its life, with all that is planned in it.

`copy.deepcopy` leaves functions as they are; here what is planned are closures over the world, and they go along with it. What cannot
change (structs, texts, numbers, code) is shared, which makes a copy cheap.
"""

from __future__ import annotations

import enum
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
SHARED = (
    int, float, str, bytes, bool, type(None), type, frozenset, enum.Enum, msgspec.Struct, ModuleType, BaseException,
)  # fmt: skip


class Clone:
    """One copy. `keep`: objects that the copy shares with the original, whatever they are. `made`: copy by the id of its original, so that
    what is one object stays one object."""

    def __init__(self, keep: Iterable[object] = ()) -> None:
        self.made: dict[int, Any] = {id(each): each for each in keep}
        self._kept = set(self.made)

    def of(self, original: T) -> T:
        """The copy of an object and of all that it leads to. Raises TypeError where it leads to something that cannot be copied."""
        found: T = self._of(original)
        return found

    def forget(self) -> None:
        """The copy is not needed any more: it is taken apart, so that its memory is free at once (it is full of cycles)."""
        for key, each in self.made.items():
            if key not in self._kept and type(each) not in _HOW and hasattr(each, "__dict__"):
                each.__dict__.clear()

    def _of(self, original: Any) -> Any:
        kind = type(original)
        if kind in _ATOMS:
            return original
        made = self.made.get(id(original))
        if made is not None:
            return made
        how = _HOW.get(kind)
        if how is not None:
            return how(self, original)
        if isinstance(original, SHARED) or _frozen(kind):
            _ATOMS.add(kind)
            return original
        return self._object(original)

    def _object(self, original: Any) -> Any:
        kind = type(original)
        if hasattr(original, "copy") and not hasattr(original, "__dict__"):  # a digest
            return original.copy()
        if not hasattr(original, "__dict__"):
            if kind.__module__ in ("_thread", "threading"):
                return original  # a lock: there is one thread
            raise TypeError(f"a {kind.__module__}.{kind.__name__} cannot be copied")
        made = self.made[id(original)] = object.__new__(kind)
        of, into = self._of, made.__dict__
        for name, value in original.__dict__.items():
            into[name] = value if type(value) in _ATOMS else of(value)
        return made

    def _dict(self, original: dict[Any, Any]) -> dict[Any, Any]:
        made: dict[Any, Any] = type(original)()
        self.made[id(original)] = made
        of = self._of
        for key, value in original.items():
            made[key if type(key) in _ATOMS else of(key)] = value if type(value) in _ATOMS else of(value)
        return made

    def _list(self, original: list[Any]) -> list[Any]:
        made: list[Any] = []
        self.made[id(original)] = made
        of = self._of
        made.extend([value if type(value) in _ATOMS else of(value) for value in original])
        return made

    def _deque(self, original: deque[Any]) -> deque[Any]:
        made: deque[Any] = deque(maxlen=original.maxlen)
        self.made[id(original)] = made
        made.extend([self._of(value) for value in original])
        return made

    def _set(self, original: set[Any]) -> set[Any]:
        made = self.made[id(original)] = {self._of(value) for value in original}
        return made

    def _tuple(self, original: tuple[Any, ...]) -> tuple[Any, ...]:
        values = [self._of(value) for value in original]
        if all(a is b for a, b in zip(original, values, strict=True)):
            return original
        made = self.made[id(original)] = tuple(values)
        return made

    def _method(self, original: MethodType) -> MethodType:
        return MethodType(original.__func__, self._of(original.__self__))

    def _builtin(self, original: BuiltinFunctionType) -> Any:
        owner = original.__self__
        return (
            original if owner is None or isinstance(owner, ModuleType) else getattr(self._of(owner), original.__name__)
        )

    def _partial(self, original: partial[Any]) -> partial[Any]:
        return partial(self._of(original.func), *self._of(original.args), **self._of(original.keywords))

    def _random(self, original: random.Random) -> random.Random:
        made = self.made[id(original)] = random.Random.__new__(random.Random)
        made.setstate(original.getstate())
        return made

    def _function(self, original: FunctionType) -> FunctionType:
        """A closure may lead back to itself."""
        if original.__closure__ is None and not original.__defaults__:
            return original
        cells = [(c, self.made.get(id(c))) for c in original.__closure__ or ()]
        closure = tuple(known or CellType() for _, known in cells)
        made = FunctionType(original.__code__, original.__globals__, original.__name__, None, closure)
        self.made[id(original)] = made
        for (cell, known), new in zip(cells, closure, strict=True):
            if known is None:
                self.made[id(cell)] = new
                new.cell_contents = self._of(cell.cell_contents)
        made.__defaults__ = self._of(original.__defaults__)
        made.__kwdefaults__ = self._of(original.__kwdefaults__)
        return made


def _frozen(kind: type) -> bool:
    parameters = getattr(kind, "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)


_ATOMS: set[type] = {int, float, str, bytes, bool, type(None)}
_HOW: dict[type, Callable[[Clone, Any], Any]] = {
    dict: Clone._dict,
    OrderedDict: Clone._dict,
    list: Clone._list,
    deque: Clone._deque,
    set: Clone._set,
    tuple: Clone._tuple,
    MethodType: Clone._method,
    BuiltinFunctionType: Clone._builtin,
    partial: Clone._partial,
    random.Random: Clone._random,
    FunctionType: Clone._function,
}
