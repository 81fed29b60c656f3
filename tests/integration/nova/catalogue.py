"""Keystone's list of services: where this lab's are."""

from __future__ import annotations

from typing import Any

from openstack.connection import Connection

from tests.integration.nova.settings import REGION, Settings


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
