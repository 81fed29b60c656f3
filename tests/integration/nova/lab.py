"""The whole of it, up and down. What is up is known by the files in its directory, so that one process may start it and another end it."""

from __future__ import annotations

import http.client
import shutil
from functools import partial
from pathlib import Path

from tests.integration.nova import catalogue, configuration, database, environment
from tests.integration.nova.hosts import Host
from tests.integration.nova.processes import LOGS, LabError, Processes
from tests.integration.nova.settings import FILE, IMAGE, Settings
from tests.integration.rabbit import SERVER, Rabbit

START_S = 180
STAND_INS = Path(__file__).with_name("stand_ins.py")


class Lab:
    """One that is up, or in the middle of it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.processes = Processes(settings.directory)
        self.hosts = {name: Host(settings, name) for name in settings.hosts}

    @classmethod
    def of(cls, directory: Path) -> Lab | None:
        """The one in the directory, if any."""
        settings = Settings.of(directory)
        return None if settings is None else cls(settings)

    @classmethod
    def up(cls, directory: Path, hosts: int = 4) -> Lab:
        """A new one, in an empty or missing directory. Raises LabError (or debian.Missing), and then nothing of it is left running."""
        directory.mkdir(parents=True, exist_ok=True)
        if any(entry.name != LOGS for entry in directory.iterdir()):
            raise LabError(f"{directory} is in use: end the lab that is there with `make lab-down`")
        shutil.rmtree(directory / LOGS, ignore_errors=True)  # of an earlier one
        lab = cls(Settings.new(directory, environment.ready(), hosts))
        try:
            lab._start()
        except BaseException:
            lab.down()
            raise
        return lab

    def down(self) -> None:
        """Nothing of it runs any more. Its logs stay; its data do not."""
        for name in reversed(self.processes.names()):
            if name.startswith("bmc-"):
                self.processes.stop(name, 0)
        for host in self.hosts.values():
            if host.bmc.installed:
                host.power(False)
        for name in reversed(self.processes.names()):
            self.processes.stop(name, 0)  # what will never be started again needs no orderly end
        for entry in self.settings.directory.iterdir():
            if entry.is_dir() and entry.name != LOGS:
                shutil.rmtree(entry)
        (self.settings.directory / FILE).unlink(missing_ok=True)

    def dead(self) -> list[str]:
        """Processes that should run and do not."""
        return [name for name in self.processes.names() if self.processes.pid(name) is None]

    # --- starting --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        settings, processes = self.settings, self.processes
        settings.save()
        configuration.write(settings)
        rabbit = self._rabbit()
        processes.start("epmd", rabbit.epmd)
        processes.start("rabbitmq", [SERVER], rabbit.environment())
        processes.start("stand-ins", [settings.bin("python"), STAND_INS, str(settings.ports["stand-ins"]), IMAGE])
        database.start(settings, processes)
        for name in ("keystone", "placement"):
            self._serve(name)
        self._wait_for("keystone", "/v3")
        catalogue.write(settings)
        processes.wait("RabbitMQ", rabbit.speaks, START_S, of="rabbitmq")
        files = [f"--config-file={settings.etc('nova') / file}" for file in database.NOVA]
        for name in ("nova-conductor", "nova-scheduler"):
            processes.start(name, [settings.bin(name), *files])
        for name, host in self.hosts.items():
            host.install(settings)
            processes.start(f"bmc-{name}", host.bmc.program())
            host.power(True)
        self._serve("nova")
        self._wait_for("placement", "/")
        self._wait_for("nova", "/")
        for name in self.hosts:
            processes.wait(f"nova-compute of {name}", partial(self._reports, name), START_S)

    def _rabbit(self) -> Rabbit:
        port, dist, epmd = (self.settings.ports[name] for name in ("rabbitmq", "rabbitmq-nodes", "epmd"))
        return Rabbit(self.settings.directory / "rabbitmq", port=port, dist_port=dist, epmd_port=epmd)

    def _serve(self, name: str) -> None:
        file = self.settings.etc(f"{name}.gunicorn.py")
        self.processes.start(name, [self.settings.bin("gunicorn")], {"GUNICORN_CMD_ARGS": f"--config={file}"})

    def _wait_for(self, name: str, path: str) -> None:
        self.processes.wait(name, lambda: self._answers(name, path), START_S, of=name)

    def _answers(self, name: str, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.ports[name], timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status < 500
        except OSError:
            return False
        finally:
            connection.close()

    def _reports(self, host: str) -> bool:
        """Known to Nova's scheduler as well."""
        query = "SELECT count(*) FROM nova_cell1.compute_nodes n JOIN nova_cell1.services s ON s.host = n.host"
        of = f"n.host = '{host}' AND n.mapped = 1 AND s.`binary` = 'nova-compute' AND s.last_seen_up IS NOT NULL"
        return database.ask(self.settings, f"{query} WHERE {of}") == [["1"]]
