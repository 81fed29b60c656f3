"""Collects problems while a file is checked, so that all are told at once and none is told that only follows from another."""

from __future__ import annotations

from ha_agent.config.problems import Found, Problem
from ha_agent.config.yamlfile import FieldPath, Text
from ha_agent.errors import ConfigError


class Findings:
    """Problems and warnings of one file. `bad`: fields whose own value is unusable; what depends on them is not judged."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._problems: list[Problem] = list(text.problems)
        self.bad: set[FieldPath] = set()
        self.warnings: list[str] = []

    def unusable(self, found: Found) -> None:
        """A field that has no usable value at all."""
        path, problem, fix = found
        self.bad.add(path)
        self._problems.append((self._text.field(path), problem, fix))

    def add(self, path: FieldPath, problem: str, fix: str, *others: FieldPath) -> None:
        """A problem of the field `path`, which `others` take part in."""
        if self.is_bad(path) or any(self._touches_bad(each) for each in others):
            return
        entry = (self._text.field(path), problem, fix)
        if entry not in self._problems:
            self._problems.append(entry)

    def warn(self, path: FieldPath, text: str) -> None:
        """True, but not wrong."""
        if not self.is_bad(path):
            self.warnings.append(f"{self._text.field(path)}: {text}")

    def is_bad(self, path: FieldPath) -> bool:
        """Whether the field, or what it is part of, has no usable value."""
        return any(path[: len(bad)] == bad for bad in self.bad)

    def _touches_bad(self, path: FieldPath) -> bool:
        """The same, or some part of the field has none."""
        return self.is_bad(path) or any(bad[: len(path)] == path for bad in self.bad)

    def check(self) -> None:
        """Raises ConfigError with everything that was found."""
        if self._problems:
            raise ConfigError(list(self._problems))
