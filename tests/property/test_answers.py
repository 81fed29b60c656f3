"""What answers over HTTP: Nova and Keystone to the controller, the controller to its command line. A broken answer is the documented
error, never another one and never less than was sent; a good one is read."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import openstack
import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st
from keystoneauth1 import identity, session

from ha_agent.cli.client import Client
from ha_agent.errors import DriverError, Unanswered
from ha_agent.recovery.nova import MAX_PAGES, NovaCloud
from tests.property.mutations import broken
from tests.property.test_decoders import MIGRATIONS, SERVERS, SERVICES
from tests.unit.cli_support import Controller, Done, cli, incident, served

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class Answer(NamedTuple):
    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


def answer(document: object, status: int = 200, **headers: str) -> Answer:
    return Answer(json.dumps(document).encode(), status, tuple((k.replace("_", "-"), v) for k, v in headers.items()))


HEADERS = ("X-Subject-Token", "Retry-After", "Location", "OpenStack-API-Version", "Content-Length", "Transfer-Encoding")
ODD = st.sampled_from(["", "x" * 5000, "compute 2.1", "http://[", "-1", "99999999999", "chunked", "\xff", "a\tb"])
STATUS = st.sampled_from([100, 200, 204, 300, 301, 400, 401, 403, 404, 408, 409, 429, 500, 503])


@st.composite
def somewhere_broken(draw: st.DrawFn, good: Mapping[str, Answer]) -> tuple[str, Answer]:
    """One path of them, and what comes from there."""
    path = draw(st.sampled_from(sorted(good)))
    body, status, headers = good[path]
    how = draw(st.sampled_from(["body", "body", "body", "body", "status", "headers"]))
    if how == "headers":
        return path, Answer(body, status, tuple((name, draw(ODD)) for name in draw(st.sets(st.sampled_from(HEADERS)))))
    return path, Answer(draw(broken((body,))), draw(STATUS) if how == "status" else status, headers)


DEEP = Answer(b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}")


# --- Nova and Keystone ---

URL = "http://cloud"
TOKEN, DISCOVERY = "/identity/v3/auth/tokens", "/compute/v2.1"
ACTIONS = {
    "instanceActions": [
        {"action": "reboot", "request_id": "req-2", "start_time": "2026-01-01T00:00:00"},
        {"action": "create", "request_id": "req-1"},
    ],
    "links": [{"rel": "next", "href": URL}],
}
DOMAIN = {"id": "default", "name": "Default"}
ENDPOINT = {"id": "e", "interface": "public", "region": "R", "region_id": "R", "url": URL + DISCOVERY}
GOOD = {
    TOKEN: answer(
        {
            "token": {
                "methods": ["password"],
                "user": {"id": "a", "name": "a", "domain": DOMAIN},
                "project": {"id": "p", "name": "p", "domain": DOMAIN},
                "issued_at": "2024-01-01T00:00:00.000000Z",
                "expires_at": "2099-01-01T00:00:00.000000Z",
                "catalog": [{"id": "c", "type": "compute", "name": "nova", "endpoints": [ENDPOINT]}],
            }
        },
        201,
        X_Subject_Token="t",
    ),
    DISCOVERY: answer(
        {
            "version": {
                "id": "v2.1",
                "status": "CURRENT",
                "version": "2.96",
                "min_version": "2.1",
                "links": [{"rel": "self", "href": URL + DISCOVERY}],
            }
        }
    ),
    DISCOVERY + "/os-services": answer(SERVICES),
    DISCOVERY + "/servers/detail": answer({**SERVERS, "servers_links": []}),
    DISCOVERY + "/os-migrations": answer(MIGRATIONS),
    DISCOVERY + "/servers/s0/os-instance-actions": answer(ACTIONS),
    DISCOVERY + "/servers/s0/action": answer({}, 202),
    DISCOVERY + "/os-services/u": answer({}),
}


class Canned(requests.adapters.BaseAdapter):
    """Answers instead of a cloud, and counts what is asked."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        super().__init__()
        self._answers = answers
        self.asked: list[str] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        path = (request.path_url or "").partition("?")[0].rstrip("/")
        self.asked.append(path)
        response = requests.Response()
        response.request, response.url, response.reason = request, request.url or "", "A reason"
        body, response.status_code, headers = self._answers.get(path, Answer(b"{}", 404))
        response._content = body
        response.headers.update({"Content-Type": "application/json", **dict(headers)})
        return response

    def close(self) -> None:
        pass


