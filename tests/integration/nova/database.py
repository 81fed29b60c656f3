"""MariaDB, and what is in it before anybody has used it: made once, then copied."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.integration.nova.environment import one_at_a_time
from tests.integration.nova.processes import TAIL, LabError, Processes
from tests.integration.nova.settings import PASSWORD, REGION, Settings

NAMES = ("keystone", "placement", "nova_api", "nova_cell0", "nova_cell1")
SEED = ("mysql", "keys", "credential-keys")
NOVA = ("nova.conf", "database.conf")
START_S = 60
COMMAND_S = 300
# What Nova fills in from its configuration, so that the copy fits every port.
_ANY = "{scheme}://{username}:{password}@{hostname}:{port}/"


def start(settings: Settings, processes: Processes) -> None:
    """With all schemas."""
    with one_at_a_time(settings.environment / "seed"):
        seed = settings.environment / "seed" / _key()
        if not seed.exists():
            print("making Nova's, Keystone's and Placement's schemas (once)", flush=True)
            _make(settings, processes)
            processes.stop("mariadb", 60)
            half = seed.with_suffix(".half")
            shutil.rmtree(half, ignore_errors=True)
            for part in SEED:
                shutil.copytree(settings.directory / part, half / part)
            half.rename(seed)
        else:
            for part in SEED:
                shutil.copytree(seed / part, settings.directory / part)
    _run(settings, processes)


def ask(settings: Settings, query: str) -> list[list[str]]:
    """Rows and their columns."""
    command = ["mariadb", "--no-defaults", "--protocol=tcp", "-h127.0.0.1", "-uroot", "-NB", "-e", query]
    done = _done([*command, f"-P{settings.ports['mariadb']}"])
    return [line.split("\t") for line in done.splitlines()]


def _key() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def _run(settings: Settings, processes: Processes) -> None:
    command = [
        "/usr/sbin/mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={settings.directory / 'mysql'}",
        "--socket=sock",  # relative to the data: a socket's whole path may be too long for the kernel
        "--bind-address=127.0.0.1",
        f"--port={settings.ports['mariadb']}",
        "--character-set-server=utf8mb3",
        "--max-connections=1000",
        "--innodb-buffer-pool-size=256M",
        "--innodb-log-file-size=32M",
        "--innodb-flush-log-at-trx-commit=0",  # who loses power here starts anew
        "--innodb-flush-method=nosync",
        "--skip-log-bin",
        "--performance-schema=OFF",
    ]
    processes.start("mariadb", command)
    processes.wait("MariaDB", lambda: _answers(settings), START_S, of="mariadb")


def _answers(settings: Settings) -> bool:
    try:
        return ask(settings, "SELECT 1") == [["1"]]
    except LabError:
        return False


def _make(settings: Settings, processes: Processes) -> None:
    _done(
        [
            "mariadb-install-db",
            "--no-defaults",
            "--user=root",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
            f"--datadir={settings.directory / 'mysql'}",
        ]
    )
    _run(settings, processes)
    for name in NAMES:
        ask(settings, f"CREATE DATABASE {name}")
    ask(settings, f"CREATE USER lab@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO lab@'%'")
    root = ["--keystone-user=root", "--keystone-group=root"]
    keystone = _all(
        [settings.bin("keystone-manage"), f"--config-dir={settings.etc('keystone')}"],
        ["fernet_setup", *root],
        ["credential_setup", *root],
        ["db_sync"],
        [
            "bootstrap",
            f"--bootstrap-password={PASSWORD}",
            f"--bootstrap-internal-url={settings.url('keystone', '/v3')}",
            f"--bootstrap-region-id={REGION}",
        ],
    )
    placement = _all([settings.bin("placement-manage"), f"--config-dir={settings.etc('placement')}"], ["db", "sync"])
    nova = _all(
        [settings.bin("nova-manage"), *[f"--config-file={settings.etc('nova') / file}" for file in NOVA]],
        ["api_db", "sync"],
        ["cell_v2", "map_cell0", f"--database_connection={_ANY}nova_cell0"],
        ["db", "sync"],
        [
            "cell_v2",
            "create_cell",
            "--name=cell1",
            f"--transport-url={_ANY}",
            f"--database_connection={_ANY}nova_cell1",
        ],
    )
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(_in_turn, chain) for chain in (keystone + placement, nova)]:
            done.result()


Command = list[str | Path]


def _all(program: Command, *arguments: list[str]) -> list[Command]:
    return [[*program, *of] for of in arguments]


def _in_turn(commands: list[Command]) -> None:
    for command in commands:
        _done(command)


def _done(command: Sequence[str | Path]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_S)
    except subprocess.TimeoutExpired:
        raise LabError(f"{command[0]} was not done within {COMMAND_S} s") from None
    if done.returncode != 0:
        raise LabError(f"{' '.join(map(str, command))} failed:\n{(done.stdout + done.stderr)[-TAIL:]}")
    return done.stdout
