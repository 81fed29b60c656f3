"""The controller's own network, from files as the kernel writes them."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from ha_agent.controller.ownhost import OwnNetwork

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
ARP = "IP address       HW type     Flags       HW address            Mask     Device\n"


def number(address: str) -> str:
    return f"{struct.unpack('=I', socket.inet_aton(address))[0]:08X}"


def machine(root: Path, carriers: dict[str, str], gateway: str = "", arp: str = "") -> None:
    (root / "proc/net").mkdir(parents=True, exist_ok=True)
    rows = [f"{name}\t{number('10.0.0.0')}\t00000000\t0001\t0\t0\t0\tFFFFFF00\t0\t0\t0\n" for name in carriers]
    if gateway:
        rows.append(f"{next(iter(carriers))}\t00000000\t{number(gateway)}\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")
    (root / "proc/net/route").write_text(HEAD + "".join(rows))
    (root / "proc/net/arp").write_text(ARP + arp)
    for name, carrier in carriers.items():
        (root / "sys/class/net" / name).mkdir(parents=True, exist_ok=True)
        (root / "sys/class/net" / name / "carrier").write_text(carrier)


def test_only_an_interface_that_had_a_carrier_can_lose_it(tmp_path: Path) -> None:
    own = OwnNetwork(tmp_path)
    machine(tmp_path, {"eth0": "1\n", "spare": "0\n"})
    own.look()
    assert list(own.no_carrier) == []
    machine(tmp_path, {"eth0": "0\n", "spare": "0\n"})
    own.look()
    assert list(own.no_carrier) == ["eth0"]
    (tmp_path / "proc/net/route").write_text(HEAD)  # its routes went with it
    own.look()
    assert list(own.no_carrier) == ["eth0"]
    (tmp_path / "sys/class/net/eth0/carrier").unlink()  # switched off by a person: it does not tell
    own.look()
    assert list(own.no_carrier) == []
    (tmp_path / "sys/class/net/eth0").rmdir()
    own.look()
    machine(tmp_path, {"eth0": "0\n"})
    own.look()
    assert list(own.no_carrier) == [], "another interface of that name"


def test_the_gateway_answers_where_its_address_is_resolved(tmp_path: Path) -> None:
    own = OwnNetwork(tmp_path)
    row = "10.0.0.1         0x1         {}         02:00:00:00:00:01     *        eth0\n"
    for arp, answers in (("", None), (row.format("0x2"), True), (row.format("0x0"), False), (row.format("zz"), False)):
        machine(tmp_path, {"eth0": "1"}, gateway="10.0.0.1", arp=arp)
        own.look()
        assert own.gateway is answers
    machine(tmp_path, {"eth0": "1"}, arp=row.format("0x0"))
    own.look()
    assert own.gateway is None, "no gateway"


def test_what_cannot_be_read_is_no_trouble(tmp_path: Path) -> None:
    own = OwnNetwork(tmp_path / "nothing")
    own.look()
    assert (own.no_carrier, own.gateway) == ((), None)
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_bytes(b"\xff\n\n\x00 1\nx 00000000 zz\n")
    (tmp_path / "proc/net/arp").write_text("a\nb\n")
    own.root = tmp_path
    own.look()
    assert (own.no_carrier, own.gateway) == ((), None)
