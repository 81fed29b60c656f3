"""The controller's user has a role with exactly the rights that `examples/nova/least_rights.py` grants. That they suffice, the other tests show:
they play with this user. Here: what it may not do."""

from __future__ import annotations

import pytest

from tests.integration.nova.api import Api
from tests.integration.nova.servers import Servers
from tests.integration.nova.settings import AGENT, IMAGE

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first test also waits for the lab

HOST, OTHER = "compute-1", "compute-2"
FORBIDDEN = 403


@pytest.mark.parametrize("administrator", [False, True])
def test_it_may_not_do_what_it_never_does(servers: Servers, administrator: bool) -> None:
    """An administrator still may, so it is the role that is refused."""
    server = servers.boot(HOST, "one")
    servers.settled([server])
    api = servers.api if administrator else Api(servers.lab.settings.cloud(AGENT))
    creation = servers.api.read(f"/servers/{server}/os-instance-actions")["instanceActions"][-1]["request_id"]
    service = servers.api.service(HOST)["id"]
    flavor = {"id": "huge", "name": "huge", "ram": 1, "vcpus": 1, "disk": 1}
    answers = {
        "show a server": api.call("GET", f"/servers/{server}"),
        "change a server": api.call("PUT", f"/servers/{server}", {"server": {"name": "two"}}),
        "its console": api.act(server, "os-getConsoleOutput", {}),
        "what its actions met": api.call("GET", f"/servers/{server}/os-instance-actions/{creation}"),
        "reset its state": api.act(server, "os-resetState", {"state": "active"}),
        "pause": api.act(server, "pause"),
        "unlock": api.act(server, "unlock"),
        "move it alive": api.act(server, "os-migrateLive", {"host": OTHER, "block_migration": "auto"}),
        "move it cold": api.act(server, "migrate", {"host": OTHER}),
        "rebuild": api.act(server, "rebuild", {"imageRef": IMAGE}),
        "make a server": api.call(
            "POST", "/servers", {"server": {"name": "x", "flavorRef": "small", "networks": "none"}}
        ),
        "make a flavor": api.call("POST", "/flavors", {"flavor": flavor}),
        "list hypervisors": api.call("GET", "/os-hypervisors/detail"),
        "list aggregates": api.call("GET", "/os-aggregates"),
        "delete a service": api.call("DELETE", f"/os-services/{service}0"),
        "delete": api.call("DELETE", f"/servers/{server}"),
    }
    refused = {what for what, answer in answers.items() if answer.status_code == FORBIDDEN}
    assert refused == (set() if administrator else set(answers))
