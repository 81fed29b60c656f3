"""Where an agent's password comes from: a script, a file, or stdin; in this order. It is in no text that leaves us."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
from pathlib import Path

from ha_agent.errors import UsageError
from ha_agent.fenceagents.options import Option, Options

SECRET_MAX = 4096
SCRIPT_S = 10.0

PASSWORD = Option(name="password", aliases=("passwd",), secret=True, help="Password")
PASSWORD_FILE = Option(
    name="password_file", aliases=("passwd_file",), help="A file whose only line is the password; /dev/stdin will do"
)
PASSWORD_SCRIPT = Option(
    name="password_script",
    letter="S",
    aliases=("passwd_script",),
    help=f"A command that prints the password within {SCRIPT_S:g} s",
)
SOURCES = (PASSWORD, PASSWORD_FILE, PASSWORD_SCRIPT)


def password(options: Options) -> bytes:
    """Empty where none was told. Raises UsageError."""
    script, file = options.text(PASSWORD_SCRIPT.name), options.text(PASSWORD_FILE.name)
    if script:
        return _line(_printed(script), f"what {PASSWORD_SCRIPT.name} prints")
    if file:
        return _line(_content(file), f"the file of {PASSWORD_FILE.name}")
    return options.secret(PASSWORD.name)


def _printed(script: str) -> bytes:
    late: list[bool] = []
    try:
        # what it says on stderr may hold the secret too
        process = subprocess.Popen(  # noqa: S603  # who configures the agent says what to run
            shlex.split(script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{PASSWORD_SCRIPT.name}: it cannot be run: {reason}", "correct its path or rights") from None

    def end() -> None:
        late.append(True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it started

    timer = threading.Timer(SCRIPT_S, end)
    timer.start()
    with process:
        assert process.stdout is not None
        printed = process.stdout.read(SECRET_MAX + 1)
    timer.cancel()
    if late:
        raise UsageError(f"{PASSWORD_SCRIPT.name}: it does not end within {SCRIPT_S:g} s", "correct it")
    if process.returncode != 0 and len(printed) <= SECRET_MAX:  # one that prints too much may be stopped by that
        raise UsageError(f"{PASSWORD_SCRIPT.name}: it ends with {process.returncode}", "correct it")
    return printed


def _content(file: str) -> bytes:
    try:
        with Path(file).open("rb") as opened:
            return opened.read(SECRET_MAX + 1)
    except OSError as error:
        raise UsageError(
            f"{PASSWORD_FILE.name}: it cannot be read: {error.strerror}", "correct its path or rights"
        ) from None


def _line(content: bytes, what: str) -> bytes:
    secret = content.rstrip(b"\r\n")
    if not secret or len(secret) > SECRET_MAX:
        raise UsageError(f"{what} is {'too long' if secret else 'empty'}", "let the password be its only line")
    return secret
