"""Who is told: the bus, hooks that others cannot change, webhooks with URLs and secrets that can be read."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from ha_agent.config import hookdir, schema
from ha_agent.config.devices import Secrets
from ha_agent.config.findings import Findings
from ha_agent.config.values import BusSettings, HookSettings, WebhookSettings
from ha_agent.config.yamlfile import FieldPath

MAX_FILE = 4096
AT = ("notifications",)
BASE64 = "whsec_"  # before a secret in base64, as Standard Webhooks has it
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def bus(findings: Findings, model: schema.Controller, secrets: Secrets) -> BusSettings:
    """The bus's settings."""
    settings, at = model.notifications.bus, (*AT, "bus")
    url, where = settings.url, (*at, "url")
    if settings.url_file is not None:
        where = (*at, "url_file")
        url = _secret(findings, secrets, settings.url_file, where, "the URL") or "memory://"
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in ("memory", "amqp", "amqps", "pyamqp"):
        findings.add(where, "is not the URL of a bus", 'use "amqp://user@host:5672/vhost", or "memory://" for none')
    if settings.quorum and not settings.durable:
        findings.add(
            (*at, "quorum"),
            "is true, but durable is false: a quorum queue is always durable",
            "use durable: true",
            (*at, "durable"),
        )
    return BusSettings(
        url=url, exchange=settings.exchange, topic=settings.topic, durable=settings.durable, quorum=settings.quorum
    )


def hooks(findings: Findings, model: schema.Controller, directory: Path, *, check: bool) -> HookSettings:
    """The hooks' settings. `directory`: of the configuration."""
    settings, at = model.notifications.hooks, (*AT, "hooks", "directory")
    if settings.directory is None:
        return HookSettings()
    where = directory / settings.directory
    if check:
        try:
            found = hookdir.find(where)
        except OSError as error:
            findings.add(at, f"{where} cannot be read: {error.strerror}", "make the directory, or leave the field out")
        else:
            for name, problem in found.problems:
                findings.add(at, f"{name} is not run: {problem}", "a hook belongs to root, and only root may change it")
            for name in found.left:
                findings.warn(at, f"{name} is not run: it is not executable")
    return HookSettings(directory=str(where), timeout_s=settings.timeout_s)


def webhooks(
    findings: Findings, model: schema.Controller, secrets: Secrets, directory: Path
) -> tuple[WebhookSettings, ...]:
    """The webhooks' settings, in their order."""
    out: list[WebhookSettings] = []
    names: dict[str, int] = {}
    for index, settings in enumerate(model.notifications.webhooks):
        at = (*AT, "webhooks", index)
        url = _url(findings, secrets, settings, at)
        name = settings.name or urlsplit(url).hostname or str(index)
        if not hookdir.NAME.fullmatch(name):
            findings.add((*at, "name"), f"{name!r} is no name", "use letters, digits, _ . and -, at most 64")
        first = names.setdefault(name, index)
        if first != index:
            findings.add((*at, "name"), f"{name} is also webhook {first}", "give each a name of its own")
        secret = b""
        if settings.secret_file is not None:
            where = (*at, "secret_file")
            text = _secret(findings, secrets, settings.secret_file, where, "the secret")
            try:
                secret = _key(text)
            except ValueError:
                findings.add(where, "holds no base64 behind whsec_", "copy the secret as the receiver shows it")
        else:
            findings.warn((*at, "secret_file"), f"{name} is not signed: its receiver cannot know who posts")
        out.append(
            WebhookSettings(
                name=name,
                url=url,
                secret=secret,
                events=tuple(settings.events),
                timeout_s=settings.timeout_s,
                ca_file=_ca_file(findings, settings.ca_file, directory, at, check=secrets.checked),
            )
        )
    return tuple(out)


def _url(findings: Findings, secrets: Secrets, settings: schema.Webhook, at: FieldPath) -> str:
    where, url = (*at, "url"), settings.url or ""
    if (settings.url is None) == (settings.url_file is None):
        findings.add(where, "is needed, or url_file, not both", "use url_file where the URL is a secret")
        return "http://localhost"
    if settings.url_file is not None:
        where = (*at, "url_file")
        url = _secret(findings, secrets, settings.url_file, where, "the URL") or "http://localhost"
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        findings.add(where, "is not a URL", 'use "https://host/path"')
        return "http://localhost"
    if parts.scheme == "http" and host not in LOOPBACK:
        findings.warn(where, "is not https: what is posted can be read on its way")
    return url


def _ca_file(findings: Findings, name: str | None, directory: Path, at: FieldPath, *, check: bool) -> str:
    if name is None:
        return ""
    path = directory / name
    if check:
        try:
            ssl.create_default_context(cafile=str(path))
        except OSError as error:
            why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            findings.add((*at, "ca_file"), f"{path} cannot be used: {why}", "give a file of certificates in PEM")
    return str(path)


def _secret(findings: Findings, secrets: Secrets, name: str, where: FieldPath, what: str) -> str:
    """What a file holds, without blanks around it; empty where it cannot be read or is not looked for."""
    path, problem = secrets.find(name)
    text = ""
    if not problem and (secrets.checked or path.is_file()):
        try:
            text = path.read_text(encoding="utf-8")[:MAX_FILE].strip()
        except (OSError, UnicodeDecodeError):
            problem = f"{path} is not text that can be read"
    if secrets.checked and not problem and not text:
        problem = f"{path} is empty"
    if problem:
        findings.add(
            where, problem, f"make a file that holds {what}, which only the user ha-agent can read (mode 0400)"
        )
    return text


def _key(text: str) -> bytes:
    """The secret as it stands, or base64 behind `whsec_`. Raises ValueError where that is no base64."""
    if text.startswith(BASE64):
        return base64.b64decode(text.removeprefix(BASE64), validate=True)
    return text.encode()
