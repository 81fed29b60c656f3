"""The command line. Every import of weight happens inside the command that needs it, so that `--help` is quick."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point: 0 done, 1 failed, 2 bad input, 130 interrupted. A user never sees a traceback for bad input."""
    from ha_agent.cli.app import app
    from ha_agent.errors import ConfigError, HaAgentError

    try:
        app()
    except ConfigError as error:
        for field, problem, fix in error.problems:
            print(f"{field}: {problem}; {fix}", file=sys.stderr)
        sys.exit(error.exit_code)
    except HaAgentError as error:
        print(f"ha-agent: {error}" + (f"\n  {error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `ha-agent status | head`
        sys.stderr.close()
        sys.exit(1)
