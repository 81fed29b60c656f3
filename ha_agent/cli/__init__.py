"""The command line. Every import of weight happens inside the command that needs it, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main() -> None:
    """The entry point."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """One command. 0 done, 1 failed, 2 bad input, 130 interrupted. A user never sees a traceback for bad input."""
    from ha_agent.cli.app import app
    from ha_agent.cli.common import clean
    from ha_agent.errors import ConfigError, HaAgentError

    try:
        app(list(arguments), prog_name="ha-agent")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except ConfigError as error:
        for field, problem, fix in error.problems:
            print(clean(f"{field}: {problem}; {fix}"), file=sys.stderr)
        return error.exit_code
    except HaAgentError as error:
        print(clean(f"ha-agent: {error}" + (f"\n  {error.hint}" if error.hint else "")), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `ha-agent status | head`; the interpreter flushes stdout once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(clean(f"ha-agent: {where}{error.strerror or error}"), file=sys.stderr)
        return 1
    return 0
