"""What may befall a server whose host dies, one function each. A case is played in three acts, divided by `yield`: before the host dies, while
it is dead and forced down, and after it has come back. What it notes must be the same in every world."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ha_agent.errors import DriverError
from tests.integration.nova.api import until
from tests.integration.nova.worlds import HOSTS, World

DEAD, OTHER, TARGET, FRAIL = HOSTS  # nothing lands on FRAIL but what is to suffer there
LAND_S = 90
Seen = dict[str, Any]
Case = Callable[[World, Seen], Iterator[None]]
CASES: dict[str, Case] = {}
ALONE: set[str] = set()  # those whose second act would disturb the others


def case(play: Case) -> Case:
    """Its name is the function's."""
    CASES[play.__name__.replace("_", " ")] = play
    return play


def alone(play: Case) -> Case:
    """The same, for one that breaks more than its own server."""
    ALONE.add(play.__name__.replace("_", " "))
    return case(play)


def view(world: World, server: str) -> dict[str, Any]:
    """What Nova says of the server, and what is true."""
    # Nova marks the record last of all, so this order shows no state that never was
    records = [record["status"] for record in world.api.evacuations(server)]
    answer = world.api.call("GET", f"/servers/{server}")
    row = answer.json().get("server", {})
    guests = {host: world.guests(host) for host in HOSTS}
    return {
        "status": row.get("status", answer.status_code),
        "task": row.get("OS-EXT-STS:task_state"),
        "moved": bool(row) and row["OS-EXT-SRV-ATTR:host"] != DEAD,
        "runs": sum(there.get(server, False) for there in guests.values()),
        "defined on the source": server in guests[DEAD],
        "defined elsewhere": sum(server in there for host, there in guests.items() if host != DEAD),
        "records": records,
    }


def evacuate(world: World, server: str, version: str = "2.94", **options: Any) -> int:
    """The answer's code."""
    return world.api.act(server, "evacuate", options, version).status_code


def landed(world: World, server: str) -> dict[str, Any]:
    """The view of it when its evacuation has ended, somehow."""

    def over() -> dict[str, Any] | None:
        seen = view(world, server)
        going = any(status in ("accepted", "pre-migrating") for status in seen["records"])
        return None if going or seen["task"] is not None else seen

    return until(f"the evacuation of {server} ends", over, LAND_S) or {}


def simple(world: World, seen: Seen, server: str, version: str = "2.94", **options: Any) -> Iterator[None]:
    """Evacuated while the host is dead, looked at before and after its return."""
    yield
    seen["evacuate"] = evacuate(world, server, version, **options)
    seen["landed"] = landed(world, server)
    yield
    seen["after"] = view(world, server)


def stopped_server(world: World, name: str) -> str:
    server = world.boot(DEAD, name)
    seen = world.api.act(server, "os-stop").status_code
    assert seen == 202
    until("it is stopped", lambda: world.api.server(server)["status"] == "SHUTOFF", LAND_S)
    return server


@case
def active(world: World, seen: Seen) -> Iterator[None]:
    yield from simple(world, seen, world.boot(DEAD, "active"))


@case
def active_2_53(world: World, seen: Seen) -> Iterator[None]:
    yield from simple(world, seen, world.boot(DEAD, "active-2.53"), "2.53")


@case
def active_2_95(world: World, seen: Seen) -> Iterator[None]:
    """From here on it lands stopped, and has to be started."""
    server = world.boot(DEAD, "active-2.95")
    yield
    seen["evacuate"] = evacuate(world, server, "2.95")
    seen["landed"] = landed(world, server)
    seen["start"] = world.api.act(server, "os-start").status_code
    until("it is started", lambda: world.api.server(server)["status"] == "ACTIVE", LAND_S)
    seen["started"] = view(world, server)
    yield
    seen["after"] = view(world, server)


@case
def stopped(world: World, seen: Seen) -> Iterator[None]:
    yield from simple(world, seen, stopped_server(world, "stopped"))


@case
def stopped_2_95(world: World, seen: Seen) -> Iterator[None]:
    yield from simple(world, seen, stopped_server(world, "stopped-2.95"), "2.95")


