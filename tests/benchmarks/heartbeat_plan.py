"""What the processes of the heartbeat benchmark agree on: hosts, their addresses and certificates, and the policy of the controller.

Every host has a name, an address of its own in 127/8 and a certificate of its own, for identity is judged by name. The certificates
share one key pair: making thousands of keys would measure nothing.
"""

from __future__ import annotations

import datetime
import resource
import socket
import ssl
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ha_agent.bounds import host_bounds
from ha_agent.heartbeat import authority, pki
from ha_agent.model import Value
from ha_agent.policy import Detection, Fencing, HostPolicy, Policy, Storm

CONTROLLER = "controller-1"
RACK = 20  # hosts of a failure domain
PER_NETWORK = 250
# The storm guard would hold back the fences that are to be counted.
STORM = Storm(max_hosts=100_000, max_share=1.0, domain_max_hosts=100_000)
PLAN = "plan.json"
SPARE_DESCRIPTORS = 1000


class Plan(Value, frozen=True, kw_only=True):
    """One run. `port`: of every host."""

    hosts: int
    port: int
    detection: Detection = Detection()

    def names(self) -> list[str]:
        """Of all hosts, in order."""
        return [f"compute-{index:05d}" for index in range(self.hosts)]

    def policy(self) -> Policy:
        """As a configuration would give it: all defaults, but for the storm guard."""
        fencing = Fencing(storm=STORM)
        hosts = {
            name: HostPolicy(name=name, domain=f"rack-{index // RACK}", detection=self.detection, fencing=fencing)
            for index, name in enumerate(self.names())
        }
        return Policy(controller=CONTROLLER, hosts=hosts, detection=self.detection, storm=STORM)

    def bound_s(self) -> float:
        """Seconds from the last heartbeat to the alarm, at most, as `config check` prints it."""
        return host_bounds(HostPolicy(name="any", detection=self.detection))[0]


def address(index: int) -> str:
    """Of the host with this number; none of them is 127.0.0.1."""
    network, host = divmod(index, PER_NETWORK)
    return f"127.{20 + network // 250}.{network % 250}.{host + 1}"


def make(directory: Path, hosts: int, detection: Detection) -> Plan:
    """Certificates and the plan, in a new directory."""
    with socket.socket() as sock:
        sock.bind((address(0), 0))
        plan = Plan(hosts=hosts, port=sock.getsockname()[1], detection=detection)
    ours = pki.Pki(directory / "ca")
    ours.init()
    ours.issue("controller", CONTROLLER, directory / "controller")
    issuer = authority.Authority(directory / "ca")
    key = ec.generate_private_key(ec.SECP256R1())
    authority.write_key(directory / "hosts.key", key)
    now = datetime.datetime.now(datetime.UTC)
    (directory / "hosts").mkdir()
    for name in plan.names():
        certificate = issuer.certify("host", name, key.public_key(), now)
        (directory / "hosts" / f"{name}.pem").write_bytes(authority.pem([certificate]))
    (directory / PLAN).write_bytes(msgspec.json.encode(plan))
    return plan


def read(directory: Path) -> Plan:
    """The plan that another process made."""
    return msgspec.json.decode((directory / PLAN).read_bytes(), type=Plan)


def host_context(directory: Path, name: str) -> ssl.SSLContext:
    """As a remote's, without its checks for human errors."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(directory / "hosts" / f"{name}.pem", directory / "hosts.key")
    context.load_verify_locations(directory / "ca" / "ca.pem")
    return context


def der(directory: Path, name: str) -> bytes:
    """A host's certificate, as it signs probes with."""
    certificate = x509.load_pem_x509_certificate((directory / "hosts" / f"{name}.pem").read_bytes())
    return certificate.public_bytes(serialization.Encoding.DER)


def allow_descriptors(needed: int) -> None:
    """Raises the soft limit of open files. Raises SystemExit where the hard one is too low."""
    wanted = needed + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(
            f"the limit of open files is {hard}, {wanted} are needed: raise it (ulimit -Hn), or measure fewer hosts"
        )
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
