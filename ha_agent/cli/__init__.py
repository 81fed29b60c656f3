"""The command line. Every import of weight happens inside the command that needs it, so that `--help` is quick."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The entry point: 0 done, 1 failed, 2 bad input, 130 interrupted. A user never sees a traceback for bad input."""
    from ha_agent.cli.app import app
    from ha_agent.cli.common import clean
    from ha_agent.errors import ConfigError, HaAgentError

    try:
        app(prog_name="ha-agent")
    except ConfigError as error:
        for field, problem, fix in error.problems:
            print(clean(f"{field}: {problem}; {fix}"), file=sys.stderr)
        sys.exit(error.exit_code)
    except HaAgentError as error:
        print(clean(f"ha-agent: {error}" + (f"\n  {error.hint}" if error.hint else "")), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `ha-agent status | head`; the interpreter flushes stdout once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(clean(f"ha-agent: {where}{error.strerror or error}"), file=sys.stderr)
        sys.exit(1)
