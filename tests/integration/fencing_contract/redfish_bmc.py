"""A Redfish BMC over HTTPS on loopback, with the resources that DMTF's specification (DSP0266) asks for: root, sessions, systems, reset.

with RedfishBmc(tmp_path, Machine(Bad.NOTHING)) as bmc:
    ... https://127.0.0.1:bmc.port, CA in bmc.ca_file, USER, PASSWORD ...
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import secrets
import ssl
import threading
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.fencing_contract.bad import Bad
from tests.integration.fencing_contract.machine import Machine

USER = "operator"
PASSWORD = 'pass"w0rd & more'
SERVICE = "/redfish/v1"
NEVER_S = 3600.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
POWER = {"on": "On", "off": "Off", "unknown": None}


def certificate(directory: Path, *, name: str = "127.0.0.1", days: float = 1.0) -> tuple[Path, Path]:
    """A self-signed certificate for an address, and its key. `days` below zero: it has expired."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a BMC")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / "bmc-cert.pem", directory / "bmc-key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


class RedfishBmc:
    """`systems`: how many it has; the first is the machine. `sessions`: whether it has a session service. `overrides`: fields of the
    System's document. `body`: sent instead of that document. `requests`: what arrived, as "METHOD path"."""

    def __init__(
        self, directory: Path, machine: Machine, *, systems: int = 1, sessions: bool = True, days: float = 1.0
    ) -> None:
        self.machine = machine
        self.guid = str(uuid.uuid4())
        self.overrides: dict[str, Any] = {}
        self.body: bytes | None = None
        self.location = ""  # before the path in a session's Location, as BMCs that think they have another name do
        self.reset_status = 204  # 0: the connection ends without an answer
        self.requests: list[str] = []
        self.tokens: set[str] = set()
        self.port = 0
        self._systems = systems
        self._sessions = sessions
        self._connections = 0
        self.ca_file, key_file = certificate(directory, days=days)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self.ca_file, key_file)
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="redfish-bmc", daemon=True)

    def __enter__(self) -> RedfishBmc:
        self._thread.start()
        assert self._ready.wait(10), "the BMC does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._middleware])
        app.router.add_get(SERVICE + "/", self._root)
        app.router.add_get(SERVICE + "/SessionService", self._session_service)
        app.router.add_post(SERVICE + "/SessionService/Sessions", self._login)
        app.router.add_delete(SERVICE + "/SessionService/Sessions/{token}", self._logout)
        app.router.add_get(SERVICE + "/Systems", self._collection)
        app.router.add_get(SERVICE + "/Systems/{id}", self._system)
        app.router.add_post(SERVICE + "/Systems/{id}/Actions/ComputerSystem.Reset", self._reset)
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._connections += 1
        bad = self.machine.bad
        self.requests.append(f"{request.method} {request.path}")
        logging_in = request.path == SERVICE + "/" or "Session" in request.path
        if bad is Bad.HANGS_BEFORE_LOGIN or self.machine.silent or (bad is Bad.HANGS_AFTER_LOGIN and not logging_in):
            await asyncio.sleep(NEVER_S)
        if bad is Bad.DROPS_SECOND and self._connections % 2 == 0:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if request.path != SERVICE + "/" and request.method != "POST" and not self._known(request):
            return self._error(401, "Base.1.0.NoValidSession")
        if "Reset" in request.path and not self._known(request):
            return self._error(401, "Base.1.0.NoValidSession")
        return await handler(request)

    def _known(self, request: web.Request) -> bool:
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return request.headers.get("X-Auth-Token") in self.tokens or request.headers.get("Authorization") == basic

    @staticmethod
    def _error(status: int, code: str) -> web.Response:
        return web.json_response({"error": {"code": code, "message": code}}, status=status)

    async def _root(self, _: web.Request) -> web.Response:
        document: dict[str, Any] = {
            "@odata.id": SERVICE + "/",
            "@odata.type": "#ServiceRoot.v1_5_0.ServiceRoot",
            "Id": "RootService",
            "Name": "Root Service",
            "RedfishVersion": "1.6.0",
            "Systems": {"@odata.id": SERVICE + "/Systems"},
            "Links": {"Sessions": {"@odata.id": SERVICE + "/SessionService/Sessions"}},
        }
        if self._sessions:
            document["SessionService"] = {"@odata.id": SERVICE + "/SessionService"}
        return web.json_response(document)

    async def _session_service(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"Id": "SessionService", "Sessions": {"@odata.id": SERVICE + "/SessionService/Sessions"}}
        )

    async def _login(self, request: web.Request) -> web.Response:
        given = await request.json()
        if not self._sessions:
            return self._error(404, "Base.1.0.ResourceMissing")
        if given != {"UserName": USER, "Password": PASSWORD}:
            return self._error(401, "Base.1.0.NoValidSession " + str(given.get("Password")))
        token = secrets.token_hex(16)
        self.tokens.add(token)
        where = f"{self.location}{SERVICE}/SessionService/Sessions/{token}"
        return web.json_response({"Id": token}, status=201, headers={"X-Auth-Token": token, "Location": where})

    async def _logout(self, request: web.Request) -> web.Response:
        self.tokens.discard(request.match_info["token"])
        return web.Response(status=204)

    async def _collection(self, _: web.Request) -> web.Response:
        members = [{"@odata.id": f"{SERVICE}/Systems/{n}"} for n in range(1, self._systems + 1)]
        return web.json_response(
            {
                "@odata.id": SERVICE + "/Systems",
                "Name": "Systems",
                "Members": members,
                "Members@odata.count": self._systems,
            }
        )

    async def _system(self, request: web.Request) -> web.Response:
        number = request.match_info["id"]
        if number not in map(str, range(1, self._systems + 1)):
            return self._error(404, "Base.1.0.ResourceMissing")
        if self.body is not None:
            return web.Response(body=self.body, content_type="application/json")
        first = number == "1"
        path = f"{SERVICE}/Systems/{number}"
        document = {
            "@odata.id": path,
            "@odata.type": "#ComputerSystem.v1_10_0.ComputerSystem",
            "Id": number,
            "Name": "a host",
            "UUID": self.guid if first else str(uuid.uuid4()),
            "SerialNumber": "SN-0001",
            "PowerState": POWER[self.machine.look()] if first else "On",
            "Actions": {
                "#ComputerSystem.Reset": {
                    "target": path + "/Actions/ComputerSystem.Reset",
                    "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "GracefulShutdown", "ForceRestart"],
                }
            },
        }
        document |= self.overrides
        return web.Response(body=json.dumps(document).encode(), content_type="application/json")

    async def _reset(self, request: web.Request) -> web.Response:
        kind = (await request.json())["ResetType"]
        if self.reset_status >= 400:
            return self._error(self.reset_status, "Base.1.0.GeneralError")
        if kind == "ForceOff":
            self.machine.off()
        elif kind in ("On", "ForceOn"):
            self.machine.up()
        if self.machine.silent:
            await asyncio.sleep(NEVER_S)
        if self.reset_status == 0:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return web.Response(status=self.reset_status)
