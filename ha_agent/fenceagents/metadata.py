"""What an agent says of itself: XML for Pacemaker and its shells, valid by ClusterLabs' schema metadata.rng; and help for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from xml.etree import ElementTree

from ha_agent.fenceagents.options import Option


class Described(Protocol):
    """Of an agent, what its metadata needs. `actions` without metadata and validate-all, which every agent has."""

    @property
    def name(self) -> str: ...
    @property
    def shortdesc(self) -> str: ...
    @property
    def longdesc(self) -> str: ...
    @property
    def options(self) -> Sequence[Option]: ...
    @property
    def actions(self) -> Sequence[str]: ...


EVERY = ("metadata", "validate-all")


def xml(agent: Described) -> str:
    """The metadata, one document."""
    root = ElementTree.Element("resource-agent", name=agent.name, shortdesc=agent.shortdesc)
    ElementTree.SubElement(root, "longdesc").text = agent.longdesc
    ElementTree.SubElement(root, "vendor-url").text = ""
    parameters = ElementTree.SubElement(root, "parameters")
    for option in agent.options:
        _parameter(parameters, option, option.name, obsoletes=option.aliases[0] if option.aliases else "")
        for alias in option.aliases:
            _parameter(parameters, option, alias, deprecated=True)
    actions = ElementTree.SubElement(root, "actions")
    for action in (*agent.actions, *EVERY):
        # A host is never unfenced behind the operator's back: `on` is asked for.
        ElementTree.SubElement(actions, "action", {"name": action, **({"automatic": "0"} if action == "on" else {})})
    ElementTree.indent(root, "\t")
    return '<?xml version="1.0" ?>\n' + ElementTree.tostring(root, encoding="unicode")


def _parameter(
    parent: ElementTree.Element, option: Option, name: str, *, obsoletes: str = "", deprecated: bool = False
) -> None:
    element = ElementTree.SubElement(
        parent,
        "parameter",
        {
            "name": name,
            "unique": "0",
            "required": str(int(option.required and not deprecated)),
            **({"obsoletes": obsoletes} if obsoletes else {}),
            **({"deprecated": "1"} if deprecated else {}),
        },
    )
    ElementTree.SubElement(element, "getopt", mixed=option.usage)
    default = {"default": option.default} if option.default else {}
    content = ElementTree.SubElement(element, "content", {"type": option.kind, **default})
    for choice in option.choices:
        ElementTree.SubElement(content, "option", value=choice)
    ElementTree.SubElement(element, "shortdesc", lang="en").text = option.help


def usage(agent: Described) -> str:
    """For -h."""
    lines = [
        f"{agent.name}: {agent.shortdesc}",
        "",
        agent.longdesc,
        "",
        f"actions: {', '.join((*agent.actions, *EVERY))}",
        "exit codes: 0 done (status: it is on) · 2 status: it is off · 1 anything else",
        "",
        "options, on the command line or as name=value lines on stdin:",
    ]
    for option in agent.options:
        default = f" (default: {option.default})" if option.default else ""
        lines += [f"  {option.usage or option.name + '=…, on stdin only'}", f"      {option.help}{default}"]
    return "\n".join([*lines, "  -h, --help", "  -V, --version"])