@case
def error(world: World, seen: Seen) -> Iterator[None]:
    server = world.boot(DEAD, "error")
    seen["reset"] = world.api.act(server, "os-resetState", {"state": "error"}).status_code
    yield from simple(world, seen, server)


@case
def paused(world: World, seen: Seen) -> Iterator[None]:
    """Refused, until somebody says that it is in error."""
    server = world.boot(DEAD, "paused")
    seen["pause"] = world.api.act(server, "pause").status_code
    until("it is paused", lambda: world.api.server(server)["status"] == "PAUSED", LAND_S)
    yield
    seen["evacuate"] = evacuate(world, server)
    seen["refused"] = view(world, server)
    world.api.act(server, "os-resetState", {"state": "error"})
    seen["evacuate again"] = evacuate(world, server)
    seen["landed"] = landed(world, server)
    yield


def _in_state(action: str, options: Any, status: str, *, image: bool = False) -> Case:
    """Refused for the state it is in; it stays where it is."""

    def play(world: World, seen: Seen) -> Iterator[None]:
        server = world.boot(DEAD, action, image=image)
        seen[action] = world.api.act(server, action, options).status_code
        until(f"it is {status}", lambda: world.api.server(server)["status"] == status, LAND_S)
        yield
        seen["evacuate"] = evacuate(world, server)
        seen["refused"] = view(world, server)
        yield

    return play


CASES["suspended"] = _in_state("suspend", None, "SUSPENDED")
CASES["rescued"] = _in_state("rescue", {}, "RESCUE", image=True)
CASES["shelved"] = _in_state("shelve", None, "SHELVED_OFFLOADED")


@case
def locked(world: World, seen: Seen) -> Iterator[None]:
    """A lock is no obstacle, and stays."""
    server = world.boot(DEAD, "locked")
    seen["lock"] = world.api.act(server, "lock").status_code
    yield from simple(world, seen, server)
    seen["locked"] = world.api.server(server)["locked"]


@case
def to_a_host(world: World, seen: Seen) -> Iterator[None]:
    server = world.boot(DEAD, "to-a-host")
    yield from simple(world, seen, server, host=TARGET)
    seen["there"] = world.api.server(server)["OS-EXT-SRV-ATTR:host"] == TARGET


@case
def forced_to_a_host(world: World, seen: Seen) -> Iterator[None]:
    """Past the scheduler; no more from 2.68 on."""
    server = world.boot(DEAD, "forced")
    yield
    seen["evacuate 2.68"] = evacuate(world, server, "2.68", host=TARGET, force=True)
    seen["evacuate 2.67"] = evacuate(world, server, "2.67", host=TARGET, force=True)
    seen["landed"] = landed(world, server)
    yield


@case
def to_a_wrong_host(world: World, seen: Seen) -> Iterator[None]:
    server = world.boot(DEAD, "to-a-wrong-host")
    yield
    seen["nowhere"] = evacuate(world, server, host="nowhere")
    seen["the same"] = evacuate(world, server, host=DEAD)
    seen["refused"] = view(world, server)
    yield
    seen["after"] = view(world, server)["records"]


@case
def while_its_host_is_up(world: World, seen: Seen) -> Iterator[None]:
    server = world.boot(DEAD, "up")
    seen["evacuate"] = evacuate(world, server)
    seen["refused"] = view(world, server)
    yield
    yield


@case
def moved_already(world: World, seen: Seen) -> Iterator[None]:
    server = world.boot(DEAD, "moved")
    yield
    evacuate(world, server)
    seen["landed"] = landed(world, server)
    seen["evacuate again"] = evacuate(world, server)
    seen["refused"] = view(world, server)
    yield


@case
def deleted_before(world: World, seen: Seen) -> Iterator[None]:
    """Deleted while its host is dead: its guest stays on the disk until somebody looks."""
    server = world.boot(DEAD, "deleted")
    yield
    seen["delete"] = world.api.call("DELETE", f"/servers/{server}").status_code
    until("it is gone", lambda: world.api.call("GET", f"/servers/{server}").status_code == 404, LAND_S)
    seen["evacuate"] = evacuate(world, server)
    seen["gone"] = view(world, server)
    yield
    seen["runs"] = view(world, server)["runs"]


