"""The API over real sockets: who may do what, what is refused, and what is shown."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ha_agent.api.access import NEEDED, Peers, Role, credentials, load_tokens
from ha_agent.api.http import Api
from ha_agent.config import HttpSettings
from ha_agent.errors import ConfigError, DriverError, LeaseLost, UsageError
from ha_agent.model import Order
from tests.unit.api_support import FakeFacade, Running, running

ADMIN, OPERATE, READ = "a" * 32, "o" * 32, "r" * 32


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"# who\nann admin {ADMIN}\nbob operate {OPERATE}\n\neve read {READ}\n")
    with running(str(tokens), allowed_hosts=("ha.example.org",)) as found:
        yield found


@pytest.fixture(autouse=True)
def _clean(api: Running) -> None:
    fresh = FakeFacade()
    api.facade.__dict__.update(fresh.__dict__)


class UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.host)


def ask(
    api: Running,
    path: str,
    body: object = None,
    *,
    token: str = "",
    host: str = "localhost",
    unix: bool = False,
    kind: str = "application/json",
) -> tuple[int, Any]:
    connection = UnixConnection(api.socket) if unix else http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
    with contextlib.closing(connection):
        headers = {"Host": host, "Content-Type": kind}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        raw = body if isinstance(body, str) or body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, raw, headers)
        response = connection.getresponse()
        text = response.read().decode()
        return response.status, json.loads(text) if response.headers["Content-Type"] == "application/json" else text


def test_after_an_order_all_hosts_are_looked_at_anew(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann admin {ADMIN}\n")
    with running(str(tokens)) as api:
        before = ask(api, "/v1/hosts")
        api.facade.hosts = {"h1": api.facade.hosts["h1"]}
        assert ask(api, "/v1/hosts") == before
        assert ask(api, "/v1/orders", {"order": "disarm"}, token=ADMIN)[0] == 200
        assert [row["view"]["host"] for row in ask(api, "/v1/hosts")[1]] == ["h1"]


# --- who may ---


@pytest.mark.parametrize(
    ("token", "order", "status"),
    [
        ("", "disarm", 401),
        ("wrong-token", "disarm", 401),
        (READ, "disarm", 403),
        (OPERATE, "disarm", 200),
        (OPERATE, "arm", 403),
        (OPERATE, "confirm_fenced", 403),
        (OPERATE, "fence", 403),
        (ADMIN, "confirm_fenced", 200),
        (ADMIN, "fence", 200),
    ],
)
def test_orders_over_tcp_need_a_token_with_the_role(api: Running, token: str, order: str, status: int) -> None:
    found, answer = ask(api, "/v1/orders", {"order": order, "host": "h2"}, token=token)
    assert found == status
    assert len(api.facade.orders) == (status == 200)
    assert token == "" or token not in json.dumps(answer)


def test_the_actor_is_the_tokens_name(api: Running) -> None:
    ask(api, "/v1/orders", {"order": "release", "host": "h2", "incident": "i", "reason": "why"}, token=ADMIN)
    (order,) = api.facade.orders
    assert (order.actor, order.host, order.incident, order.reason) == ("token:ann", "h2", "i", "why")


def test_reading_on_loopback_needs_no_token_but_a_wrong_one_is_refused(api: Running) -> None:
    assert ask(api, "/v1/hosts")[0] == 200
    assert ask(api, "/v1/hosts", token="nonsense")[0] == 401


def test_the_kernel_says_who_is_on_the_socket(api: Running) -> None:
    assert ask(api, "/v1/orders", {"order": "arm"}, unix=True)[0] == 200
    import pwd

    assert api.facade.orders[0].actor == pwd.getpwuid(os.getuid()).pw_name


def test_the_actor_cannot_be_given_in_the_body(api: Running) -> None:
    assert ask(api, "/v1/orders", {"order": "arm", "actor": "root"}, unix=True)[0] == 400
    assert api.facade.orders == []


def test_the_socket_is_for_its_group_only(api: Running) -> None:
    assert stat.S_IMODE(Path(api.socket).stat().st_mode) == 0o660


def test_roles_by_group() -> None:
    import grp

    groups = grp.getgrall()[:2]
    peers = Peers({"admin": (groups[0].gr_name,), "operate": (groups[1].gr_name, "no-such-group")}, own_uid=4242)
    assert peers.role(0, ()) is Role.ADMIN
    assert peers.role(4242, (99999,)) is Role.ADMIN
    assert peers.role(1234, (99999,)) is Role.READ
    assert peers.role(1234, (99999, groups[1].gr_gid)) is Role.OPERATE
    assert peers.role(1234, (groups[1].gr_gid, groups[0].gr_gid)) is Role.ADMIN


def test_credentials_are_read_from_the_kernel() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        uid, gids = credentials(one)
    assert uid == os.getuid()
    assert set(gids) == {os.getgid(), *os.getgroups()}


def test_every_order_but_ours_has_a_role() -> None:
    assert set(NEEDED) == set(Order) - {Order.FOREIGN}
    assert NEEDED[Order.CONFIRM_FENCED] is Role.ADMIN
    assert NEEDED[Order.REPORT] is Role.OPERATE


# --- what is refused ---


@pytest.mark.parametrize("host", ["evil.example.org", "evil.example.org:7421", "127.0.0.1.evil.org", ""])
def test_dns_rebinding_is_refused(api: Running, host: str) -> None:
    assert ask(api, "/v1/hosts", host=host)[0] == 400
    assert ask(api, "/metrics", host=host)[0] == 400


@pytest.mark.parametrize("host", ["localhost:7421", "127.0.0.1", "[::1]:80", "HA.example.org:1"])
def test_own_names_are_fine(api: Running, host: str) -> None:
    assert ask(api, "/v1/hosts", host=host)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        '{"order": "explode"}',
        '{"order": "fence", "host": 3}',
        '{"host": "h1"}',
        '{"order": "arm", "force": true}',
        '{"order": "foreign"}',
        '{"order": "arm", "reason": "a\\u001b[2J"}',
        json.dumps({"order": "arm", "reason": "x" * 501}),
    ],
)
def test_bodies_that_are_no_orders(api: Running, body: str) -> None:
    status, answer = ask(api, "/v1/orders", body, token=ADMIN)
    assert status == 400
    assert answer["error"]
    assert api.facade.orders == []


def test_a_form_of_a_web_page_is_no_order(api: Running) -> None:
    assert ask(api, "/v1/orders", {"order": "arm"}, token=ADMIN, kind="text/plain")[0] == 415


def test_large_bodies_are_not_read(api: Running) -> None:
    assert ask(api, "/v1/orders", {"order": "arm", "reason": "x" * 100_000}, token=ADMIN)[0] == 413


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/hosts/h9", 400),
        ("/v1/incidents/x", 400),
        ("/v1/incidents?phase=x", 400),
        ("/v1/events?limit=-1", 400),
        ("/v1/events?after=99999999999999999999", 400),
        ("/v1/hosts/h9/dry-run", 400),
        ("/v1/hosts/h9/fencing-plan", 400),
        ("/v1/hosts/h1/fencing-check", 405),
        ("/nothing", 404),
        ("/v1/orders", 405),
    ],
)
def test_what_does_not_exist(api: Running, path: str, status: int) -> None:
    found, answer = ask(api, path)
    assert found == status
    assert answer["error"]


@pytest.mark.parametrize(
    ("error", "status"), [(UsageError("no", "hint"), 400), (LeaseLost("no"), 503), (DriverError("no"), 502)]
)
def test_errors_are_sentences(api: Running, error: UsageError | LeaseLost | DriverError, status: int) -> None:
    api.facade.refuse = error
    found, answer = ask(api, "/v1/orders", {"order": "arm"}, unix=True)
    assert (found, answer) == (status, {"error": "no", "hint": error.hint})


# --- what is shown ---


def test_health_and_readiness(api: Running) -> None:
    assert ask(api, "/healthz") == (200, "ok\nleads (epoch 3)\n")
    assert ask(api, "/readyz") == (200, "ok\n")
    api.facade.is_alive = False
    api.facade.reasons = ["disarmed", "h1 has no witness"]
    assert ask(api, "/healthz")[0] == 503
    assert ask(api, "/readyz") == (503, "disarmed\nh1 has no witness\n")


def test_who_asks_much_does_not_make_it_look_dead(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks for its health restarts it: that is not for anybody on loopback to bring about."""
    # as if every place were taken, for as long as it is asked
    monkeypatch.setattr("ha_agent.api.http.IN_FLIGHT_MAX", 0)
    assert ask(api, "/readyz")[0] == 503
    assert ask(api, "/healthz")[0] == 200


