#!/usr/bin/python3
"""A receiver of webhooks: checks who posts and when, prints each event once, and answers.

python3 examples/webhook_receiver.py SECRET_FILE [PORT]
"""

import base64
import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

APART_S = 300.0  # an older or newer timestamp is refused: somebody may send again what was signed once
SIZE_MAX = 1024 * 1024
seen: dict[str, None] = {}


def key(text: str) -> bytes:
    """As ha-agent reads the file."""
    return base64.b64decode(text.removeprefix("whsec_")) if text.startswith("whsec_") else text.encode()


class Receiver(BaseHTTPRequestHandler):
    """One request."""

    secret = b""

    def do_POST(self) -> None:
        """204: taken. 401: not signed by who has the secret, or not now."""
        size = int(self.headers.get("Content-Length") or 0)
        if not 0 < size <= SIZE_MAX:
            self.answer(413)
            return
        body = self.rfile.read(size)
        id, at = self.headers.get("webhook-id", ""), self.headers.get("webhook-timestamp", "")
        expected = hmac.new(self.secret, f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
        signed = f"v1,{base64.b64encode(expected).decode()}"
        given = self.headers.get("webhook-signature", "").split()
        if not any(hmac.compare_digest(signed, each) for each in given) or abs(time.time() - float(at)) > APART_S:
            self.answer(401)
            return
        if id not in seen:
            seen[id] = None
            while len(seen) > 10_000:
                seen.pop(next(iter(seen)))
            event = json.loads(body)
            print(event["time"], event["type"], event.get("subject", "-"), flush=True)
        self.answer(204)

    def answer(self, status: int) -> None:
        """Without a body."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Only events are printed."""


if __name__ == "__main__":
    Receiver.secret = key(Path(sys.argv[1]).read_text(encoding="utf-8").strip())
    HTTPServer(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 8080), Receiver).serve_forever()
