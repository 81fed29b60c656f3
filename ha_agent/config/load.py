"""Loads controller.yaml: shape, meaning, presets, templates and overrides; every problem of the file at once."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ha_agent.config import build, merge, notifications, places, rules, schema, yamlfile
from ha_agent.config.devices import Inventory, Secrets, check_fencing
from ha_agent.config.findings import Findings
from ha_agent.config.problems import from_pydantic
from ha_agent.config.values import HostPlace, Loaded, PkiSettings
from ha_agent.config.yamlfile import FieldPath
from ha_agent.errors import ConfigError
from ha_agent.model import Value
from ha_agent.policy import HostPolicy

M = TypeVar("M", bound=schema.Section)
SECTIONS = ("detection", "fencing", "recovery")
# What stands in for a missing required field while the rest of the file is judged.
STAND_INS: dict[FieldPath, Any] = {
    ("version",): 1,
    ("cloud",): "?",
    ("hosts",): {"?": {"address": "?"}},
}


def load(path: Path | str, *, check_files: bool = True, environ: Mapping[str, str] = os.environ) -> Loaded:
    """The configuration in a file. `check_files`: whether files with secrets must exist. Raises ConfigError with every problem."""
    path = Path(path)
    return load_text(yamlfile.read(path), path.absolute(), check_files=check_files, environ=environ)


def loads(raw: str, path: Path | str, *, check_files: bool = True, environ: Mapping[str, str] = os.environ) -> Loaded:
    """The same from a text. `path`: where relative names are looked for, beside it."""
    path = Path(path).absolute()
    return load_text(yamlfile.parse(raw.encode(), str(path)), path, check_files=check_files, environ=environ)


def load_text(text: yamlfile.Text, path: Path, *, check_files: bool, environ: Mapping[str, str]) -> Loaded:
    """The same from a parsed file."""
    findings = Findings(text)
    data = text.data
    if not isinstance(data, dict):
        raise ConfigError(
            [(str(path), "is empty" if data is None else "is not a mapping", "see the commented example")]
        )
    data = {**data, "detection": merge.with_preset(data.get("detection", {}))}
    model, data = shaped(findings, data, schema.Controller, STAND_INS)
    secrets = Secrets(path.parent, environ.get("CREDENTIALS_DIRECTORY", ""), check=check_files)
    return _Builder(findings, data, model, secrets, path).build()


def shaped(
    findings: Findings, data: dict[str, Any], model: type[M], stand_ins: Mapping[FieldPath, Any]
) -> tuple[M, dict[str, Any]]:
    """The data in shape, and what of it could be used. Fields with no usable value are noted and left out, so that the rest can be
    judged as well. Raises ConfigError where nothing is left to judge."""
    data = copy.deepcopy(data)
    for _ in range(8):
        try:
            return model.model_validate(data), data
        except ValidationError as error:
            found = from_pydantic(error, model)
            for each in found:
                if not findings.is_bad(each[0]):
                    findings.unusable(each)
            for path, problem, _fix in reversed(
                found
            ):  # of a list the last entries first: the others keep their places
                _leave_out(data, path, stand_ins, missing=problem == "is missing")
    findings.check()
    raise AssertionError("a file that fits no shape has a problem")


def _leave_out(data: Any, path: FieldPath, stand_ins: Mapping[FieldPath, Any], *, missing: bool) -> None:
    if path in stand_ins:
        data[path[0]] = stand_ins[path]
        return
    if missing:  # what lacks a required field is left out as a whole
        path = path[:-1]
    if path[0] == "overrides" and len(path) == 2:
        data["overrides"][path[1]] = {"match": {"hosts": []}}  # holds for no host; the others keep their numbers
        return
    for part in path[:-1]:
        if not _has(data, (part,)):
            return
        data = data[part]
    last = path[-1]
    if isinstance(data, dict):
        # a YAML key that is no text is named by its text
        for key in [key for key in data if key == last or str(key) == str(last)]:
            del data[key]
    elif _has(data, (last,)):
        del data[last]


class _Effective(Value, frozen=True, kw_only=True):
    """The sections that hold for some hosts: those of one override, or the common ones."""

    detection: Any
    fencing: Any
    recovery: Any


class _Builder:
    def __init__(
        self, findings: Findings, data: dict[str, Any], model: schema.Controller, secrets: Secrets, path: Path
    ) -> None:
        self._findings = findings
        self._data = data
        self._model = model
        self._secrets = secrets
        self._path = path

    def build(self) -> Loaded:
        """The values, or ConfigError."""
        model, findings = self._model, self._findings
        common = _Effective(detection=model.detection, fencing=model.fencing, recovery=model.recovery)
        self._relations(common, None)
        overridden = [self._override(index, each, common) for index, each in enumerate(model.overrides)]
        places.check_hosts(findings, model.hosts)
        matched: set[int | None] = set()
        inventory = Inventory(findings, self._secrets)
        hosts: dict[str, HostPlace] = {}
        policies: dict[str, HostPolicy] = {}
        levels = {}
        compiled: dict[int | None, tuple[Any, ...]] = {}
        used: set[str] = set()
        for name, host in model.hosts.items():
            if findings.is_bad(("hosts", name)) or name == "?":
                continue
            index = merge.first_match(model.overrides, name, host)
            matched.add(index)
            sections = common if index is None else overridden[index]
            levels[name] = inventory.levels(name, host, sections.fencing)
            used.update(device for level in sections.fencing.levels for device in level)
            hosts[name] = build.place(name, host)
            if index not in compiled:
                compiled[index] = (
                    build.detection(sections.detection),
                    build.fencing(sections.fencing, build.storm(model.fencing.storm)),
                    build.recovery(sections.recovery),
                )
            parts = compiled[index]
            policies[name] = HostPolicy(
                name=name,
                place=build.place_text(hosts[name]),
                domain=host.domain,
                planes=tuple(host.planes),
                detection=parts[0],
                fencing=parts[1],
                recovery=parts[2],
            )
        self._levels(common, overridden, matched)
        inventory.finish()
        self._warnings(matched, used)
        bus, hooks, webhooks = (
            notifications.bus(findings, model, self._secrets),
            notifications.hooks(findings, model, self._path.parent, check=self._secrets.checked),
            notifications.webhooks(findings, model, self._secrets, self._path.parent),
        )
        http, store = (
            places.http(findings, model, self._secrets, self._path.parent),
            places.store(findings, model, self._path.parent),
        )
        findings.check()
        return Loaded(
            path=str(self._path),
            cloud=model.cloud,
            policy=build.policy(model, policies),
            hosts=hosts,
            levels=levels,
            pki_directory=str(self._path.parent / model.pki.directory),
            pki=PkiSettings(warn_days=model.pki.warn_days, urgent_days=model.pki.urgent_days),
            bus=bus,
            hooks=hooks,
            webhooks=webhooks,
            http=http,
            store=store,
            warnings=tuple(findings.warnings),
        )

    def _relations(self, sections: _Effective, index: int | None) -> None:
        """For an override only what its own fields break: the common ones have been judged."""
        for broken in rules.relations(
            sections.detection, sections.fencing, sections.recovery, self._model.store.lease_s
        ):
            if index is None:
                self._findings.add(broken.fields[0], broken.problem, broken.fix, *broken.fields[1:])
                continue
            own = [field for field in broken.fields if _has(self._data["overrides"][index], field)]
            if own:
                at = ("overrides", index)
                problem = (
                    broken.problem
                    if own[0] == broken.fields[0]
                    else f"breaks a rule: {yamlfile.dotted(broken.fields[0])} {broken.problem}"
                )
                self._findings.add(
                    (*at, *own[0]), problem, broken.fix, *broken.fields, *((*at, *field) for field in own)
                )

    def _override(self, index: int, override: schema.Override, common: _Effective) -> _Effective:
        result = {}
        if override.fencing.get("storm") is not None:
            self._findings.add(
                ("overrides", index, "fencing", "storm"),
                "cannot be overridden: it counts all hosts",
                "set fencing.storm",
            )
        for section in SECTIONS:
            own = getattr(override, section)
            own = merge.with_preset(own) if section == "detection" else own
            base = self._data.get(section)
            both = merge.merged(base if isinstance(base, dict) else {}, own)
            model: type[schema.Section] = type(getattr(common, section))
            result[section] = self._section(index, section, own, both, model) or getattr(common, section)
        effective = _Effective(**result)
        self._relations(effective, index)
        return effective

    def _section(self, index: int, section: str, own: Any, both: Any, model: type[M]) -> M | None:
        """The merged section; None where it does not fit. Of its problems those that the override brings are told."""
        try:
            return model.model_validate(both)
        except ValidationError as error:
            for path, problem, fix in from_pydantic(error, model):
                if _has(own, path) or (problem == "is missing" and _has(own, path[:-1])):
                    self._findings.unusable((("overrides", index, section, *path), problem, fix))
            return None

    def _levels(self, common: _Effective, overridden: list[_Effective], matched: set[int | None]) -> None:
        needed = None in matched and (common.recovery.mode == "auto" or common.recovery.fence)
        check_fencing(
            self._findings, common.fencing, needed=needed, at=("fencing",), base=True, files=self._secrets.checked
        )
        for index, sections in enumerate(overridden):
            own = self._model.overrides[index].fencing
            fences = index in matched and (sections.recovery.mode == "auto" or sections.recovery.fence)
            if (
                "levels" in own
                or "devices" in own
                or "trusted_levels" in own
                or (fences and not sections.fencing.levels)
            ):
                check_fencing(
                    self._findings,
                    sections.fencing,
                    needed=fences,
                    at=("overrides", index, "fencing"),
                    base="devices" in own,
                    files=self._secrets.checked,
                )

    def _warnings(self, matched: set[int | None], used: set[str]) -> None:
        model, warn = self._model, self._findings.warn
        for index in range(len(model.overrides)):
            if index not in matched:
                warn(("overrides", index), "holds for no host (none matches, or an earlier override matches first)")
        for name in model.fencing.devices:
            if name not in used:
                warn(("fencing", "devices", name), "is in no level of any host")
        if model.detection.witnesses.min > len(model.hosts) - 1:
            warn(
                ("detection", "witnesses", "min"),
                f"{len(model.hosts)} host(s) cannot give {model.detection.witnesses.min} witness(es): nothing would be fenced",
            )
        self._domains()
        if model.fencing.storm.per_domain.max_hosts > model.fencing.storm.max_hosts:
            warn(("fencing", "storm", "per_domain", "max_hosts"), "is above storm.max_hosts, which holds first")
        if model.store.lease_s > 3 * model.detection.down_after_s:
            warn(
                ("store", "lease_s"),
                "is above three times detection.down_after_s: a take-over costs more than the detection",
            )
        if model.guests.watchdog == "auto":
            warn(
                ("guests", "watchdog"),
                "acts as notify in this version: events of guests are announced, none is acted on",
            )

    def _domains(self) -> None:
        """Where more hosts are there than are asked, somebody has to say which of them fail together."""
        hosts, probes = self._model.hosts, self._model.detection.witnesses.probes
        without = [name for name, host in hosts.items() if not host.domain]
        if len(hosts) <= probes + 1 or not without:
            return
        if len(without) == len(hosts):
            text = (
                f"no host has a domain: the witnesses of a host are the next {probes} by name, in its own rack or not, and the storm "
                "guard counts no racks; say where each host stands: hosts.NAME.domain, its rack or power feed"
            )
        else:
            some = ", ".join(without[:3]) + (f" and {len(without) - 3} more" if len(without) > 3 else "")
            text = f"without a domain, and of one for that reason: {some}; say where each stands: hosts.NAME.domain"
        self._findings.warn(("hosts",), text)


def _has(data: Any, path: FieldPath) -> bool:
    """Whether the data says something there."""
    for part in path:
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        if not inside:
            return False
        data = data[part]
    return True
