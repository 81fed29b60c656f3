"""A real libvirtd with real QEMU guests that hang for real, in namespaces of its own: the machine keeps its files, and nothing of it is left running.

    with Libvirt(directory) as libvirt:
        libvirt.start()
        server = libvirt.guest("i6300esb", action="pause")   # its watchdog fires some 3 s later
        libvirt.kill(); libvirt.start()                      # guests live on

Guests are boot sectors made here: they program a watchdog (or pvpanic) and hang. QEMU emulates (TCG): no KVM is needed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.integration.debian import Missing, need

PACKAGES = ("gcc", "libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-dev", "pkg-config", "qemu-system-x86")
START_S = 20.0
QEMU_CONF = """user = "root"
group = "root"
security_driver = "none"
security_default_confined = 0
cgroup_controllers = []
stdio_handler = "file"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
"""
# A root libvirtd wants the user of Debian's libvirt-daemon-system, whatever qemu.conf says.
SET_UP = """set -e
mount --make-rprivate /
mount -t proc proc /proc
(cat /etc/passwd; echo libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin) > "$1/passwd"
(cat /etc/group; echo libvirt-qemu:x:64055:) > "$1/group"
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mkdir -p /etc/libvirt /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/run" /run/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount -t tmpfs tmpfs /var/cache/libvirt
mount -t tmpfs tmpfs /var/log/libvirt
touch "$1/ready"
# CHLD is ignored: what dies here leaves no zombie, for which libvirtd would wait 40 s
exec env --ignore-signal=CHLD sleep infinity
"""


def libvirt_python() -> Any:
    """The module. Installed from PyPI where it is missing: it is compiled, so not every developer's set-up has it."""
    need(*PACKAGES)
    try:
        import libvirt
    except ImportError:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "libvirt-python>=9"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise Missing(f"libvirt-python cannot be installed:\n{done.stdout}{done.stderr}"[-2000:]) from None
        import libvirt
    libvirt.registerErrorHandler(lambda *_: None, None)
    return libvirt


