"""The configuration files of Keystone, Placement and Nova."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.integration.nova.settings import AGENT, PASSWORD, REGION, ROOT, Settings

Sections = Mapping[str, Mapping[str, object]]
REPORT_S = 5
PAGE = 7  # few enough for a test to fill several
POLICY_S = 120
DOWN_S = 60  # a busy machine reports late
# name -> (what gunicorn serves, the variable by which that finds its configuration)
WSGI = {
    "keystone": ("keystone.wsgi.api:application", "OS_KEYSTONE_CONFIG_DIR={etc}/keystone"),
    "placement": ("placement.wsgi.api:application", "OS_PLACEMENT_CONFIG_DIR={etc}/placement"),
    "nova": (
        "nova.wsgi.osapi_compute:application",
        "OS_NOVA_CONFIG_FILES={etc}/nova/api-paste.ini;{etc}/nova/nova.conf;{etc}/nova/database.conf",
    ),
}


def write(settings: Settings) -> None:
    """All of them."""
    etc = settings.directory / "etc"
    for path, sections in _files(settings).items():
        (etc / path).parent.mkdir(parents=True, exist_ok=True)
        (etc / path).write_text(ini(sections))
    shutil.copy(settings.environment / "etc" / "nova" / "api-paste.ini", etc / "nova")
    (etc / "nova" / "policy.yaml").write_text(_policy(settings))
    for name, (application, variable) in WSGI.items():
        # Nova's API and Placement read the arguments of the process as their own, so gunicorn's come in a file
        lines = {
            "wsgi_app": application,
            "bind": f"127.0.0.1:{settings.ports[name]}",
            "worker_class": "gthread",
            "threads": 16,
            "timeout": 300,
            "keepalive": 75,  # longer than any test thinks: a connection that ends as it is used again looks like a lost answer
            "raw_env": [variable.format(etc=etc)],
            "control_socket_disable": True,
        }
        (etc / f"{name}.gunicorn.py").write_text("".join(f"{key} = {value!r}\n" for key, value in lines.items()))


def _policy(settings: Settings) -> str:
    """As an operator makes it."""
    program: list[str | Path] = [settings.bin("python"), ROOT / "examples" / "nova" / "least_rights.py", AGENT]
    return subprocess.run(program, capture_output=True, text=True, check=True, timeout=POLICY_S).stdout


def ini(sections: Sections) -> str:
    """As oslo.config reads it."""
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
        for name, values in sections.items()
    )


def host(directory: Path, name: str) -> str:
    """What one nova-compute has beside nova.conf."""
    return ini(
        {
            "DEFAULT": {"host": name, "state_path": directory},
            "oslo_concurrency": {"lock_path": directory / "locks"},
        }
    )


def _files(settings: Settings) -> dict[str, Sections]:
    state = settings.directory
    login = {
        "auth_type": "password",
        "auth_url": settings.url("keystone", "/v3"),
        "username": "admin",
        "password": PASSWORD,
        "project_name": "admin",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
        "region_name": REGION,
    }
    token = {"www_authenticate_uri": settings.url("keystone", "/v3"), **login}
    return {
        "keystone/keystone.conf": {
            "database": {"connection": settings.database("keystone")},
            "token": {"provider": "fernet", "expiration": 86400},
            "fernet_tokens": {"key_repository": state / "keys"},
            "credential": {"key_repository": state / "credential-keys"},
            "identity": {"password_hash_rounds": 4},  # a hash that is slow on purpose would be paid at each login
        },
        "placement/placement.conf": {
            "placement_database": {"connection": settings.database("placement")},
            "keystone_authtoken": token,
        },
        "nova/nova.conf": {
            "DEFAULT": {
                "my_ip": "127.0.0.1",
                "state_path": state / "nova",
                "transport_url": settings.queue,
                "compute_driver": "guest_files.GuestFilesDriver",
                "report_interval": REPORT_S,
                "service_down_time": DOWN_S,
                "rpc_response_timeout": 30,
                "graceful_shutdown_timeout": 2,
            },
            "oslo_concurrency": {"lock_path": state / "nova" / "locks"},
            "oslo_messaging_notifications": {"driver": "messagingv2"},
            "oslo_policy": {"policy_file": state / "etc" / "nova" / "policy.yaml"},
            "notifications": {"notification_format": "versioned", "notify_on_state_change": "vm_and_task_state"},
            "api": {"max_limit": PAGE},
            "quota": {"instances": -1, "cores": -1, "ram": -1, "server_groups": -1},
            "conductor": {"workers": 1},
            # hosts are found by looking, not by a command; and servers that come at once do not all go to one host
            "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": 1},
            "filter_scheduler": {"host_subset_size": 3, "shuffle_best_same_weighed_hosts": True},
            "keystone_authtoken": token,
            "placement": login,
            "neutron": login,
            "glance": login,
            "cinder": login,
            "vnc": {"enabled": False},
        },
        # apart, for nova-compute refuses to run where it finds a database
        "nova/database.conf": {
            "api_database": {"connection": settings.database("nova_api")},
            "database": {"connection": settings.database("nova_cell1")},
        },
    }