def test_status_counts_what_is_well_and_names_what_is_not(api: Running) -> None:
    _, page = ask(api, "/v1/status")
    assert page["verdicts"] == {"alive": 1, "down": 1, "hung": 1}
    assert [row["view"]["host"] for row in page["troubled"]] == ["h2", "h3"]
    assert [row["id"] for row in page["open_incidents"]] == ["i-blocked", "i-down"]
    assert [device["host"] for device in page["devices_failed"]] == ["h2"]
    assert page["maintenance"] == ["h1"]


def test_hosts_and_incidents(api: Running) -> None:
    _, detail = ask(api, "/v1/hosts/h2")
    assert detail["row"]["step"] == "evacuate"
    assert detail["row"]["waiting"] == "2 servers on their way"
    assert [each["id"] for each in detail["incidents"]] == ["i-down"]
    assert [each["id"] for each in ask(api, "/v1/incidents?phase=closed")[1]] == ["i-closed"]
    assert [each["id"] for each in ask(api, "/v1/incidents?host=h3")[1]] == ["i-blocked"]
    assert ask(api, "/v1/incidents/i-down")[1]["history"][1]["text"] == "off is proven"
    assert [each["seq"] for each in ask(api, "/v1/events?after=2&limit=2")[1]] == [3, 4]
    assert len(ask(api, "/v1/hosts/h2/dry-run")[1]) == 3
    assert ask(api, "/v1/hosts/h2/fencing-plan")[1]["levels"][0]["evidence_s"] == 31.5


