"""What config check says about fencing devices."""

from __future__ import annotations

import msgspec

from ha_agent.fencing.topology import Device, Problem, Topology, problems

BMC = Device(name="bmc", address="bmc-1.example.org", username="admin", password_file="/etc/ha-agent/bmc/1")


def of(**hosts: tuple[tuple[Device, ...], ...]) -> list[Problem]:
    return problems(Topology(levels=hosts))


def test_a_good_topology_has_no_problems() -> None:
    other = msgspec.structs.replace(BMC, address="bmc-2.example.org")
    assert (
        of(
            a=((BMC,), (Device(name="person", driver="manual"),)),
            b=((other,), (Device(name="person", driver="manual"),)),
        )
        == []
    )


def test_one_device_guards_one_host() -> None:
    same = msgspec.structs.replace(BMC, name="other-name", address="BMC-1.example.org.")
    [(field, problem, fix)] = of(a=((BMC,),), b=((same,),))
    assert field == "hosts.b.fencing"
    assert "already the device of a" in problem
    assert fix


def test_plugs_and_ports_tell_devices_apart() -> None:
    assert of(a=((msgspec.structs.replace(BMC, plug="1"),),), b=((msgspec.structs.replace(BMC, plug="2"),),)) == []
    assert of(a=((BMC,),), b=((msgspec.structs.replace(BMC, port=624),),)) == []


def test_a_host_may_use_its_device_in_two_levels() -> None:
    assert of(a=((BMC,), (BMC, Device(name="person", driver="manual")))) == []


def test_every_problem_of_a_device_is_reported_at_once() -> None:
    bad = Device(name="bmc", port=0, username="a-name-that-ipmi-cannot-carry", options={"privilege": "root"})
    fields = {field.rsplit(".", 1)[1] for field, _, _ in of(a=((bad,),))}
    assert fields == {"address", "port", "username", "password_file", "privilege"}


def test_unknown_drivers_empty_levels_and_repeated_names() -> None:
    assert "no driver 'carrier-pigeon'" in of(a=((Device(name="x", driver="carrier-pigeon"),),))[0][1]
    assert "no device" in of(a=((),))[0][1]
    assert "named twice" in of(a=((BMC, BMC),))[0][1]


def test_each_driver_has_needs_of_its_own() -> None:
    redfish = Device(name="bmc", driver="redfish", port=443, username="a-name-that-redfish-can-carry")
    assert {field.rsplit(".", 1)[1] for field, _, _ in of(a=((redfish,),))} == {"address", "password_file"}
    assert [field for field, _, _ in of(a=((Device(name="pdu", driver="fence_agent", port=0),),))] == [
        "hosts.a.fencing.levels[1].pdu.agent"
    ]
    assert of(a=((Device(name="pdu", driver="fence_agent", agent="fence_apc", port=0),),)) == []


def test_errors_name_a_device_by_what_an_operator_looks_for() -> None:
    assert BMC.where == "bmc-1.example.org:623"
    assert Device(name="b", address="2001:db8::1", port=443).where == "[2001:db8::1]:443"
    agent = Device(name="p", driver="fence_agent", agent="/opt/sbin/fence_apc", address="pdu", port=0, plug="4")
    assert agent.where == "fence_apc pdu plug 4"
