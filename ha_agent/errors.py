"""Every error that ha-agent raises on purpose: one root, few kinds, each says what to do next."""

from __future__ import annotations


class HaAgentError(Exception):
    """The root. `str(error)` is one sentence for a human; `hint` says what to do, and may be empty."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(HaAgentError):
    """The configuration cannot be used. `problems` holds every one found: (field, problem, fix)."""

    exit_code = 2

    def __init__(self, problems: list[tuple[str, str, str]]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"{field}: {problem}; {fix}" for field, problem, fix in problems))


class UsageError(HaAgentError):
    """The caller asked for something that does not exist or is not allowed; nothing was changed."""

    exit_code = 2


class ProtocolError(HaAgentError):
    """The other side of a connection broke the wire protocol; the connection is closed."""


class StoreError(HaAgentError):
    """The store cannot be read or written. Nothing destructive happens while it lasts."""


class StoreFull(StoreError):
    """The disk below the store is full."""


class StoreLocked(StoreError):
    """Another process holds the store for longer than the time-out."""


class StoreCorrupt(StoreError):
    """What the store holds cannot be decoded; it is left as it is."""


class Conflict(StoreError):
    """A compare-and-set failed: somebody else wrote in between."""


class LeaseLost(StoreError):
    """This process is not (or no longer) the leader of the newest epoch: it must not act."""


class DriverError(HaAgentError):
    """A driver says for certain that the effect did not happen."""


class Rejected(DriverError):
    """It was refused for what it is: the same again would be refused again."""


class Unanswered(HaAgentError):
    """The answer was lost: the effect may or may not have happened (S9). Look before deciding."""


class OutOfTime(Unanswered):
    """The clock forbids more. Not a DriverError: what went before may have had its effect (S9)."""