def test_devices_are_read_for_those_who_may_operate(api: Running) -> None:
    assert ask(api, "/v1/hosts/h2/fencing-check", {})[0] == 401, (
        "reading without a token is free here, this is not reading"
    )
    status, looks = ask(api, "/v1/hosts/h2/fencing-check", {}, token=ADMIN)
    assert (status, [look["error"] for look in looks]) == (200, ["", "wrong password"])


def test_a_host_is_switched_off_and_on_only_for_an_administrator(api: Running) -> None:
    path = "/v1/hosts/h1/fencing-test"
    assert [ask(api, path, {}, token=token)[0] for token in ("", READ, OPERATE)] == [401, 403, 403]
    assert ask(api, path, {}, token=ADMIN, kind="text/plain")[0] == 415
    for body in ({"level": 0}, {"level": "1"}, {"levels": 1}, {"return_s": 0}, {"return_s": 1e9}):
        assert ask(api, path, body, token=ADMIN)[0] == 400
    assert ask(api, path)[0] == 400, "none of these began one"
    status, begun = ask(api, path, {"level": 1, "with_servers": True}, token=ADMIN)
    assert (status, begun["id"], begun["actor"], begun["ended"]) == (200, "1 True", "token:ann", False)
    assert ask(api, path)[1]["passed"], "whoever may read may watch"


# --- starting ---


async def test_a_dead_owners_socket_is_taken_over_and_a_living_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    first = Api(FakeFacade(), HttpSettings(port=0, socket=str(path)))
    await first.start()
    second = Api(FakeFacade(), HttpSettings(port=0, socket=str(path)))
    with pytest.raises(UsageError, match="another controller listens"):
        await second.start()
    assert path.is_socket()
    await first.stop()
    assert not path.exists()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    path.write_text("precious")
    with pytest.raises(UsageError, match="is not a socket"):
        await Api(FakeFacade(), HttpSettings(port=0, socket=str(path))).start()
    assert path.read_text() == "precious"


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="cannot listen"):
        await Api(FakeFacade(), HttpSettings(port=taken.getsockname()[1])).start()


def test_a_tokens_file_tells_every_fault_and_no_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"ann admin\nbob king {OPERATE}\neve read short\n")
    with pytest.raises(ConfigError) as caught:
        load_tokens(path)
    assert len(caught.value.problems) == 3
    assert OPERATE not in str(caught.value)
    assert "short" not in str(caught.value)


def test_metrics_are_packed_for_who_can_unpack_them(api: Running) -> None:
    for accepted, shown in (("identity", None), ("gzip", "gzip")):
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
        connection.request("GET", "/metrics", headers={"Accept-Encoding": accepted})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert answer.getheader("Content-Encoding") == shown
        assert b"ha_agent_build_info{" in (gzip.decompress(body) if shown else body)
