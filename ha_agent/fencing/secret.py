"""Secrets of fencing devices: read from their file by the worker at each use, so that a changed one works at once, and kept
out of whatever is said."""

from __future__ import annotations

import base64
import json
import shlex
from pathlib import Path
from urllib.parse import quote, quote_plus

from ha_agent.errors import DriverError

SECRET_MAX = 4096
HIDDEN = "[hidden]"


def secret(path: str, what: str = "password") -> bytes:
    """The content of the file that holds `what`, without its line end. Raises DriverError."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(SECRET_MAX + 1).rstrip(b"\r\n")
    except OSError as error:
        raise DriverError(
            f"the {what} file {path} cannot be read ({error.strerror}): correct its path or its rights"
        ) from None
    if not content or len(content) > SECRET_MAX:
        raise DriverError(
            f"the {what} file {path} is {'too long' if content else 'empty'}: put the {what} in its only line"
        )
    return content


def scrubbed(text: str, hidden: bytes) -> str:
    """The text without the secret, in any of the forms in which programs repeat one. A foreign program's word about a login is
    worth reading, its password is not."""
    if not hidden:
        return text
    plain = hidden.decode(errors="replace")
    forms = {
        plain,
        repr(plain)[1:-1],
        repr(hidden)[2:-1],
        json.dumps(plain)[1:-1],
        shlex.quote(plain),
        quote(hidden),
        quote_plus(hidden),
        base64.b64encode(hidden).decode(),
    }
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return text