def cloud(answers: dict[str, Answer]) -> tuple[NovaCloud, Canned]:
    """Our driver and the real library, above these answers."""
    http, canned = requests.Session(), Canned(answers)
    http.mount("http://", canned)
    auth = identity.V3Password(
        auth_url=URL + "/identity/v3",
        username="u",
        password="s3cret",
        project_name="p",
        user_domain_id="default",
        project_domain_id="default",
    )
    connection = openstack.connection.Connection(session=session.Session(auth=auth, session=http))
    return NovaCloud(connection=connection, now=lambda: 0.0), canned


ASKS: dict[str, Callable[[NovaCloud], object]] = {
    "services": lambda nova: len(nova.services()),
    "servers": lambda nova: len(nova.servers("c1")),
    "migrations": lambda nova: len(nova.migrations("c1")),
    "evacuations": lambda nova: len(nova.evacuations("c1")),
    "unfinished": lambda nova: len(nova.unfinished_evacuations()),
    "last_reboot": lambda nova: nova.last_reboot("s0"),
    "force_down": lambda nova: nova.force_down("c1", False),
    "evacuate": lambda nova: nova.evacuate("s0", "c1"),
    "start": lambda nova: nova.start("s0"),
}
WHAT_IS_SO: dict[str, object] = {
    "services": 1,
    "servers": 2,
    "migrations": 1,
    "evacuations": 1,
    "unfinished": 0,
    "last_reboot": "req-2",
    "force_down": None,
    "evacuate": None,
    "start": None,
}


def test_a_good_cloud_is_read() -> None:
    nova, _ = cloud(GOOD)
    assert {name: ask(nova) for name, ask in ASKS.items()} == WHAT_IS_SO
    assert nova.http.microversion == (2, 94)


def discovery(least: object, most: object) -> tuple[str, Answer]:
    document = json.loads(GOOD[DISCOVERY].body)
    document["version"] |= {"min_version": least, "version": most}
    return DISCOVERY, answer(document)


def asked(ask: Callable[[NovaCloud], object], nova: NovaCloud) -> tuple[object, str]:
    """The answer, or what the documented error says; any other error is a failure."""
    try:
        return ask(nova), ""
    except (DriverError, Unanswered) as error:
        return None, str(error)


@given(somewhere_broken(GOOD), st.sets(st.sampled_from(sorted(ASKS)), min_size=1, max_size=3))
@example((DISCOVERY + "/os-services", DEEP), {"services"})
@example(discovery("latest", "latest"), {"services"})
@example(discovery([2, 1], {}), {"services"})
def test_a_cloud_that_is_broken_somewhere(where: tuple[str, Answer], asks: set[str]) -> None:
    """Each question has an answer or the documented error, of a bounded length, after a bounded number of requests."""
    path, broken_answer = where
    for name in sorted(asks):
        nova, canned = cloud({**GOOD, path: broken_answer})
        found, error = asked(ASKS[name], nova)
        assert len(error) < 6000
        assert "s3cret" not in error
        if path not in canned.asked:
            assert (found, error) == (WHAT_IS_SO[name], "")
        assert len(canned.asked) < MAX_PAGES + 20


ROWS = st.lists(
    st.tuples(st.sampled_from(["reboot", "create", "REBOOT", ""]), st.sampled_from(["a", "b", ""])), max_size=3
)


