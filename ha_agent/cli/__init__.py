"""The command line. Everything heavy is imported by the command that uses it, so that `--help` answers at once."""

from __future__ import annotations


def main() -> None:
    """The entry point `ha-agent`."""
    from ha_agent.cli.app import run

    raise SystemExit(run())
