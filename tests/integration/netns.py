"""A small network in namespaces of its own: machines joined by a switch, and cables that can be cut.

    with Network(("controller-1", "compute-1")) as network:
        network.cut("controller-1", "compute-1")      # what they send to each other is dropped, in both directions
        network.pull("compute-1")                     # its cable: it reaches nobody (but over its other plane, where it has one)
        network.mend()
        with network.inside("controller-1"):          # sockets made here, and children started here, are that machine's
            ...

Needs root, Debian's `iproute2` and `nftables`. A cut is a rule of the switch, which no machine sees: neither end is told. Names carry
our pid; what a run that was killed left behind is removed by the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from tests.integration.debian import need

PREFIX = "ha-agent-test-"
NAMED = Path("/run/netns")
SWITCH = "switch"
MANAGEMENT, STORAGE = "management", "storage"
BRIDGES = {MANAGEMENT: "br0", STORAGE: "br1"}
CARDS = {MANAGEMENT: "eth0", STORAGE: "eth1"}
# Ranges that are kept for documentation, so that nothing real is ever meant.
RANGES = {MANAGEMENT: "192.0.2", STORAGE: "198.51.100"}
TABLE = "bridge cuts"
CLONE_NEWNET = 0x40000000
COMMAND_S = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """See the module. `names`: of the machines, at most 13 letters each; `storage`: those that are on a second network as well."""

    def __init__(self, names: Sequence[str], storage: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self._storage = tuple(storage)
        self._made: list[str] = []

    def planes(self, name: str) -> tuple[str, ...]:
        """The networks that a machine is on."""
        return (MANAGEMENT, STORAGE) if name in self._storage else (MANAGEMENT,)

    def address(self, name: str, plane: str = MANAGEMENT) -> str:
        """Of one machine."""
        return f"{RANGES[plane]}.{11 + self.names.index(name)}"

    def namespace(self, name: str) -> str:
        """What `ip netns` calls the machine."""
        return f"{PREFIX}{os.getpid()}-{name}"

    def __enter__(self) -> Network:
        need("iproute2", "nftables")
        _tidy()
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _build(self) -> None:
        switch = self._add(SWITCH)
        for bridge in BRIDGES.values():
            _run("ip", "-n", switch, "link", "add", bridge, "type", "bridge")
            _run("ip", "-n", switch, "link", "set", bridge, "up")
        for name in self.names:
            self._connect(name)
            self.plug(name, *self.planes(name))
        self._nft(
            f"add table {TABLE}",
            f"add chain {TABLE} forward {{ type filter hook forward priority 0; policy accept; }}",
        )

    def _add(self, name: str) -> str:
        namespace = self.namespace(name)
        _run("ip", "netns", "add", namespace)
        self._made.append(name)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        return namespace

    def _connect(self, name: str) -> None:
        """A machine, its cables still out."""
        machine, switch = self._add(name), self.namespace(SWITCH)
        for number, plane in enumerate(self.planes(name)):
            # kept when the kernel is replaced: others remember it
            card, port = f"02:00:00:00:{number:02x}:{11 + self.names.index(name):02x}", _port(name, plane)
            near = (CARDS[plane], "netns", machine, "address", card)
            _run("ip", "link", "add", *near, "type", "veth", "peer", "name", port, "netns", switch)
            _run("ip", "-n", switch, "link", "set", "dev", port, "master", BRIDGES[plane])
            _run("ip", "-n", machine, "address", "add", f"{self.address(name, plane)}/24", "dev", CARDS[plane])
            _run("ip", "-n", machine, "link", "set", CARDS[plane], "up")

    def _remove(self) -> None:
        """A namespace ends with its last process and socket: those are the caller's to end first."""
        while self._made:
            _run("ip", "netns", "del", self.namespace(self._made.pop()))

    # --- cables ---

    def cut(self, one: str, other: str, *, both_ways: bool = True) -> None:
        """What `one` sends to `other` is lost, and (if `both_ways`) what it is sent by it."""
        ways = [(one, other), (other, one)] if both_ways else [(one, other)]
        self._nft(
            *(
                f"add rule {TABLE} forward ip saddr {self.address(a)} ip daddr {self.address(b)} counter drop"
                for a, b in ways
            )
        )

    def dropped(self) -> int:
        """Packets that the cuts of now have swallowed."""
        rules = self._nft(f"list table {TABLE}").split()
        return sum(int(rules[i + 1]) for i, word in enumerate(rules) if word == "packets")

    def pull(self, name: str, *planes: str) -> None:
        """Its cable is out, on the management plane or on those that are named."""
        for plane in planes or (MANAGEMENT,):
            _run("ip", "-n", self.namespace(SWITCH), "link", "set", "dev", _port(name, plane), "down")

    def plug(self, name: str, *planes: str) -> None:
        """Its cable is in."""
        for plane in planes or (MANAGEMENT,):
            _run("ip", "-n", self.namespace(SWITCH), "link", "set", "dev", _port(name, plane), "up")

    def replace(self, name: str) -> None:
        """Another kernel, its cables out: what the old one still had to send, for processes that died, never leaves it. For a machine whose
        power is gone; nothing must run on it."""
        for plane in self.planes(name):
            _run("ip", "-n", self.namespace(SWITCH), "link", "del", "dev", _port(name, plane))
        _run("ip", "netns", "del", self.namespace(name))
        self._made.remove(name)
        self._connect(name)

    def mend(self) -> None:
        """No cut is left; cables that were pulled stay out."""
        self._nft(f"flush chain {TABLE} forward")

    # --- machines ---

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread is on that machine's network meanwhile; so is every process and thread that it starts, for good."""
        with Path("/proc/thread-self/ns/net").open("rb") as home, (NAMED / self.namespace(name)).open("rb") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def _nft(self, *lines: str) -> str:
        return _run("ip", "netns", "exec", self.namespace(SWITCH), "nft", "-f", "-", said="\n".join(lines) + "\n")


def _port(name: str, plane: str) -> str:
    """Of the switch."""
    return name if plane == MANAGEMENT else f"{name}-s"


def _tidy() -> None:
    """Namespaces of runs that were killed, and what still runs there."""
    for path in sorted(NAMED.glob(f"{PREFIX}*")) if NAMED.is_dir() else ():
        run = path.name.removeprefix(PREFIX).split("-")[0]
        if not Path(f"/proc/{run}").exists():
            for pid in _run("ip", "netns", "pids", path.name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _run("ip", "netns", "del", path.name)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _run(*command: str, said: str = "") -> str:
    """What it answers. Raises RuntimeError with its complaint."""
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=False, timeout=COMMAND_S)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
