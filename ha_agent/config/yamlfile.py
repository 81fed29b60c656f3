"""Reads YAML safely: of bounded size, no duplicate keys, no aliases that multiply; and remembers on which line each field stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ha_agent.errors import ConfigError

MAX_BYTES = 8 * 1024 * 1024
MAX_NODES = 500_000
MAX_DEPTH = 40

FieldPath = tuple[str | int, ...]


_Base: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast


class _Loader(_Base):  # type: ignore[misc, valid-type]
    """The safe loader without timestamps: a name that looks like a date stays a name."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Text:
    """A parsed file. `data`: plain values; `lines`: field path -> line, counted from 1; `problems`: duplicate keys."""

    def __init__(self, data: Any, lines: dict[FieldPath, int], problems: list[tuple[str, str, str]]) -> None:
        self.data = data
        self.lines = lines
        self.problems = problems

    def field(self, path: FieldPath) -> str:
        """The path as a human writes it, with the line it (or what is around it) stands on."""
        for length in range(len(path), 0, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                return f"{dotted(path)} (line {line})"
        return dotted(path)


def dotted(path: FieldPath) -> str:
    """`hosts.compute-1.port`, `fencing.levels[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(file)"


def read(path: Path) -> Text:
    """Reads a file. Raises ConfigError: it cannot be read, or is no YAML that we accept."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            [(str(path), f"cannot be read: {error.strerror}", "give the path of a readable file")]
        ) from None
    return parse(raw, str(path))


def parse(raw: bytes, name: str) -> Text:
    """Parses a file's bytes. Raises ConfigError."""
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            [(name, f"is larger than {MAX_BYTES // 2**20} MiB", "no inventory needs that: is it the right file?")]
        )
    try:
        text = raw.decode("utf-8")
        _check_depth(text)
        node = yaml.compose(text, Loader=_Loader)
        walk = _Walk()
        if node is not None:
            walk.visit(node, (), 0)
        loader = _Loader("")
        try:
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise ConfigError([(name, f"is not UTF-8 (byte {error.start})", "save it as UTF-8")]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name} (line {mark.line + 1})" if mark else name
        raise ConfigError([(where, f"is not valid YAML: {error.problem}", "mind indentation and quotes")]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([(name, f"is not valid YAML: {error}", "mind indentation and quotes")]) from None
    except (RecursionError, _TooMuchError):
        raise ConfigError([(name, "is nested too deeply or multiplies by aliases", "write it out plainly")]) from None
    return Text(data, walk.lines, walk.problems)


class _TooMuchError(Exception):
    """More nodes than any configuration has."""


def _check_depth(text: str) -> None:
    """libyaml's composer recurses without a limit of its own, and takes the process with it: so the depth is known before it runs."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _TooMuchError


class _Walk:
    """Visits every node as often as the data will hold it: so that aliases which multiply are found before they do."""

    def __init__(self) -> None:
        self.lines: dict[FieldPath, int] = {}
        self.problems: list[tuple[str, str, str]] = []
        self._nodes = 0

    def visit(self, node: yaml.Node, path: FieldPath, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _TooMuchError
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, (*path, index), depth + 1)
        elif isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
                if name in seen:
                    self.problems.append(
                        (
                            f"{dotted((*path, name))} (line {line})",
                            f"is there twice, first on line {seen[name]}",
                            "remove one: the second would silently replace the first",
                        )
                    )
                seen.setdefault(name, line)
                self.lines.setdefault((*path, name), line)
                self.visit(value, (*path, name), depth + 1)
