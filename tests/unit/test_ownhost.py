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
    own.look(1.0)
    assert list(own.no_carrier) == []
    machine(tmp_path, {"eth0": "0\n", "spare": "0\n"})
    own.look(3.0)
    assert list(own.no_carrier) == [("eth0", 3.0)]
    (tmp_path / "proc/net/route").write_text(HEAD)  # its routes went with it
    own.look(5.0)
    assert list(own.no_carrier) == [("eth0", 3.0)], "since when it is lost"
    machine(tmp_path, {"eth0": "1\n"})
    own.look(7.0)
    assert list(own.no_carrier) == []
    machine(tmp_path, {"eth0": "0\n"})
    own.look(9.0)
    assert list(own.no_carrier) == [("eth0", 9.0)], "lost again"
    (tmp_path / "sys/class/net/eth0/carrier").unlink()  # switched off by a person: it does not tell
    own.look(11.0)
    assert list(own.no_carrier) == []
    (tmp_path / "sys/class/net/eth0").rmdir()
    own.look(13.0)
    machine(tmp_path, {"eth0": "0\n"})
    own.look(15.0)
    assert list(own.no_carrier) == [], "another interface of that name"


def test_only_a_gateway_that_answered_can_be_lost(tmp_path: Path) -> None:
    own = OwnNetwork(tmp_path)
    row = "10.0.0.1         0x1         {}         02:00:00:00:00:01     *        eth0\n"
    seen = []
    for now, flags in enumerate(("", "0x0", "0x2", "", "0x0", "zz", "", "0x0", "0x2", "0x0")):
        machine(tmp_path, {"eth0": "1"}, gateway="10.0.0.1", arp=row.format(flags) if flags else "")
        own.look(float(now))
        seen.append(own.gateway_lost_at)
    assert seen == [None, None, None, None, 4.0, 4.0, None, 7.0, None, 9.0]
    machine(tmp_path, {"eth0": "1"}, arp=row.format("0x0"))
    own.look(10.0)
    assert own.gateway_lost_at is None, "no gateway"


def test_what_cannot_be_read_is_no_trouble(tmp_path: Path) -> None:
    own = OwnNetwork(tmp_path / "nothing")
    own.look(1.0)
    assert (own.no_carrier, own.gateway_lost_at) == ((), None)
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_bytes(b"\xff\n\n\x00 1\nx 00000000 zz\n")
    (tmp_path / "proc/net/arp").write_text("a\nb\n")
    own.root = tmp_path
    own.look(1.0)
    assert (own.no_carrier, own.gateway_lost_at) == ((), None)


def test_an_interface_of_ipv6_alone_can_lose_its_carrier_too(tmp_path: Path) -> None:
    """One that has nothing but the route of its own link is not known to be used."""
    own = OwnNetwork(tmp_path)
    rows = (
        ("20010db8" + 24 * "0", "eth6"),
        ("fe80" + 28 * "0", "bridge"),
        ("ff" + 30 * "0", "bridge"),
        (32 * "0", "lo"),
    )
    unused = " ".join((32 * "0", "00", 32 * "0", "00000400", "00000001", "00000000", "00000001"))
    for carrier in ("1", "0"):
        machine(tmp_path, {})
        for name in ("eth6", "bridge", "lo"):
            (tmp_path / "sys/class/net" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "sys/class/net" / name / "carrier").write_text(carrier)
        text = "".join(f"{to} 40 {unused} {name:>8}\n" for to, name in rows)
        (tmp_path / "proc/net/ipv6_route").write_text(text)
        own.look(1.0)
    assert list(own.no_carrier) == [("eth6", 1.0)]
