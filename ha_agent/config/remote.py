"""Loads remote.yaml."""

from __future__ import annotations

from pathlib import Path

from ha_agent.config import schema, yamlfile
from ha_agent.config.findings import Findings
from ha_agent.config.load import shaped
from ha_agent.config.places import name_problem, split_listen
from ha_agent.config.values import PkiSettings, RemoteLoaded
from ha_agent.errors import ConfigError
from ha_agent.planes import MAX_PLANES


def load_remote(path: Path | str) -> RemoteLoaded:
    """A remote's configuration. Relative names are looked for beside the file. Raises ConfigError with every problem."""
    path = Path(path).absolute()
    text = yamlfile.read(path)
    findings = Findings(text)
    if not isinstance(text.data, dict):
        raise ConfigError(
            [(str(path), "is empty" if text.data is None else "is not a mapping", "see the commented example")]
        )
    model, _ = shaped(findings, text.data, schema.Remote, {("version",): 1})
    listen = _listen(findings, model.listen)
    if model.name and name_problem(model.name):
        findings.add(("name",), name_problem(model.name), "use the host as `openstack compute service list` names it")
    findings.check()
    beside = path.parent

    def file(name: str | None) -> str:
        return str(beside / name) if name else ""

    return RemoteLoaded(
        path=str(path),
        name=model.name or "",
        user=model.user or "",
        listen=listen[0][0],
        port=listen[0][1],
        listen_also=tuple(listen[1:]),
        pki_directory=str(beside / model.pki.directory),
        pki=PkiSettings(warn_days=model.pki.warn_days, urgent_days=model.pki.urgent_days),
        socket=str(beside / model.socket),
        state_directory=str(beside / model.state_directory),
        machine_file=file(model.machine_file),
        nova_compute_units=tuple(model.health.nova_compute_units),
        libvirt_units=tuple(model.health.libvirt_units),
        health_file=file(model.health.file),
        guests_file=file(model.guests.file),
    )


def _listen(findings: Findings, given: str | list[str]) -> list[tuple[str, int]]:
    """One address:port, or one for each plane."""
    fix = 'write it as "192.0.2.11:7420" (IPv6 in brackets)'
    texts = [given] if isinstance(given, str) else given
    if not 1 <= len(texts) <= MAX_PLANES:
        findings.add(
            ("listen",), f"is a list of {len(texts)}", f"give one address:port, or a list of at most {MAX_PLANES}"
        )
    found: list[tuple[str, int]] = []
    for index, text in enumerate(texts):
        at = split_listen(text)
        where = ("listen",) if isinstance(given, str) else ("listen", index)
        if at is None:
            findings.add(where, "is not address:port", fix)
        elif at in found:
            findings.add(where, "is there twice", "give each address once")
        else:
            found.append(at)
    return found or [("127.0.0.1", 0)]