@case
def deleted_after(world: World, seen: Seen) -> Iterator[None]:
    """Deleted when it has landed, before its host is back."""
    server = world.boot(DEAD, "deleted-after")
    yield
    evacuate(world, server)
    seen["landed"] = landed(world, server)
    seen["delete"] = world.api.call("DELETE", f"/servers/{server}").status_code
    until("it is gone", lambda: world.api.call("GET", f"/servers/{server}").status_code == 404, LAND_S)
    until("its guest is gone", lambda: not view(world, server)["defined elsewhere"], LAND_S)
    seen["gone"] = view(world, server)
    yield
    seen["after"] = view(world, server)


@case
def asked_twice(world: World, seen: Seen) -> Iterator[None]:
    """Both are accepted; what becomes of it then is a race."""
    server = world.boot(DEAD, "twice")
    yield
    seen["evacuate"] = [evacuate(world, server), evacuate(world, server)]
    seen["records"] = len(world.api.evacuations(server))
    until("the race is over", lambda: view(world, server)["records"][0] not in ("accepted", "pre-migrating"), LAND_S)
    world.api.act(server, "os-resetState", {"state": "error"})
    world.api.call("DELETE", f"/servers/{server}")
    until("it is gone", lambda: world.api.call("GET", f"/servers/{server}").status_code == 404, LAND_S)
    yield


@case
def stop_while_dead(world: World, seen: Seen) -> Iterator[None]:
    """Accepted, and never done; and no obstacle."""
    server = world.boot(DEAD, "stop-while-dead")
    yield
    seen["stop"] = world.api.act(server, "os-stop").status_code
    seen["stopping"] = view(world, server)
    seen["evacuate"] = evacuate(world, server)
    seen["landed"] = landed(world, server)
    yield


@case
def reboot_while_dead(world: World, seen: Seen) -> Iterator[None]:
    server = world.boot(DEAD, "reboot-while-dead")
    seen["none"] = world.driver.last_reboot(server)
    yield
    seen["reboot"] = world.api.act(server, "reboot", {"type": "HARD"}).status_code
    seen["rebooting"] = view(world, server)
    seen["known"] = bool(world.driver.last_reboot(server))
    seen["reboot again"] = world.api.act(server, "reboot", {"type": "HARD"}).status_code
    seen["evacuate"] = evacuate(world, server)
    seen["landed"] = landed(world, server)
    yield


@case
def left_alone(world: World, seen: Seen) -> Iterator[None]:
    """Its host comes back without its guest: Nova notices, and leaves it stopped."""
    server = world.boot(DEAD, "left-alone")
    yield
    seen["dead"] = view(world, server)
    yield
    until("Nova notices", lambda: world.api.server(server)["status"] == "SHUTOFF", LAND_S)
    seen["after"] = view(world, server)


@case
def by_the_driver(world: World, seen: Seen) -> Iterator[None]:
    """Single-flight, and what it reads."""
    server = world.boot(DEAD, "by-the-driver", tags=["automatic-recovery", "recovery-priority:3"])
    image = world.boot(DEAD, "image-backed", image=True)

    def read(of: str) -> dict[str, Any]:
        (row,) = [row for row in world.driver.servers(DEAD) if row.id == of]
        return {
            "name": row.name,
            "status": row.status,
            "power": row.power_state,
            "tags": sorted(row.tags),
            "local disk": row.local_disk,
            "locked": row.locked,
        }

    seen["microversion"] = world.driver.http.microversion
    seen["rows"] = [read(server), read(image)]
    yield
    world.driver.evacuate(server, DEAD)
    try:
        world.driver.evacuate(server, DEAD)
        seen["again"] = "sent"
    except DriverError as error:
        seen["again"] = str(error).partition(":")[0]
    seen["unfinished"] = server in {record.server for record in world.driver.unfinished_evacuations()}
    seen["landed"] = landed(world, server)
    (record,) = [record for record in world.driver.evacuations(DEAD) if record.server == server]
    seen["record"] = (record.kind, record.status, record.source, record.dest in HOSTS[1:])
    yield
    seen["after"] = [record.status for record in world.driver.evacuations(DEAD) if record.server == server]


