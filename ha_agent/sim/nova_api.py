"""Keystone and Nova over HTTP, as far as we use them: openstacksdk talks to it unchanged. The rules are in `nova_state`."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiohttp import web

from ha_agent.sim.nova_state import Fault, NovaError, NovaState
from ha_agent.sim.nova_views import MIGRATION_FILTERS, SERVER_FILTERS, action, migration, server, service

T = TypeVar("T")
Version = tuple[int, int]
PROJECT = "a0000000000000000000000000000001"
REASONS = {400: "badRequest", 401: "unauthorized", 404: "itemNotFound", 409: "conflictingRequest", 429: "overLimit"}
HEADERS = ("OpenStack-API-Version", "X-OpenStack-Nova-API-Version")


class NovaApi:
    """Serves a NovaState. `page`: Nova's `max_limit`. `least`, `most`: the microversions it offers. `lost_s`: how long a lost
    answer's connection stays open before it breaks. All of it runs on one event loop; other threads use `call`."""

    def __init__(
        self,
        state: NovaState,
        *,
        page: int = 1000,
        least: Version = (2, 1),
        most: Version = (2, 96),
        lost_s: float = 0.0,
        password: str = "demo",  # noqa: S107 - it guards nothing
    ) -> None:
        self.state = state
        self.page = page
        self.lost_s = lost_s
        self.requests: list[str] = []  # "METHOD path" of every request to Nova, versions apart
        self._least, self._most = least, most
        self._password = password
        self._tokens: set[str] = set()
        self._runner: web.AppRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.url = ""

    # --- running ---------------------------------------------------------------------------------------------------

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Serves on the running loop; port 0 picks a free one. See `url`."""
        self._loop = asyncio.get_running_loop()
        self._runner = web.AppRunner(self.app(), access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Ends serving."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def start_thread(self) -> None:
        """Serves on a loop in a thread of its own."""
        ready = threading.Event()

        async def serve() -> None:
            self._done = asyncio.Event()
            await self.start()
            ready.set()
            await self._done.wait()
            await self.stop()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name="nova-sim", daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the Nova simulator did not start")

    def stop_thread(self) -> None:
        """Ends `start_thread`."""
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._done.set)
            self._thread.join(10)
            self._thread = None

    def call(self, action: Callable[[], T]) -> T:
        """Runs `action` on the loop, so that another thread may look at the state and change it."""
        assert self._loop is not None

        async def run() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def cloud(self) -> dict[str, Any]:
        """The entry of clouds.yaml that leads here."""
        return {
            "region_name": "RegionOne",
            "auth": {
                "auth_url": f"{self.url}/identity/v3",
                "username": "admin",
                "password": self._password,
                "project_name": "admin",
                "user_domain_name": "Default",
                "project_domain_name": "Default",
            },
        }

    def expire_tokens(self) -> None:
        """Every token given so far is refused from now on."""
        self._tokens.clear()

    def app(self) -> web.Application:
        """The application, to be mounted anywhere."""
        app = web.Application(client_max_size=64 * 1024)
        app.router.add_get("/identity", self._identity_versions)
        app.router.add_get("/identity/", self._identity_versions)
        app.router.add_get("/identity/v3", self._identity_version)
        app.router.add_get("/identity/v3/", self._identity_version)
        app.router.add_post("/identity/v3/auth/tokens", self._token)
        app.router.add_get("/compute", self._compute_versions)
        app.router.add_get("/compute/", self._compute_versions)
        app.router.add_get("/compute/v2.1", self._compute_version)
        app.router.add_get("/compute/v2.1/", self._compute_version)
        for method, path, operation, handler in (
            ("GET", "/os-services", "services", self._services),
            ("PUT", "/os-services/{id}", "force_down", self._put_service),
            ("GET", "/servers/detail", "servers", self._servers),
            ("GET", "/servers/{id}", "server", self._server),
            ("DELETE", "/servers/{id}", "delete", self._delete),
            ("POST", "/servers/{id}/action", "", self._action),
            ("GET", "/servers/{id}/os-instance-actions", "actions", self._actions),
            ("GET", "/os-migrations", "migrations", self._migrations),
        ):
            app.router.add_route(method, "/compute/v2.1" + path, self._guarded(operation, handler))
        return app

    # --- Keystone --------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        links = [{"rel": "self", "href": f"{self.url}/identity/v3/"}]
        return {"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z", "links": links, "media-types": []}

    async def _identity_versions(self, _: web.Request) -> web.Response:
        return web.json_response({"versions": {"values": [self._identity()]}}, status=300)

    async def _identity_version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self._identity()})

    async def _token(self, request: web.Request) -> web.StreamResponse:
        async def issue() -> web.Response:
            user = (await request.json())["auth"]["identity"]["password"]["user"]
            if (user.get("name"), user.get("password")) != ("admin", self._password):
                raise NovaError(401, "The request you have made requires authentication.")
            token = f"token-{len(self._tokens)}-{id(request):x}"
            self._tokens.add(token)
            return web.json_response(
                {"token": self._token_body()}, status=201, headers={"X-Subject-Token": token, "Vary": "X-Auth-Token"}
            )

        return await self._served(request, "token", issue)

    def _token_body(self) -> dict[str, Any]:
        domain = {"id": "default", "name": "Default"}

        def entry(kind: str, name: str, path: str) -> dict[str, Any]:
            endpoint = {"id": f"{kind}-public", "interface": "public", "region": "RegionOne", "region_id": "RegionOne"}
            return {"id": kind, "type": kind, "name": name, "endpoints": [{**endpoint, "url": self.url + path}]}

        return {
            "methods": ["password"],
            "user": {"id": "admin", "name": "admin", "domain": domain, "password_expires_at": None},
            "project": {"id": PROJECT, "name": "admin", "domain": domain},
            "roles": [{"id": "admin", "name": "admin"}],
            "is_domain": False,
            "audit_ids": ["demo"],
            "issued_at": "2024-01-01T00:00:00.000000Z",
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "catalog": [entry("identity", "keystone", "/identity"), entry("compute", "nova", "/compute/v2.1")],
        }

    # --- Nova: what holds for every request ---------------------------------------------------------------------------

    def _compute(self) -> dict[str, Any]:
        return {
            "id": "v2.1",
            "status": "CURRENT",
            "version": ".".join(map(str, self._most)),
            "min_version": ".".join(map(str, self._least)),
            "updated": "2013-07-23T11:33:21Z",
            "links": [{"rel": "self", "href": f"{self.url}/compute/v2.1/"}],
        }

    async def _compute_versions(self, _: web.Request) -> web.Response:
        return web.json_response({"versions": [self._compute()]})

    async def _compute_version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": {**self._compute(), "media-types": []}})

    def _guarded(
        self, operation: str, handler: Callable[[web.Request, Version], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Checks the token and the microversion, and acts out faults."""

        async def serve(request: web.Request) -> web.StreamResponse:
            self.requests.append(f"{request.method} {request.path_qs.removeprefix('/compute/v2.1')}")
            name = operation
            if not name:
                body = await request.json()
                name = next(iter(body), "").removeprefix("os-")

            async def run() -> web.Response:
                if request.headers.get("X-Auth-Token") not in self._tokens:
                    raise NovaError(401, "The request you have made requires authentication.")
                version = self._version(request)
                response = await handler(request, version)
                response.headers[HEADERS[0]] = f"compute {version[0]}.{version[1]}"
                response.headers[HEADERS[1]] = f"{version[0]}.{version[1]}"
                return response

            return await self._served(request, name, run)

        return serve

    async def _served(
        self, request: web.Request, operation: str, run: Callable[[], Awaitable[web.Response]]
    ) -> web.StreamResponse:
        fault = self.state.take_fault(operation)
        if fault is Fault.TOO_MANY:
            return _error(429, "This request was rate-limited.", {"Retry-After": "7"})
        if fault in (Fault.ERROR_500, Fault.ERROR_503):
            return _error(500 if fault is Fault.ERROR_500 else 503, "Unexpected API Error.")
        try:
            response = await run() if fault is not Fault.LOST_NOT_DONE else web.Response()
        except NovaError as error:
            response = _error(error.code, error.message)
        if fault in (Fault.LOST_DONE, Fault.LOST_NOT_DONE):
            await asyncio.sleep(self.lost_s)
            if request.transport is not None:
                request.transport.abort()
        if fault is Fault.GARBAGE_DONE:
            response = web.Response(text='{"servers": [{"id": ', content_type="application/json")
        return response

    def _version(self, request: web.Request) -> Version:
        text = request.headers.get(HEADERS[0], "").removeprefix("compute ") or request.headers.get(HEADERS[1], "2.1")
        major, _, minor = text.partition(".")
        version = (int(major), int(minor)) if minor.isdigit() and major.isdigit() else (0, 0)
        if not self._least <= version <= self._most:
            raise NovaError(406, f"Version {text} is not supported by the API.")
        return version

    # --- Nova: the requests ----------------------------------------------------------------------------------------

    async def _services(self, request: web.Request, version: Version) -> web.Response:
        self.state.tick()
        query = request.query
        rows = [
            service(self.state, row, version)
            for row in self.state.hosts.values()
            if query.get("host", row.name) == row.name and query.get("binary", "nova-compute") == "nova-compute"
        ]
        return web.json_response({"services": rows})

    async def _put_service(self, request: web.Request, version: Version) -> web.Response:
        body = await request.json()
        if version < (2, 53) or set(body) - {"forced_down", "status", "disabled_reason"}:
            raise NovaError(400, "Additional properties are not allowed")
        row = next((h for h in self.state.hosts.values() if h.service_id == request.match_info["id"]), None)
        if "forced_down" in body:
            row = self.state.force_down(request.match_info["id"], bool(body["forced_down"]))
        if row is None:
            raise NovaError(404, f"Service {request.match_info['id']} could not be found.")
        if "status" in body:
            row.disabled = body["status"] == "disabled"
        return web.json_response({"service": service(self.state, row, version)})

    async def _servers(self, request: web.Request, version: Version) -> web.Response:
        self.state.tick()
        query = request.query
        unknown = set(query) - set(SERVER_FILTERS) - {"all_tenants", "limit", "marker", "deleted"}
        if unknown and version >= (2, 75):
            raise NovaError(400, f"Additional properties are not allowed ({', '.join(sorted(unknown))})")
        rows = [
            row
            for row in self.state.servers.values()
            if ("all_tenants" in query or row.project_id == PROJECT)
            and all(SERVER_FILTERS[name](row, value) for name, value in query.items() if name in SERVER_FILTERS)
        ]
        rows, more = self._paged(request, rows, lambda row: row.id)
        answer: dict[str, Any] = {"servers": [server(self.state, row, version) for row in rows]}
        if more:
            answer["servers_links"] = self._next(request, rows[-1].id)
        return web.json_response(answer)

    async def _server(self, request: web.Request, version: Version) -> web.Response:
        return web.json_response({"server": server(self.state, self.state.server(request.match_info["id"]), version)})

    async def _delete(self, request: web.Request, _: Version) -> web.Response:
        self.state.delete(request.match_info["id"])
        return web.Response(status=204)

    async def _action(self, request: web.Request, version: Version) -> web.Response:
        server_id = request.match_info["id"]
        match await request.json():
            case {"evacuate": dict() as options}:
                allowed = {"host", "adminPass"} | ({"force"} if version < (2, 68) else set())
                if version < (2, 14) or set(options) - allowed:
                    raise NovaError(400, "Invalid input for evacuate")
                self.state.evacuate(server_id, version, options.get("host"))
                return web.Response(status=200)
            case {"os-start": _}:
                self.state.start(server_id)
            case {"os-stop": _}:
                self.state.stop(server_id)
            case {"reboot": {"type": "HARD"}}:
                self.state.reboot(server_id)
            case {"os-resetState": {"state": str(state)}}:
                self.state.reset_state(server_id, state)
            case {"pause": _} | {"suspend": _} | {"shelve": _} as asked:
                self.state.set_aside(server_id, next(iter(asked)))
            case {"rescue": _}:
                self.state.set_aside(server_id, "rescue")
                return web.json_response({"adminPass": "demo"})
            case {"lock": _}:
                self.state.server(server_id).locked = True
            case {"unlock": _}:
                self.state.server(server_id).locked = False
            case {"os-migrateLive": {"host": str(host)}}:
                self.state.live_migrate(server_id, host)
            case _:
                raise NovaError(400, "There is no such action")
        return web.Response(status=202)

    async def _actions(self, request: web.Request, version: Version) -> web.Response:
        server_id = request.match_info["id"]
        if version < (2, 21):
            self.state.server(server_id)
        rows = self.state.actions(server_id)
        more = False
        if version >= (2, 58):
            rows, more = self._paged(request, rows, lambda row: row.request_id)
        answer: dict[str, Any] = {"instanceActions": [action(row, server_id, version) for row in rows]}
        if more:
            answer["links"] = self._next(request, rows[-1].request_id)
        return web.json_response(answer)

    async def _migrations(self, request: web.Request, version: Version) -> web.Response:
        self.state.tick()
        query = request.query
        rows = [
            row
            for row in reversed([*self.state.listed()])
            if all(MIGRATION_FILTERS[name](row, value) for name, value in query.items() if name in MIGRATION_FILTERS)
        ]
        more = False
        if version >= (2, 59):
            rows, more = self._paged(request, rows, lambda row: row.uuid)
        answer: dict[str, Any] = {"migrations": [migration(row, version) for row in rows]}
        if more:
            answer["migrations_links"] = self._next(request, rows[-1].uuid)
        return web.json_response(answer)

    def _paged(self, request: web.Request, rows: list[T], key: Callable[[T], str]) -> tuple[list[T], bool]:
        """The page that was asked for, and whether Nova offers a next one: it does when the page is full."""
        marker = request.query.get("marker")
        limit = min(int(request.query.get("limit", self.page)), self.page)
        begin = 0
        if marker:
            keys = [key(row) for row in rows]
            if marker not in keys:
                raise NovaError(400, f"marker [{marker}] not found")
            begin = keys.index(marker) + 1
        page = rows[begin : begin + limit]
        return page, bool(page) and len(page) == limit

    def _next(self, request: web.Request, marker: str) -> list[dict[str, str]]:
        return [{"rel": "next", "href": self.url + str(request.rel_url.update_query(marker=marker))}]


def _error(code: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {REASONS.get(code, "computeFault"): {"code": code, "message": message}}
    if code == 401:
        body = {"error": {"code": code, "message": message}}
    return web.Response(status=code, text=json.dumps(body), content_type="application/json", headers=headers)