@given(st.lists(st.tuples(ROWS, st.booleans()), min_size=1, max_size=4))
def test_the_last_reboot_is_the_first_that_is_listed(pages: list[tuple[list[tuple[str, str]], bool]]) -> None:
    """Nova may page as it likes, and repeat itself for ever."""
    documents = [
        {
            "instanceActions": [{"action": action, "request_id": request} for action, request in rows],
            "links": [{"rel": "next" if more else "self"}],
        }
        for rows, more in pages
    ]
    number = iter(range(10_000))
    nova, canned = cloud(GOOD)
    send = canned.send

    def page(request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        response = send(request)
        if (request.path_url or "").partition("?")[0].endswith("os-instance-actions"):
            response._content = json.dumps(documents[next(number) % len(documents)]).encode()
        return response

    canned.send = page  # type: ignore[method-assign]
    try:
        found = nova.last_reboot("s0")
    except DriverError:
        assert any(more for _, more in pages) or any(not request for _, request in pages[0][0])
        return
    finally:
        assert next(number) <= MAX_PAGES
    rows = [row for page, _ in pages for row in page]
    assert found == next((request for action, request in rows if action == "reboot"), "") or not found


# --- a controller that answers nonsense ---

HOST = "/v1/hosts/compute-2"
PLAN, CHECK, DRY_RUN = f"{HOST}/fencing-plan", f"{HOST}/fencing-check", f"{HOST}/dry-run"
COMMANDS = {  # and what they ask
    ("status",): ("/v1/status", "/v1/hosts"),
    ("status", "--json"): ("/v1/status", "/v1/hosts"),
    ("explain", "compute-2"): (HOST,),
    ("explain", "compute-2", "--json"): (HOST,),
    ("incidents",): ("/v1/incidents",),
    ("evacuate", "compute-2", "--dry-run"): (DRY_RUN,),
    ("fencing", "plan", "compute-2"): (PLAN,),
    ("fencing", "check", "compute-2"): (CHECK,),
    ("arm",): ("/v1/orders",),
    ("fence", "compute-2", "--yes"): ("/v1/orders",),
    ("confirm-fenced", "compute-2", "--yes"): (HOST, "/v1/orders"),
}
ORDER = json.dumps({"order": "report", "host": "compute-2"}).encode()


class Parrot(socketserver.UnixStreamServer):
    """Answers the same to everybody. `said`: by path, as it goes over the socket."""

    def __init__(self, path: str) -> None:
        super().__init__(path, _Say)
        self.said: dict[str, bytes] = {}


class _Say(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Parrot)
        path = self.rfile.readline().split()[1].decode().partition("?")[0]
        length = 0
        while (line := self.rfile.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.rfile.read(length)
        with contextlib.suppress(OSError):  # it has heard enough
            self.wfile.write(self.server.said[path])


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Parrot, Path]]:
    path = tmp_path_factory.mktemp("parrot") / "s"
    with Parrot(str(path)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server, path
        server.shutdown()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """What a real controller answers."""
    with served(Controller(incident()), tmp_path_factory.mktemp("controller")) as socket:
        client = Client(str(socket))
        found = {
            path: Answer(client._request("GET", path, 10.0))
            for path in ("/v1/status", "/v1/hosts", HOST, "/v1/incidents", DRY_RUN, PLAN)
        }
        found[CHECK] = Answer(client._request("POST", CHECK, 10.0))
        found["/v1/orders"] = Answer(client._request("POST", "/v1/orders", 10.0, ORDER))
    return found


def sent(one: Answer) -> bytes:
    """As it goes over the socket."""
    headers = {"Content-Length": str(len(one.body)), **dict(one.headers)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {one.status} Some\r\n{lines}\r\n".encode("latin-1") + one.body


NO_HTTP = st.binary(max_size=40) | st.sampled_from(
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/9.9 999999 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200,
        *(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size for size in (b"-5\r\n{}", b"z\r\n", b"9")),
    ]
)


def test_a_good_controller_is_understood(parrot: tuple[Parrot, Path], good: dict[str, Answer]) -> None:
    server, path = parrot
    server.said = {where: sent(one) for where, one in good.items()}
    for command in COMMANDS:
        done = cli(*command, socket=path)
        assert done.stdout, command
        assert (done.returncode, done.stderr) == (int(command[:2] == ("fencing", "check")), ""), command


def test_a_controller_that_talks_nonsense(parrot: tuple[Parrot, Path], good: dict[str, Answer]) -> None:
    """The command says so in one sentence and an exit code; nothing of the nonsense reaches the terminal's controls."""
    server, path = parrot

    @given(st.sampled_from(sorted(COMMANDS)), st.data())
    def ask(command: tuple[str, ...], data: st.DataObject) -> None:
        asked = {place: good[place] for place in COMMANDS[command]}
        broken_at, body = data.draw(
            somewhere_broken(asked).map(lambda one: (one[0], sent(one[1])))
            | st.tuples(st.sampled_from(sorted(asked)), NO_HTTP | st.just(sent(DEEP)))
        )
        server.said = {**{place: sent(one) for place, one in good.items()}, broken_at: body}
        understandable(command, cli(*command, socket=path))

    ask()


@pytest.mark.parametrize("number", [1e308, -1e308, -1, 2**63, 2**70])
def test_a_controller_whose_numbers_are_none(
    parrot: tuple[Parrot, Path], good: dict[str, Answer], number: float
) -> None:
    server, path = parrot
    server.said = {
        where: sent(Answer(json.dumps(numbered(json.loads(one.body), number)).encode())) for where, one in good.items()
    }
    for command in COMMANDS:
        understandable(command, cli(*command, socket=path))


def numbered(document: Any, number: float) -> Any:
    """Every fraction, or every number where this one has none, is `number`."""
    if isinstance(document, dict):
        return {key: numbered(value, number) for key, value in document.items()}
    if isinstance(document, list):
        return [numbered(value, number) for value in document]
    wanted = isinstance(document, float | int) and not isinstance(document, bool)
    return number if wanted and isinstance(document, type(number)) else document


def understandable(command: tuple[str, ...], done: Done) -> None:
    """What a person, and what a script sees of it."""
    assert all(letter.isprintable() or letter == "\n" for letter in done.stdout + done.stderr)
    if done.returncode:
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("ha-agent: ") or command[:2] == ("fencing", "check")