def spawning(world: World, server: str) -> None:
    """Until its destination is in the middle of it."""
    until("it spawns", lambda: world.api.server(server)["OS-EXT-STS:task_state"] == "rebuild_spawning", LAND_S)


@alone
def spawn_fails(world: World, seen: Seen) -> Iterator[None]:
    """On the one host where it was to go; a second try goes elsewhere."""
    server = world.boot(DEAD, "spawn-fails")
    yield
    world.spawns(FRAIL, error="no space left")
    seen["evacuate"] = evacuate(world, server, host=FRAIL)
    seen["landed"] = landed(world, server)
    world.spawns(FRAIL)
    seen["evacuate again"] = evacuate(world, server, host=OTHER)
    seen["landed again"] = landed(world, server)
    yield
    seen["after"] = view(world, server)


@alone
def no_valid_host(world: World, seen: Seen) -> Iterator[None]:
    """Accepted all the same; the server stays on the dead host in ERROR, and a second try may go."""
    server = world.boot(DEAD, "no-valid-host")
    yield
    others = (OTHER, TARGET, FRAIL)
    for host in others:
        assert world.api.set_service(host, status="disabled").status_code == 200
    seen["evacuate"] = evacuate(world, server)
    seen["landed"] = landed(world, server)
    for host in others:
        assert world.api.set_service(host, status="enabled").status_code == 200
    seen["evacuate again"] = evacuate(world, server, host=OTHER)
    seen["landed again"] = landed(world, server)
    yield
    seen["after"] = view(world, server)


@alone
def destination_dies(world: World, seen: Seen) -> Iterator[None]:
    """In the middle of the spawn. The record stays as it was for ever; a second evacuation goes elsewhere."""
    server = world.boot(DEAD, "destination-dies")
    yield
    world.spawns(FRAIL, seconds=5)
    seen["evacuate"] = evacuate(world, server, host=FRAIL)
    spawning(world, server)
    world.power(FRAIL, False)
    world.spawns(FRAIL)
    seen["force down"] = world.api.set_service(FRAIL, forced_down=True).status_code
    seen["stuck"] = view(world, server)
    seen["evacuate again"] = evacuate(world, server, host=OTHER)
    until("it lands", lambda: view(world, server)["records"][-1] == "done", LAND_S)
    seen["landed again"] = view(world, server)
    returned(world, FRAIL)
    seen["clear"] = world.api.set_service(FRAIL, forced_down=False).status_code
    until(f"{FRAIL} is up", lambda: world.api.service(FRAIL)["state"] == "up", LAND_S)
    seen["the destination is back"] = view(world, server)
    yield
    seen["after"] = view(world, server)


@alone
def destination_freezes(world: World, seen: Seen) -> Iterator[None]:
    """In the middle of the spawn, and thaws when the server has been evacuated once more: it runs twice."""
    server = world.boot(DEAD, "destination-freezes")
    yield
    world.spawns(FRAIL, seconds=5)
    seen["evacuate"] = evacuate(world, server, host=FRAIL)
    spawning(world, server)
    world.freeze(FRAIL)
    try:
        world.spawns(FRAIL)
        seen["evacuate again"] = evacuate(world, server, host=OTHER)
        until("it lands", lambda: view(world, server)["records"][-1] == "done", LAND_S)
        seen["landed again"] = view(world, server)
    finally:
        world.thaw(FRAIL)
    until("it runs twice", lambda: view(world, server)["runs"] == 2, 30)
    until("the first record ends", lambda: view(world, server)["records"][0] != "pre-migrating", 60)
    seen["thawed"] = view(world, server)
    yield
    seen["after"] = view(world, server)


def returned(world: World, host: str) -> None:
    """Until its nova-compute has started: it reports once it has cleaned up."""
    before = world.api.service(host)["updated_at"]
    world.power(host, True)
    until(f"{host} reports", lambda: world.api.service(host)["updated_at"] > before, LAND_S)
