"""The HTTP API: on loopback TCP for metrics, health and reading; on a Unix socket for the CLI. What changes anything needs a role."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from ha_agent import metrics
from ha_agent.api import views
from ha_agent.api.access import NEEDED, Caller, Peers, Role, Tokens, load_tokens
from ha_agent.api.facade import Facade, LeaderInfo
from ha_agent.api.fencing_tests import Asked
from ha_agent.api.recent import Recent
from ha_agent.errors import HaAgentError, StoreError, Unanswered, UsageError
from ha_agent.model import Operator, Order, Phase

BODY_MAX = 16 * 1024
IN_FLIGHT_MAX = 64
EVENTS_MAX = 1000
REASON_MAX = 500

T = TypeVar("T", bound=msgspec.Struct)
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class OrderBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/orders."""

    order: Order
    host: str = ""
    incident: str = ""
    reason: str = ""


class Settings(Protocol):
    """As in the configuration's `http` (ha_agent.config.HttpSettings is one). `port` 0: any free one; `socket` empty: none."""

    @property
    def listen(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def socket(self) -> str: ...
    @property
    def tokens_file(self) -> str: ...
    @property
    def allowed_hosts(self) -> Sequence[str]: ...
    @property
    def socket_roles(self) -> Mapping[str, Sequence[str]]: ...


async def serve(stack: contextlib.AsyncExitStack, facade: Facade, settings: Settings) -> Api:
    """Serves until the stack is left. Raises UsageError where an address or the socket is taken, ConfigError for the tokens file."""
    api = Api(facade, settings)
    await api.start()
    stack.push_async_callback(api.stop)
    return api


class Api:
    """Serves one facade. `start` listens, `stop` ends everything."""

    def __init__(self, facade: Facade, settings: Settings) -> None:
        self._facade = facade
        self._settings = settings
        self._tokens = load_tokens(Path(settings.tokens_file)) if settings.tokens_file else Tokens()
        self._peers = Peers(settings.socket_roles, os.getuid())
        self._in_flight = 0
        self._all_hosts = Recent(lambda: msgspec.json.encode(views.hosts(facade)), facade.now)
        self._readiness_of_all = Recent(lambda: msgspec.json.encode(facade.readiness()), facade.now)
        self._runner: web.AppRunner | None = None
        self._names = LOOPBACK_NAMES | {settings.listen.lower(), *(name.lower() for name in settings.allowed_hosts)}
        self._open = settings.listen.startswith("127.") or settings.listen in ("::1", "localhost")
        self.port = settings.port

    async def start(self) -> None:
        """Raises UsageError where an address or the socket is taken."""
        app = web.Application(client_max_size=BODY_MAX, middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/v1/status", self._status),
                web.get("/v1/readiness", self._readiness),
                web.get("/v1/hosts", self._hosts),
                web.get("/v1/hosts/{host}", self._host),
                web.get("/v1/hosts/{host}/dry-run", self._dry_run),
                web.get("/v1/hosts/{host}/fencing-plan", self._fencing_plan),
                web.post("/v1/hosts/{host}/fencing-check", self._fencing_check),
                web.get("/v1/hosts/{host}/fencing-test", self._fencing_test),
                web.post("/v1/hosts/{host}/fencing-test", self._test_fencing),
                web.get("/v1/incidents", self._incidents),
                web.get("/v1/incidents/{id}", self._incident),
                web.get("/v1/events", self._events),
                web.post("/v1/orders", self._order),
            ]
        )
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0, keepalive_timeout=15.0)
        await runner.setup()
        self._runner = runner
        try:
            await web.TCPSite(runner, self._settings.listen, self._settings.port).start()
            self.port = runner.addresses[0][1]
            if self._settings.socket:
                sock = await asyncio.to_thread(_bind_unix, Path(self._settings.socket))
                await web.SockSite(runner, sock).start()
        except UsageError:
            await runner.cleanup()
            self._runner = None
            raise
        except OSError as error:
            await runner.cleanup()
            self._runner = None
            raise UsageError(
                f"cannot listen: {error.strerror or error}",
                "is another controller running? see http.listen and http.socket",
            ) from None

    async def stop(self) -> None:
        """Ends all connections; the socket's file is removed."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            if self._settings.socket:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(os.unlink, self._settings.socket)

    # --- the guard ---

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every request passes here: how many at a time, from which name, by whom; and every error leaves as one JSON object."""
        # Who asks whether it is alive restarts it where it is not: those who ask much must not be able to bring that about.
        if self._in_flight >= IN_FLIGHT_MAX and request.path != "/healthz":
            return _failure(503, "too many requests at a time", "try again")
        self._in_flight += 1
        try:
            caller = await self._caller(request)
            needed = self._needed(request)
            if caller.role < needed:
                if not caller.actor:
                    return _failure(401, "a token is needed", "send `Authorization: Bearer …`, or use the Unix socket")
                return _lacks(caller, needed)
            return await handler(request)
        except UsageError as error:
            return _failure(400, str(error), error.hint)
        except (StoreError, Unanswered) as error:
            return _failure(503, str(error), error.hint)
        except HaAgentError as error:
            return _failure(502, str(error), error.hint)
        except web.HTTPException as error:
            return _failure(error.status, error.reason.lower(), "")
        finally:
            self._in_flight -= 1

    async def _caller(self, request: web.Request) -> Caller:
        sock = request.transport.get_extra_info("socket") if request.transport else None
        if sock is not None and sock.family.name == "AF_UNIX":
            return await self._peers.caller(sock)
        # A page in an operator's browser can be made to reach loopback under a name of its own (DNS rebinding).
        if _host_name(request.headers.get("Host", "")) not in self._names:
            raise UsageError("the Host header names somebody else", "add the name to http.allowed_hosts")
        header = request.headers.get("Authorization", "")
        caller = self._tokens.find(header) if header else None
        if caller is not None:
            return caller
        # A wrong token is not "no token": it is refused even where reading is free.
        return Caller(actor="", role=Role.READ if self._open and not header else Role.NONE)

    @staticmethod
    def _needed(request: web.Request) -> Role:
        if request.path in ("/healthz", "/readyz", "/metrics"):
            return Role.NONE
        # POST needs the least role that any order needs here; the order's own is asked when it is known. A caller on loopback
        # without a token has READ only.
        return Role.READ if request.method in ("GET", "HEAD") else Role.OPERATE

    # --- reading ---

    async def _metrics(self, request: web.Request) -> web.Response:
        snapshot = metrics.Snapshot.of(self._facade)
        packed = "gzip" in request.headers.get("Accept-Encoding", "")
        body = await asyncio.to_thread(metrics.render, snapshot, packed=packed)
        headers = {"Content-Type": metrics.CONTENT_TYPE, **({"Content-Encoding": "gzip"} if packed else {})}
        return web.Response(body=body, headers=headers)

    async def _healthz(self, request: web.Request) -> web.Response:
        if not self._facade.alive():
            return _failure(503, "the loop makes no progress", "see its log")
        return web.Response(text=f"ok\n{_role(self._facade.leader())}\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        reasons = self._facade.ready()
        return web.Response(text="".join(f"{reason}\n" for reason in reasons) or "ok\n", status=503 if reasons else 200)

    async def _status(self, request: web.Request) -> web.Response:
        return _json(views.status(self._facade))

    async def _readiness(self, request: web.Request) -> web.Response:
        return web.Response(body=self._readiness_of_all(), content_type="application/json")

    async def _hosts(self, request: web.Request) -> web.Response:
        return web.Response(body=self._all_hosts(), content_type="application/json")

    async def _host(self, request: web.Request) -> web.Response:
        return _json(views.host(self._facade, request.match_info["host"]))

    async def _incidents(self, request: web.Request) -> web.Response:
        host = request.query.get("host", "")
        phase = request.query.get("phase", "")
        if phase and phase not in tuple(Phase):
            raise UsageError(f"there is no phase {phase[:20]!r}", "use open or closed")
        return _json(views.incidents(self._facade, host, phase))

    async def _incident(self, request: web.Request) -> web.Response:
        return _json(views.incident(self._facade, request.match_info["id"]))

    async def _events(self, request: web.Request) -> web.Response:
        after = _number(request, "after", 0, 2**62)
        limit = _number(request, "limit", 100, EVENTS_MAX)
        return _json(list(self._facade.events(after, limit)))

    async def _dry_run(self, request: web.Request) -> web.Response:
        return _json(list(await self._facade.dry_run(request.match_info["host"])))

    async def _fencing_plan(self, request: web.Request) -> web.Response:
        return _json(self._facade.fencing_plan(request.match_info["host"]))

    async def _fencing_check(self, request: web.Request) -> web.Response:
        """Not a GET: it makes devices work."""
        found = await self._facade.look_at_devices(request.match_info["host"])
        self._forget()
        return _json(list(found))

    async def _fencing_test(self, request: web.Request) -> web.Response:
        return _json(self._facade.fencing_test(request.match_info["host"]))

    # --- changing ---

    async def _order(self, request: web.Request) -> web.Response:
        body = await _body(request, OrderBody, "order")
        caller = await self._caller(request)
        needed = NEEDED.get(body.order)
        if needed is None:
            raise UsageError(f"{body.order} cannot be ordered", "use one of " + ", ".join(NEEDED))
        if caller.role < needed:
            return _lacks(caller, needed)
        if len(body.reason) > REASON_MAX or not all(letter.isprintable() for letter in body.reason):
            raise UsageError(f"the reason is longer than {REASON_MAX} characters, or unprintable", "say it shorter")
        text = await self._facade.order(
            Operator(order=body.order, actor=caller.actor, host=body.host, incident=body.incident, reason=body.reason)
        )
        self._forget()
        return _json({"text": text})

    def _forget(self) -> None:
        """Somebody changed something, or had it looked at: who asks next sees it."""
        self._all_hosts.forget()
        self._readiness_of_all.forget()

    async def _test_fencing(self, request: web.Request) -> web.Response:
        asked = await _body(request, Asked, "fencing test")
        caller = await self._caller(request)
        if caller.role < NEEDED[Order.FENCE]:
            return _lacks(caller, NEEDED[Order.FENCE])
        return _json(await self._facade.test_fencing(request.match_info["host"], asked, caller.actor))


async def _body(request: web.Request, kind: type[T], what: str) -> T:
    """The body of a request that changes something. Raises UsageError, HTTPUnsupportedMediaType."""
    if request.content_type != "application/json":  # a form of a web page is none
        raise web.HTTPUnsupportedMediaType(reason="The body is not application/json")
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # also what is not of the shape
        fields = ", ".join(kind.__struct_fields__)
        raise UsageError(f"the body is no {what}: {error}", f"send {{{fields}}}") from None


def _lacks(caller: Caller, needed: Role) -> web.Response:
    return _failure(403, f"{caller.actor} has not the role {needed.name.lower()}", "ask an administrator")


def _role(leader: LeaderInfo) -> str:
    if leader.leading:
        return f"leads (epoch {leader.epoch})"
    return f"standby: {leader.name} leads" if leader.name else "standby: nobody leads"


def _bind_unix(path: Path) -> socket.socket:
    """A bound socket, of which a dead owner's file is taken away. Raises UsageError, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        if not path.is_socket():
            raise UsageError(f"{path} is not a socket", "set http.socket to another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()  # nobody listens there any more
            else:
                raise UsageError(f"another controller listens on {path}", "stop it, or set http.socket to another path")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)  # never wider than 0660, not even for a moment
    try:
        sock.bind(str(path))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _host_name(header: str) -> str:
    """The Host header without its port."""
    name = header.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]


def _number(request: web.Request, name: str, default: int, most: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise UsageError(f"{name} is not a number", "use digits only")
    return min(int(text), most)


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _failure(status: int, error: str, hint: str) -> web.Response:
    return web.Response(
        body=msgspec.json.encode({"error": error, "hint": hint}), content_type="application/json", status=status
    )
