"""ports.Cloud through openstacksdk: what Nova says of hosts and servers, and the few things that we ask of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ha_agent.errors import DriverError, Unanswered
from ha_agent.model import ComputeService, Migration, Server
from ha_agent.recovery.nova_http import NovaHttp
from ha_agent.recovery.nova_look import Look
from ha_agent.recovery.nova_reports import Reports
from ha_agent.recovery.nova_rows import ActionsAnswer, MigrationsAnswer, ServersAnswer, ServicesAnswer

EVACUATION = "evacuation"
REBOOT = "reboot"
PAGED_MIGRATIONS = (2, 59)  # from here on os-migrations comes in pages
PAGED_ACTIONS = (2, 58)  # … and os-instance-actions
PAGE = 1000  # Nova's own most, by default
MAX_PAGES = 100


class NovaCloud:
    """Nova, as we use it. See ports.Cloud for what the methods raise.

    `cloud`: an entry of clouds.yaml, or `connection`: an openstack Connection that is there already. `timeout_s`: of one HTTP
    request. `api_max_s`: the longest that Nova may work on a request whose answer was lost. `send_within_s`: an evacuate whose look
    took longer is not sent any more, for what was allowed then may not be allowed now.
    """

    def __init__(
        self,
        cloud: str = "",
        *,
        connection: Any = None,
        timeout_s: float = 20.0,
        api_max_s: float = 60.0,
        send_within_s: float = 5.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.http = NovaHttp(connection, timeout_s) if connection is not None else NovaHttp.of_cloud(cloud, timeout_s)
        self._api_max_s = api_max_s
        self._send_within_s = send_within_s
        self._now = now
        self._lock = threading.Lock()
        self._looks: dict[str, Look] = {}
        self._reports = Reports()

    @property
    def calls(self) -> int:
        """Requests to Nova's API so far."""
        return self.http.calls

    def api_max_s(self) -> float:
        """The longest that a request whose answer was lost may still take effect, in seconds."""
        return self._api_max_s

    # --- reads -----------------------------------------------------------------------------------------------------

    def services(self) -> Sequence[ComputeService]:
        """Every nova-compute service. `updated_at` moves with its reports only; see nova_reports."""
        return self._services({})

    def _services(self, more: dict[str, str | int]) -> list[ComputeService]:
        answer = self.http.get("/os-services", ServicesAnswer, {"binary": "nova-compute", **more})
        return [self._reports.corrected(row.value()) for row in answer.services]

    def servers(self, host: str) -> Sequence[Server]:
        """Every server of the host."""
        at = self._now()
        rows = self._read_servers(host)
        self._look(host).saw_servers(at, rows)
        return rows

    def _read_servers(self, host: str) -> list[Server]:
        found: list[Server] = []
        marker = ""
        for _ in range(MAX_PAGES):
            params: dict[str, str | int] = {"all_tenants": "True", "host": host, "limit": PAGE}
            if marker:
                params["marker"] = marker
            answer = self.http.get("/servers/detail", ServersAnswer, params)
            rows = [row.value() for row in answer.servers]
            # the database may compare host names without regard to case; we do not
            found += [row for row in rows if row.host == host]
            if not rows or not any(link.rel == "next" for link in answer.servers_links):
                return found
            if rows[-1].id == marker:
                break
            marker = rows[-1].id
        raise DriverError(f"Nova's list of the servers of {host} does not end")

    def migrations(self, host: str) -> Sequence[Migration]:
        """Every migration record that names the host."""
        return [m for m in self._migrations({"host": host}) if host in (m.source, m.dest)]

    def evacuations(self, source: str) -> Sequence[Migration]:
        """The evacuation records off the host."""
        at = self._now()
        rows = self._read_evacuations(source)
        self._look(source).saw_evacuations(at, rows)
        return rows

    def _read_evacuations(self, source: str) -> list[Migration]:
        rows = self._migrations({"source_compute": source, "migration_type": EVACUATION})
        return [m for m in rows if m.source == source and m.kind == EVACUATION]

    def unfinished_evacuations(self) -> Sequence[Migration]:
        """Evacuation records anywhere that are accepted or pre-migrating."""
        # accepted first: a record that moves on between the two calls is then in the second, not in none
        found = {
            m.id: m
            for status in ("accepted", "pre-migrating")
            for m in self._migrations({"migration_type": EVACUATION, "status": status})
            if m.kind == EVACUATION and m.status == status
        }
        return [found[i] for i in sorted(found, reverse=True)]

    def _migrations(self, params: dict[str, str | int]) -> list[Migration]:
        """All pages, newest first."""
        paged = self.http.microversion >= PAGED_MIGRATIONS
        found: dict[int, Migration] = {}
        marker = ""
        for _ in range(MAX_PAGES):
            page: dict[str, str | int] = {**params, **({"limit": PAGE} if paged else {})}
            if marker:
                page["marker"] = marker
            answer = self.http.get("/os-migrations", MigrationsAnswer, page)
            found.update((row.id, row.value()) for row in answer.migrations)
            more = any(link.rel == "next" for link in answer.migrations_links)
            if not paged or not more or not answer.migrations:
                return [found[i] for i in sorted(found, reverse=True)]
            if not answer.migrations[-1].uuid or answer.migrations[-1].uuid == marker:
                break
            marker = answer.migrations[-1].uuid
        raise DriverError("Nova's list of migrations does not end")

    def last_reboot(self, server: str) -> str:
        """The newest reboot in the server's list of actions. Nova writes it down before it passes the request on."""
        paged = self.http.microversion >= PAGED_ACTIONS
        marker = ""
        for _ in range(MAX_PAGES):
            page: dict[str, str | int] = {"limit": PAGE} if paged else {}
            if marker:
                page["marker"] = marker
            answer = self.http.get(f"/servers/{server}/os-instance-actions", ActionsAnswer, page)
            actions = answer.instanceActions  # newest first
            found = next((a.request_id for a in actions if a.action == REBOOT), "")
            more = paged and any(link.rel == "next" for link in answer.links)
            if found or not actions or not more:
                return found
            if actions[-1].request_id == marker:
                break
            marker = actions[-1].request_id
        raise DriverError(f"Nova's list of the actions of server {server} does not end")

    # --- changes ---------------------------------------------------------------------------------------------------

    def force_down(self, host: str, value: bool) -> None:
        """Sets the flag where it differs, and reads it back. Nova refuses to clear it while an evacuation off the host is `done`."""
        service = self._service(host)
        if service.forced_down == value:
            return
        self.http.change("PUT", f"/os-services/{service.id}", {"forced_down": value})
        try:
            after = self._service(host)
        except DriverError as error:
            raise Unanswered(f"forced_down of {host} was set, but cannot be read back: {error}") from None
        if after.forced_down != value:
            raise Unanswered(f"forced_down of {host} reads {after.forced_down} after it was set to {value}")

    def _service(self, host: str) -> ComputeService:
        rows = [s for s in self._services({"host": host}) if s.host == host]
        if len(rows) != 1:
            raise DriverError(
                f"Nova has {len(rows) or 'no'} nova-compute services named {host}",
                "a host's name is the `host` of its nova-compute service, byte for byte",
            )
        if not rows[0].id or rows[0].state is None:
            raise DriverError(f"Nova cannot say anything of the service of {host}: its cell is down")
        return rows[0]

    def evacuate(self, server: str, host: str, judged: int = 0) -> None:
        """Looks first: raises DriverError where the server is not on `host` any more, or an unfinished evacuation of it newer than the
        record `judged` exists. See nova_look for what a look costs."""
        began = self._now()
        look = self._look(host)
        look.claim(server, judged, self._send_within_s)
        closed_s = 0.0
        try:
            if self._now() - began > self._send_within_s:
                raise DriverError("not sent: Nova took too long to say whether the server may be evacuated")
            self._action(server, {"evacuate": {}})
        except Unanswered:
            closed_s = self._api_max_s
            raise
        finally:
            look.sent(server, closed_s)

    def start(self, server: str) -> None:
        """os-start. Nova answers before it is done."""
        self._action(server, {"os-start": None})

    def stop(self, server: str) -> None:
        """os-stop. Nova answers before it is done."""
        self._action(server, {"os-stop": None})

    def reboot(self, server: str) -> None:
        """A hard reboot. Nova answers before it is done."""
        self._action(server, {"reboot": {"type": "HARD"}})

    def _action(self, server: str, body: dict[str, object]) -> None:
        self.http.change("POST", f"/servers/{server}/action", body)

    def _look(self, host: str) -> Look:
        with self._lock:
            if host not in self._looks:
                self._looks[host] = Look(
                    self._now, lambda: self._read_servers(host), lambda: self._read_evacuations(host)
                )
            return self._looks[host]
