"""A small network in namespaces of its own: machines joined by a switch, and cables that can be cut.

    with Network(("controller-1", "compute-1")) as network:
        network.cut("controller-1", "compute-1")      # what they send to each other is dropped, in both directions
        network.pull("compute-1")                     # its cable: it reaches nobody
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
BRIDGE = "br0"
TABLE = "bridge cuts"
CLONE_NEWNET = 0x40000000
COMMAND_S = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """See the module. `names`: of the machines, at most 15 letters each."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._made: list[str] = []

    def address(self, name: str) -> str:
        """Of one machine; from the range that is kept for documentation, so that nothing real is ever meant."""
        return f"192.0.2.{11 + self.names.index(name)}"

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
        _run("ip", "-n", switch, "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "-n", switch, "link", "set", BRIDGE, "up")
        for name in self.names:
            self._connect(name)
            self.plug(name)
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
        """A machine, its cable still out."""
        machine, switch = self._add(name), self.namespace(SWITCH)
        card = (
            f"02:00:00:00:00:{11 + self.names.index(name):02x}"  # kept when the kernel is replaced: others remember it
        )
        near = ("eth0", "netns", machine, "address", card)
        _run("ip", "link", "add", *near, "type", "veth", "peer", "name", name, "netns", switch)
        _run("ip", "-n", switch, "link", "set", "dev", name, "master", BRIDGE)
        _run("ip", "-n", machine, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
        _run("ip", "-n", machine, "link", "set", "eth0", "up")

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

    def pull(self, name: str) -> None:
        """Its cable is out."""
        _run("ip", "-n", self.namespace(SWITCH), "link", "set", "dev", name, "down")

    def plug(self, name: str) -> None:
        """Its cable is in."""
        _run("ip", "-n", self.namespace(SWITCH), "link", "set", "dev", name, "up")

    def replace(self, name: str) -> None:
        """Another kernel, its cable out: what the old one still had to send, for processes that died, never leaves it. For a machine whose
        power is gone; nothing must run on it."""
        _run("ip", "-n", self.namespace(SWITCH), "link", "del", "dev", name)
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
