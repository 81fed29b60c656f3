"""What a fence agent is told, and how: `name=value` lines on stdin, as Pacemaker does it, or options on the command line, as people do.

The rules are those of ClusterLabs' FenceAgentAPI: lines that begin with `#` and names that are not known are ignored on stdin, and the last value
of a name counts. Secrets come by stdin, file or script; a command line is seen by everybody on the machine.
"""

from __future__ import annotations

import getopt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, Literal

from ha_agent.errors import ConfigError
from ha_agent.model import Value

STDIN_MAX = 64 * 1024
SECONDS_MAX = 86_400
TRUE = frozenset({"1", "yes", "on", "true"})
FALSE = frozenset({"0", "no", "off", "false"})

Kind = Literal["string", "integer", "second", "boolean", "select"]
Problem = tuple[str, str, str]  # field, problem, fix


class Option(Value, frozen=True, kw_only=True):
    """One thing that an agent can be told. `name`: on stdin; on the command line it has dashes for underscores. `letter`: its short form.
    `aliases`: older names, on stdin only. `choices`: of a select. `secret`: never on the command line. `required`: says the metadata."""

    name: str
    help: str
    kind: Kind = "string"
    letter: str = ""
    aliases: tuple[str, ...] = ()
    default: str = ""
    choices: tuple[str, ...] = ()
    required: bool = False
    secret: bool = False

    @property
    def long(self) -> str:
        """On the command line, without the two dashes before it."""
        return self.name.replace("_", "-")

    @property
    def usage(self) -> str:
        """How it is typed; empty where it cannot be."""
        if self.secret:
            return ""
        value = "" if self.kind == "boolean" else "=[" + ("|".join(self.choices) or self.kind) + "]"
        return (f"-{self.letter}, " if self.letter else "") + f"--{self.long}{value}"


class Options:
    """What was told, with defaults. Its text never shows a value."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def text(self, name: str) -> str:
        """Empty where it was not told."""
        return self._values.get(name, "")

    def seconds(self, name: str) -> float:
        return float(self._values[name])

    def number(self, name: str) -> int:
        return int(self._values[name])

    def flag(self, name: str) -> bool:
        return self.text(name) in TRUE

    def secret(self, name: str) -> bytes:
        """As it came, whatever its bytes are."""
        return self.text(name).encode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return f"Options({', '.join(sorted(self._values))})"


def told(table: Sequence[Option], arguments: Sequence[str], stdin: BinaryIO) -> Options:
    """The options of one run: of the command line if it has any, else of stdin. Raises ConfigError with every problem."""
    values = from_arguments(table, arguments) if arguments else from_stdin(table, stdin)
    problems = [problem for option in table for problem in _wrong(option, values)]
    if problems:
        raise ConfigError(problems)
    defaults = {option.name: option.default for option in table if option.default}
    return Options({**defaults, **values})


def from_stdin(table: Sequence[Option], stdin: BinaryIO) -> dict[str, str]:
    """Raises ConfigError."""
    raw = stdin.read(STDIN_MAX + 1)
    if len(raw) > STDIN_MAX:
        raise ConfigError([("stdin", f"longer than {STDIN_MAX} bytes", "send name=value lines only")])
    lines: dict[str, str] = {}
    for line in raw.decode("utf-8", "surrogateescape").split("\n"):
        name, equals, value = line.lstrip().rstrip("\r").partition("=")
        if equals and not name.startswith("#"):
            lines[name] = value
    values: dict[str, str] = {}
    for option in table:
        for name in (option.name, *option.aliases):  # an older name counts only where the newer one is not given
            value = lines.get(name, "")
            value = value if option.secret else value.strip()
            if value:
                values.setdefault(option.name, value)
    return values


def from_arguments(table: Sequence[Option], arguments: Sequence[str]) -> dict[str, str]:
    """Raises ConfigError."""
    typed = [option for option in table if not option.secret]
    letters = "".join(o.letter + ("" if o.kind == "boolean" else ":") for o in typed if o.letter)
    longs = [o.long + ("" if o.kind == "boolean" else "=") for o in typed]
    try:
        found, rest = getopt.gnu_getopt(list(arguments), letters, longs)
    except getopt.GetoptError as error:
        fix = "see --help"
        if error.opt == "p" or error.opt.startswith("passw"):
            fix = "everybody can read a command line: use --password-file or --password-script, or give all options on stdin"
        raise ConfigError([(f"-{error.opt}" if len(error.opt) == 1 else f"--{error.opt}", error.msg, fix)]) from None
    if rest:
        raise ConfigError([("arguments", f"{len(rest)} more than options", "see --help")])
    by_flag = {flag: o for o in typed for flag in (f"--{o.long}", f"-{o.letter}" if o.letter else "")}
    return {
        by_flag[flag].name: "1" if by_flag[flag].kind == "boolean" else value
        for flag, value in found
        if value or by_flag[flag].kind == "boolean"
    }


def _wrong(option: Option, values: Mapping[str, str]) -> Iterable[Problem]:
    value = values.get(option.name)
    if value is None:
        return
    if not option.secret and not value.isprintable():
        yield option.name, "holds an unprintable character", "type it again"
        return
    problem = _CHECKS[option.kind](option, value)
    if problem:
        yield option.name, *problem


def _choice(option: Option, value: str) -> tuple[str, str] | None:
    if value in option.choices:
        return None
    return f"{value[:40]!r} is unknown", f"use one of {', '.join(option.choices)}"


def _integer(option: Option, value: str) -> tuple[str, str] | None:
    if value.isascii() and value.isdigit() and len(value) < 10:
        return None
    return f"{value[:40]!r} is no number", f"use digits only, such as {option.default or '1'}"


def _seconds(option: Option, value: str) -> tuple[str, str] | None:
    whole, _, part = value.partition(".")
    digits = (whole + part).isascii() and whole.isdigit() and (not part or part.isdigit())
    if digits and 0 < float(value) <= SECONDS_MAX:
        return None
    return f"{value[:40]!r} is no time", f"use seconds, above 0 and at most {SECONDS_MAX}"


def _boolean(option: Option, value: str) -> tuple[str, str] | None:
    return None if value in TRUE | FALSE else (f"{value[:40]!r} is neither yes nor no", "use 1 or 0")


_CHECKS: Mapping[Kind, Callable[[Option, str], tuple[str, str] | None]] = {
    "string": lambda option, value: None,
    "integer": _integer,
    "second": _seconds,
    "boolean": _boolean,
    "select": _choice,
}
