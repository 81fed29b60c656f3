"""Glance, Neutron and Cinder, as far as Nova asks them here: `python stand_ins.py PORT IMAGE`

One image; no networks and no ports; every volume that is asked for exists, and is attached to whomever asks. Nothing is kept. Only the
standard library is used: it runs in Nova's environment as in any other.
"""

from __future__ import annotations

import json
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Answer = tuple[int, Any]
MISSING: Answer = (404, {"itemNotFound": {"code": 404, "message": "the stand-in does not know this"}})
NEVER = "2020-01-01T00:00:00Z"


def image(method: str, path: list[str], body: Any) -> Answer:
    """Glance."""
    found = {
        "id": IMAGE,
        "name": "lab-image",
        "status": "active",
        "visibility": "public",
        "disk_format": "raw",
        "container_format": "bare",
        "size": 1,
        "min_disk": 0,
        "min_ram": 0,
        "created_at": NEVER,
        "updated_at": NEVER,
        "tags": [],
        "self": f"/v2/images/{IMAGE}",
        "file": f"/v2/images/{IMAGE}/file",
        "schema": "/v2/schemas/image",
    }
    match method, path:
        case "GET", []:
            return 300, versions("image", "v2.9")
        case "GET", ["versions"]:
            return 200, versions("image", "v2.9")
        case "GET", ["v2", "schemas", "image"]:
            links = [{"rel": "self", "href": "{self}"}]
            return 200, {
                "name": "image",
                "properties": {key: {} for key in found},
                "additionalProperties": {},
                "links": links,
            }
        case "GET", ["v2", "images"]:
            return 200, {"images": [found], "first": "/v2/images", "schema": "/v2/schemas/images"}
        case "GET", ["v2", "images", id] if id == IMAGE:
            return 200, found
    return MISSING


def network(method: str, path: list[str], body: Any) -> Answer:
    """Neutron: every list is empty."""
    match method, path:
        case "GET", []:
            return 200, versions("network", "v2.0")
        case "GET", ["v2.0"]:
            return 200, {"resources": []}
        case "GET", ["v2.0", "quotas", _]:
            return 200, {"quota": {}}
        case "GET", ["v2.0", listed]:
            return 200, {listed.replace("-", "_"): []}
    return MISSING


def volume(method: str, path: list[str], body: Any) -> Answer:
    """Cinder. It would refuse a second writer; Nova asks it in a way that lets it."""
    match method, path:
        case "GET", [] | ["v3"]:
            shown = versions("volume", "v3")["versions"][0]
            return 300, {"versions": [{**shown, "id": "v3.0", "version": "3.71", "min_version": "3.0"}]}
        case "GET", ["v3", "volumes", id]:
            return 200, {"volume": {"id": id, "status": "available", **VOLUME}}
        case "POST", ["v3", "attachments"]:
            return 200, {"attachment": attachment(str(uuid.uuid4()), body["attachment"])}
        case "PUT", ["v3", "attachments", id]:
            return 200, {"attachment": attachment(id, body["attachment"])}
        case "GET", ["v3", "attachments", id]:
            return 200, {"attachment": attachment(id, {})}
        case "POST", ["v3", "attachments", _, "action"]:
            return 202, {}
        case "POST", ["v3", "volumes", _, "action"]:
            return 202, {}
        case "DELETE", ["v3", "attachments", _]:
            return 200, {"attachments": []}
        case "GET", ["v3", listed] | ["v3", listed, "detail"]:
            return 200, {listed: []}
    return MISSING


VOLUME = {
    "size": 1,
    "bootable": "true",
    "multiattach": False,
    "availability_zone": "nova",
    "created_at": NEVER,
    "attachments": [],
    "name": "",
    "description": "",
    "volume_type": None,
    "snapshot_id": None,
    "metadata": {},
    "volume_image_metadata": {},
    "shared_targets": False,
    "service_uuid": None,
    "migration_status": None,
    "encrypted": False,
}


def attachment(id: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Attached as soon as it is asked for."""
    return {
        "id": id,
        "status": "attached",
        "volume_id": asked.get("volume_uuid", ""),
        "instance": asked.get("instance_uuid", ""),
        "connection_info": {"driver_volume_type": "fake", "data": {}},
        "attached_at": NEVER,
        "detached_at": None,
        "attach_mode": "rw",
    }


def versions(service: str, id: str) -> dict[str, Any]:
    """What a client learns first."""
    link = {
        "rel": "self",
        "href": f"http://127.0.0.1:{PORT}/{service}/{id.partition('.')[0] if service == 'image' else id}/",
    }
    return {"versions": [{"id": id, "status": "CURRENT", "links": [link]}]}


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says which service."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Any request."""
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        service, *path = [part for part in urlsplit(self.path).path.split("/") if part] or [""]
        serve = {"image": image, "network": network, "volume": volume}.get(service)
        method = "GET" if self.command == "HEAD" else self.command
        status, body = serve(method, path, json.loads(sent or b"null")) if serve else MISSING
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer


class Server(ThreadingHTTPServer):
    """A burst of evacuations asks much at once."""

    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    PORT, IMAGE = int(sys.argv[1]), sys.argv[2]
    Server(("127.0.0.1", PORT), Handler).serve_forever()
