"""The least that a heartbeat over mutual TLS costs in Python: `python -m tests.benchmarks.remote_yardstick DIRECTORY PORT`.

Nothing but the standard library: it accepts, and says one line each second until the other side goes. No identities, no limits, no health,
no probes, no gate. It imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path


async def beat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A line, an acknowledgement, a second."""
    try:
        for seq in range(1, 10**9):
            writer.write(
                json.dumps({"type": "Beat", "seq": seq, "boot_id": "0" * 36, "nova_compute": "up"}).encode() + b"\n"
            )
            await writer.drain()
            if not await reader.readline():
                break
            await asyncio.sleep(1.0)
    except OSError:
        pass
    finally:
        writer.close()


async def main(directory: Path, port: int) -> None:
    """Serves for ever."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    context.load_verify_locations(directory / "ca.pem")
    server = await asyncio.start_server(beat, "127.0.0.1", port, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
