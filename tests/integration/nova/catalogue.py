"""Keystone's list of services: where this lab's are. And who a controller is there."""

from __future__ import annotations

from typing import Any

from openstack.connection import Connection

from tests.integration.nova.settings import AGENT, PASSWORD, REGION, Settings


def write(settings: Settings) -> None:
    """Adds what is missing, and corrects what is left of another lab's."""
    here = settings.url("keystone", "/v3")  # what the list says may be another lab's
    identity: Any = Connection(**settings.cloud(), app_name="lab", identity_endpoint_override=here).identity
    services = {row.type: row for row in identity.services()}
    endpoints = {(row.service_id, row.interface): row for row in identity.endpoints()}
    for kind, name, url in (
        ("identity", "keystone", here),
        ("placement", "placement", settings.url("placement")),
        ("compute", "nova", settings.url("nova", "/v2.1")),
        ("image", "glance", settings.url("stand-ins", "/image")),
        ("network", "neutron", settings.url("stand-ins", "/network")),
        ("volumev3", "cinder", settings.url("stand-ins", "/volume/v3")),
    ):
        service = services.get(kind) or identity.create_service(type=kind, name=name)
        for interface in ("internal", "public"):
            there = endpoints.get((service.id, interface))
            if there is None:
                identity.create_endpoint(service_id=service.id, interface=interface, url=url, region_id=REGION)
            elif there.url != url:
                identity.update_endpoint(there, url=url)
    _agent(identity)


def _agent(identity: Any) -> None:
    """A user, with a role that has no rights of its own, in a project that has no servers."""
    if identity.find_user(AGENT) is not None:
        return
    role = identity.create_role(name=AGENT)
    project = identity.create_project(name=AGENT, domain_id="default")
    user = identity.create_user(name=AGENT, password=PASSWORD, domain_id="default", default_project_id=project.id)
    identity.assign_project_role_to_user(project, user, role)