class Libvirt:
    """See the module. `directory`: short, for it holds sockets."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.module = libvirt_python()
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"qemu+unix:///system?socket={self.directory}/sock/libvirt-sock"

    @property
    def read_only_uri(self) -> str:
        """The same for who may only read."""
        return f"{self.uri}-ro"

    @property
    def run_directory(self) -> Path:
        """Where libvirt keeps the pid files of its guests."""
        return self.directory / "run" / "qemu"

    def __enter__(self) -> Libvirt:
        for name in ("etc", "run", "lib", "sock", "img"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "etc" / "qemu.conf").write_text(QEMU_CONF)
        (self.directory / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{self.directory}/sock"\nunix_sock_ro_perms = "0777"\n'
            'auth_unix_ro = "none"\nauth_unix_rw = "none"\n'
        )
        # It ends with us, however we end: a run that is killed leaves no guest behind.
        self._namespace = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                SET_UP,
                "sh",
                str(self.directory),
            ]
        )
        deadline = time.monotonic() + START_S
        while not (self.directory / "ready").exists():
            if self._namespace.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the namespaces of libvirtd could not be made")
            time.sleep(0.01)
        children = Path(f"/proc/{self._namespace.pid}/task/{self._namespace.pid}/children").read_text().split()
        self._init = int(children[0])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init, signal.SIGKILL)  # the first process of its namespace: all others die with it
        self._namespace.wait()
        if self._daemon is not None:
            self._daemon.wait()

    # --- the daemon ---

    def start(self) -> None:
        """Returns when it answers."""
        log = (self.directory / "libvirtd.log").open("ab")
        enter = ["nsenter", "--target", str(self._init), "--mount", "--pid", "--"]
        self._daemon = subprocess.Popen(
            [*enter, "libvirtd", "--config", str(self.directory / "libvirtd.conf"), "--pid-file", "/run/libvirt/d.pid"],
            stdout=log,
            stderr=log,
        )
        log.close()
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.module.open(self.uri).close()
                break
            except self.module.libvirtError:
                if self._daemon.poll() is not None or time.monotonic() > deadline:
                    text = (self.directory / "libvirtd.log").read_text()[-2000:]
                    raise RuntimeError(f"libvirtd does not answer:\n{text}") from None
                time.sleep(0.05)

    def signal(self, number: int) -> None:
        """To the daemon itself, which is a child of nsenter's."""
        assert self._daemon is not None
        for child in Path(f"/proc/{self._daemon.pid}/task/{self._daemon.pid}/children").read_text().split():
            os.kill(int(child), number)
        if number == signal.SIGCONT:
            self._daemon.send_signal(number)  # nsenter stops and goes on with its child

    def kill(self) -> None:
        """At once and without a word; its guests live on."""
        assert self._daemon is not None
        self.signal(signal.SIGKILL)
        self._daemon.wait()

    # --- guests ---

    def guest(self, model: str, *, action: str = "none", pets: int = 0, on_crash: str = "destroy") -> str:
        """A guest that hangs after `pets` seconds, defined and running. `model`: i6300esb, ib700, panic, or well. Returns its uuid."""
        server = str(uuid.uuid4())
        image = self.directory / "img" / f"{server}.img"
        image.write_bytes(boot_sector(model, pets))
        connection = self.module.open(self.uri)
        try:
            connection.defineXML(domain_xml(server, image, model, action, on_crash)).create()
        finally:
            connection.close()
        return server

    def domain(self, server: str, do: str) -> None:
        """Calls a method of the domain: destroy, resume, create …"""
        connection = self.module.open(self.uri)
        try:
            getattr(connection.lookupByUUIDString(server), do)()
        finally:
            connection.close()

    def fire(self, server: str) -> None:
        """The watchdog of an ib700 guest fires at once: QEMU's own monitor writes to its port."""
        import libvirt_qemu

        connection = self.module.open(self.uri)
        try:
            libvirt_qemu.qemuMonitorCommand(connection.lookupByUUIDString(server), "o /b 0x443 0x0f", 1)
        finally:
            connection.close()

    def clear(self) -> None:
        """No guest is left, and libvirtd runs."""
        if self._daemon is None or self._daemon.poll() is not None:
            self.start()
        self.signal(signal.SIGCONT)
        connection = self.module.open(self.uri)
        try:
            for domain in connection.listAllDomains(0):
                if domain.isActive():
                    with contextlib.suppress(self.module.libvirtError):
                        domain.destroy()
                domain.undefine()
        finally:
            connection.close()

    def qemu(self, server: str) -> int:
        """The pid of its QEMU, as this machine sees it."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and server.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    return int(entry.name)
        raise LookupError(server)


def domain_xml(server: str, image: Path, model: str, action: str, on_crash: str) -> str:
    """A domain of a floppy and 16 MiB."""
    watchdog = "ib700" if model == "well" else model
    device = "<panic model='isa'/>" if model == "panic" else f"<watchdog model='{watchdog}' action='{action}'/>"
    return f"""<domain type='qemu'><name>guest-{server}</name><uuid>{server}</uuid>
  <memory unit='MiB'>16</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='fd'/></os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>{on_crash}</on_crash>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='{image}'/>
      <target dev='fda' bus='fdc'/><readonly/></disk>
    <memballoon model='none'/>{device}
  </devices></domain>"""


# --- boot sectors ------------------------------------------------------------------------------------------------------

# cli; ax, ds, ss = 0; sp = 0x7c00; sti
_BEGIN = b"\xfa\x31\xc0\x8e\xd8\x8e\xd0\xbc\x00\x7c\xfb"
# int 15h, ah 86h: wait cx:dx = 1,000,000 us
_SECOND = b"\xb4\x86\xb9\x0f\x00\xba\x40\x42\xcd\x15"
# cli; hlt; and again
_HANG = b"\xfa\xf4\xeb\xfd"


def _out(port: int, value: int) -> bytes:
    return b"\xba" + struct.pack("<H", port) + b"\xb0" + bytes([value]) + b"\xee"


def _pci_write(function: int, register: int, value: int) -> bytes:
    """int 1ah (b10bh: a byte, b10ch: a word) to the device whose address is on the stack."""
    return b"\x5b\x53\xb8" + struct.pack("<HBHBH", function, 0xBF, register, 0xB9, value) + b"\xcd\x1a"


def _repeat(count: int, body: bytes) -> bytes:
    """mov bp, count; the body; dec bp; jnz back to the body."""
    if not count:
        return b""
    inner = body + b"\x4d"
    return b"\xbd" + struct.pack("<H", count) + inner + b"\x0f\x85" + struct.pack("<h", -(len(inner) + 4))


def boot_sector(model: str, pets: int) -> bytes:
    """512 bytes that are well for `pets` seconds. The i6300esb is enabled through PCI configuration space alone; its two stages then keep
    their first values, 1.017 s each. The ib700 is armed for 2 s. pvpanic needs one write."""
    match model:
        case "i6300esb":
            # int 1ah, b102h: find 8086:25ab; keep where it is; clock of 1 MHz, no interrupt; enable. Off and on again is the pet.
            begin = b"\xb8\x02\xb1\xb9\xab\x25\xba\x86\x80\x31\xf6\xcd\x1a\x53" + _pci_write(0xB10C, 0x60, 0x0007)
            arm = _pci_write(0xB10B, 0x68, 0x02)
            pet = _SECOND + _pci_write(0xB10B, 0x68, 0x00) + arm
            code = begin + arm + _repeat(pets, pet)
        case "ib700":
            arm = _out(0x443, 0x0E)
            code = arm + _repeat(pets, _SECOND + arm)
        case "well":
            code = b""  # its watchdog is never armed
        case _:
            code = _repeat(pets, _SECOND) + _out(0x505, 1)
    code = _BEGIN + code + _HANG
    assert len(code) <= 510
    return code.ljust(510, b"\0") + b"\x55\xaa"
