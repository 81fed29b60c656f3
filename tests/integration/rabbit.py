"""A private RabbitMQ for tests: its own node, ports, cookie and data, all on loopback and below one directory."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER = Path(
    "/usr/lib/rabbitmq/bin/rabbitmq-server"
)  # Debian's /usr/sbin/rabbitmq-server is a wrapper for the one system node
START_S = 60.0


def free_port() -> int:
    """A TCP port that is free on loopback now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Rabbit:
    """One broker. It keeps its data over `kill` and `start`."""

    def __init__(self, directory: Path, *, port: int = 0, dist_port: int = 0, epmd_port: int = 0) -> None:
        self._directory = directory
        self.port = port or free_port()
        self._epmd_port = epmd_port or free_port()
        self._dist_port = dist_port or free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        cookie = directory / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16).upper())
        cookie.chmod(0o400)
        (directory / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\n")
        (directory / "plugins").write_text("[].")
        (directory / "env.conf").touch()

    @property
    def url(self) -> str:
        """For kombu."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def oslo_url(self) -> str:
        """For oslo.messaging."""
        return f"rabbit://guest:guest@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        """Of the Erlang machine that is the broker."""
        return int((self._directory / "pid").read_text())

    def start(self) -> None:
        """Returns when the broker speaks AMQP. Raises RuntimeError with its output."""
        if self._epmd is None:
            # Started here, in the foreground: Erlang would leave one behind that nobody stops.
            self._epmd = subprocess.Popen(self.epmd)
            _wait_for_port(self._epmd_port, 10)
        (self._directory / "pid").unlink(missing_ok=True)
        with (self._directory / "out").open("ab") as out:
            self._server = subprocess.Popen([SERVER], env=self.environment(), stdout=out, stderr=out)
        end = time.monotonic() + START_S
        while not self.speaks():
            if time.monotonic() > end or self._server.poll() is not None:
                raise RuntimeError("RabbitMQ did not start:\n" + (self._directory / "out").read_text()[-4000:])
            time.sleep(0.1)

    def kill(self) -> None:
        """As a power cut: -9."""
        os.kill(self.pid, signal.SIGKILL)
        assert self._server is not None
        self._server.wait(20)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stopped, but its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Nothing of it runs any more."""
        if self._server is not None and self._server.poll() is None:
            self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(10)
            self._epmd = None

    @property
    def epmd(self) -> list[str]:
        """What Erlang's nodes find each other by."""
        return ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]

    def environment(self) -> dict[str, str]:
        """All that the server's scripts are told."""
        here = self._directory
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(here),
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"ha{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(here / "mnesia"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_PID_FILE": str(here / "pid"),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(here / "env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }

    def speaks(self) -> bool:
        """An AMQP header is answered by a frame of method connection.start."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01" and (self._directory / "pid").exists()
        except OSError:
            return False


def _wait_for_port(port: int, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
